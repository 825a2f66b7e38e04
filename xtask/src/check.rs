//! Runs all checks: format, lints, tests.

use std::process::Command;

use anyhow::{Result, bail};

use crate::build;
use crate::command::{self, install, is_root, run};
use crate::deny;
use crate::ebpf;
use crate::fuzz;
use crate::glibc;
use crate::house;
use crate::notices;
use crate::python;
use crate::setup::{self, packages};
use crate::text;
use crate::workspace;

/// Format and lints, then every test against the release build, as it is shipped.
pub fn test() -> Result<()> {
    if !is_root() {
        // A test that needs the kernel and did not run must not look like one that passed.
        bail!(
            "the tests attach kernel programs, so they need root: sudo --preserve-env=PATH,HOME cargo xtask test"
        );
    }
    build::all()?;
    glibc::check()?;
    packages::ensure(packages::TESTS)?;
    ebpf::run(&ebpf::EbpfOptions { check: true })?;
    lint()?;
    // The shipped profile: the tests find the agent and ONNX Runtime beside them.
    run(cargo().args(["test", "--release", "--no-fail-fast"]).arg(build::EVERYTHING))
}

/// Format and lints of all crates and all Python; a warning is an error.
pub fn lint() -> Result<()> {
    ensure_component("rustfmt")?;
    ensure_component("clippy")?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["fmt", "--manifest-path", fuzz::MANIFEST, "--check"]))?;
    python::lint()?;
    text::lint()?;
    house::check()?;
    notices::check()?;
    deny::lint()?;
    let clippy = ["clippy", "--release", "--all-targets", "--quiet", build::EVERYTHING];
    run(cargo().args(clippy).args(["--", "--deny", "warnings"]))?;
    let mut command = ebpf::cargo(&setup::ebpf()?, "clippy")?;
    run(command.args(["--quiet", "--features", "test-programs", "--", "--deny", "warnings"]))?;
    run(cargo()
        .args(["doc", "--release", "--no-deps", "--document-private-items", "--quiet"])
        .arg(build::EVERYTHING)
        .env("RUSTDOCFLAGS", "--deny warnings"))
}

fn cargo() -> Command {
    let mut command = command::cargo();
    command.current_dir(workspace::root());
    command
}

/// A part of the Rust toolchain that some installations leave out.
fn ensure_component(name: &str) -> Result<()> {
    let there = |word: &str| command::output(cargo().args([word, "--version"])).is_some();
    let word = if name == "rustfmt" { "fmt" } else { name };
    if there(word) {
        return Ok(());
    }
    install(&format!("{name}, which the lints need"), Command::new("rustup").args(["component", "add", name]))
}
