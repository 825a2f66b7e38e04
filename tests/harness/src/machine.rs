//! Who may use the machine just now: tests run side by side in one process, but some must have it for themselves.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{is_root, not_run};

static MACHINE: RwLock<()> = RwLock::new(());

/// Holds the machine for a test until dropped.
#[derive(Debug)]
pub struct Machine {
    _hold: Hold,
}

/// What is held is only dropped.
#[derive(Debug)]
enum Hold {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// The machine, beside other tests that share it; None without root, which is said, and fails in CI.
///
/// A test begins with `let Some(_machine) = machine::shared("what is not shown") else { return Ok(()) };`. It asks once: a
/// second request by the same thread could wait for itself.
///
/// # Panics
/// If `CI=true` and the process is not root: a test that did not run must not look like one that passed.
pub fn shared(what: &str) -> Option<Machine> {
    root(what).then(|| {
        let guard = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        Machine { _hold: Hold::Shared { _guard: guard } }
    })
}

/// The machine for this test alone: it measures time or memory, or keeps all CPUs busy. Otherwise as [`shared`].
///
/// # Panics
/// As [`shared`].
pub fn alone(what: &str) -> Option<Machine> {
    root(what).then(|| {
        let guard = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        Machine { _hold: Hold::Alone { _guard: guard } }
    })
}

fn root(what: &str) -> bool {
    let root = is_root();
    if !root {
        not_run(&format!("it needs root to make network namespaces and attach programs; not shown: {what}"));
    }
    root
}
