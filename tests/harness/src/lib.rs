//! What the tests of the whole, the demo and the benchmarks share.
//!
//! Reading order:
//!
//! 1. [`machine`]: which tests may run side by side; [`netns`]: network namespaces, removed when their guard is dropped.
//! 2. [`frames`]: builds frames header by header.
//! 3. [`replay`]: sends frames out of an interface, as recorded or as fast as it goes.
//! 4. [`agent`]: runs the `flowmeter` binary as its users do; [`cable`]: between a sender and a watched host.
//! 5. [`row`]: reads its log; [`table`]: reads its tables.
//! 6. [`tap`]: counts the same packets by other means; [`inspector`]: captures what FlowMeter lets through to it.
//! 7. [`fixtures`]: small captures, each of one hard case; [`corpora`]: large collections of found ones.
//! 8. [`packets`]: sequences of parsed packets, made of any bytes.
//! 9. [`test_programs`]: the kernel programs without an interface; [`programs`]: puts recorded packets through them.
//! 10. [`onnx`]: changes and makes model files.
//!
//! Nothing here touches the machine's own interfaces: traffic stays in namespaces that the caller makes.

pub mod agent;
pub mod cable;
pub mod corpora;
pub mod fixtures;
pub mod frames;
pub mod inspector;
pub mod machine;
pub mod netns;
pub mod onnx;
pub mod packets;
pub mod programs;
pub mod replay;
pub mod row;
pub mod table;
pub mod tap;
pub mod test_programs;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowmeter::model::Runtime;

/// How long something may take to happen on a machine that is busy with other work.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
///
/// # Errors
/// It cannot be asked for, or does not hold within a minute.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < limit, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// ONNX Runtime, of which a process can have one; None without its library, which is said.
///
/// # Panics
/// If `CI=true` and the library is missing.
pub fn runtime() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<std::result::Result<Runtime, String>> = OnceLock::new();
    let loaded = RUNTIME.get_or_init(|| Runtime::load(None).map_err(|error| format!("{error:#}")));
    if let Err(why) = loaded {
        not_run(why);
    }
    loaded.as_ref().ok()
}

/// A small file that once gave a wrong or harmful answer, under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fixtures", name].iter().collect()
}

/// True if this process may do what only root may.
pub fn is_root() -> bool {
    // SAFETY: no arguments, no failure.
    unsafe { libc::geteuid() == 0 }
}

/// True if a program that a test drives is installed. In CI it must be.
///
/// # Panics
/// If `CI=true` and it is missing.
pub fn require_program(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    if !found {
        not_run(&format!("the program `{name}` is not installed"));
    }
    found
}

/// Says that a test did not run, or fails it in CI: it must not look like one that passed.
fn not_run(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
    // Written past the test harness, which keeps the output of passing tests to itself.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("NOT RUN: {why}\n").as_bytes());
}

/// The folder `tests` of the repository.
fn tests_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder of the models that ship, and of what is compared with them.
pub fn shipped_models() -> PathBuf {
    tests_folder().join("../models")
}

/// The folder of the recorded sample.
pub fn sample_folder() -> PathBuf {
    tests_folder().join("sample")
}

/// A script that computes the same by other means, in Python.
pub fn independent(script: &str) -> PathBuf {
    tests_folder().join("independent").join(script)
}

/// The captures of the recorded sample, by name.
///
/// # Errors
/// The folder cannot be read, or has too few.
pub fn samples() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sample_folder())? {
        found.push(entry?.path());
    }
    found.retain(|path| path.to_string_lossy().ends_with(".pcap.zst"));
    found.sort();
    anyhow::ensure!(found.len() >= 20, "{} captures in the sample", found.len());
    Ok(found)
}

/// A small model that a library wrote, see `training/examples`.
pub fn example_model(kind: &str) -> PathBuf {
    tests_folder().join("models").join(kind).with_extension("onnx")
}
