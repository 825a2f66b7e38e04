//! Helpers shared by the demo and the tests of the whole.
//!
//! Reading order:
//!
//! 1. [`netns`]: network namespaces, removed when their guard is dropped.
//! 2. [`frames`]: builds frames header by header.
//! 3. [`replay`]: sends frames out of an interface, as recorded or as fast as it goes.
//! 4. [`agent`]: runs the `flowmeter` binary as its users do.
//! 5. [`row`]: reads its log.
//! 6. [`tap`]: counts the same packets by other means; [`inspector`]: captures what FlowMeter lets through to it.
//! 7. [`fixtures`]: small captures, each of one hard case; [`corpora`]: large collections of found ones.
//! 8. [`packets`]: sequences of parsed packets, made of any bytes.
//! 9. [`test_programs`]: the kernel programs without an interface; [`programs`]: puts recorded packets through them.
//! 10. [`onnx`]: changes and makes model files.
//!
//! Nothing here touches the machine's own interfaces: traffic stays in namespaces that the caller makes.

pub mod agent;
pub mod corpora;
pub mod fixtures;
pub mod frames;
pub mod inspector;
pub mod netns;
pub mod onnx;
pub mod packets;
pub mod programs;
pub mod replay;
pub mod row;
pub mod tap;
pub mod test_programs;

use std::path::PathBuf;

/// True if this process may do what only root may.
pub fn is_root() -> bool {
    // SAFETY: no arguments, no failure.
    unsafe { libc::geteuid() == 0 }
}

/// True if this process may make namespaces and attach programs. In CI it must, so there it fails otherwise.
///
/// A test begins with `if !require_root("what is not shown") { return; }`.
///
/// # Panics
/// If `CI=true` and the process is not root: a test that did not run must not look like one that passed.
pub fn require_root(what: &str) -> bool {
    if is_root() {
        return true;
    }
    not_run(&format!("it needs root to make network namespaces and attach programs; not shown: {what}"));
    false
}

/// True if a program that a test drives is installed. In CI it must be, as for [`require_root`].
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

/// The folder of the recorded sample.
pub fn sample_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sample")
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
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(kind).with_extension("onnx")
}
