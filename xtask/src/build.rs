//! Builds the kernel programs, then the agent, which embeds them.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::bpf_stamp;
use crate::command::{self, run};
use crate::setup::{self, EbpfTools};
use crate::workspace;

/// The BPF target of little-endian machines.
const TARGET: &str = "bpfel-unknown-none";
/// What the kernel programs need of the instruction set: atomic compare-exchange came with its third version.
const CPU: &str = "v3";
/// The package of the kernel programs.
pub const PACKAGE: &str = "flowmeter-ebpf";
/// Cargo's words for every package of this machine's target, the demo, benchmarks and privileged tests included.
pub const EVERYTHING: [&str; 3] = ["--workspace", "--exclude", PACKAGE];

/// Builds everything, in release mode.
pub fn all() -> Result<()> {
    kernel_programs()?;
    setup::onnxruntime::ensure()?;
    run(command::cargo().args(["build", "--release"]).args(EVERYTHING).current_dir(workspace::root()))
}

/// Builds the kernel programs, unless their sources are those of the last build.
pub fn kernel_programs() -> Result<()> {
    let root = workspace::root();
    let (object, stamp) = (root.join(bpf_stamp::OBJECT), root.join(bpf_stamp::STAMP));
    let test_programs = root.join(bpf_stamp::TEST_OBJECT);
    let sources = bpf_stamp::fingerprint(root).context("cannot read the sources of the kernel programs")?;
    let stamped = fs::read_to_string(&stamp).is_ok_and(|built| built == sources);
    if stamped && object.is_file() && test_programs.is_file() {
        return Ok(());
    }
    let tools = setup::ebpf()?;
    build_object(&tools, &[], &object)?;
    build_object(&tools, &["--features", "test-programs"], &test_programs)?;
    fs::write(&stamp, &sources).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Builds the programs with cargo's further `words`, and puts the object at `path`.
fn build_object(tools: &EbpfTools, words: &[&str], path: &Path) -> Result<()> {
    run(ebpf_cargo(tools, "build").arg("--quiet").args(words))?;
    let built = ebpf_target().join(TARGET).join("release").join(PACKAGE);
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // An object that has not changed keeps its time, so that the agent is not built again for a comment.
        if !fs::read(path).is_ok_and(|old| old == bytes) {
            fs::write(path, &bytes)?;
        }
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Cargo for the kernel programs: `build` or `clippy`.
pub fn ebpf_cargo(tools: &EbpfTools, verb: &str) -> Command {
    let mut linker = OsString::from("-Clinker=");
    linker.push(&tools.linker);
    // Line information and types go into the object, for the verifier's messages and the kernel's records.
    let flags =
        [format!("-Ctarget-cpu={CPU}").into(), "-Cdebuginfo=2".into(), "-Clink-arg=--btf".into(), linker];
    let mut command = tools.toolchain.cargo(verb);
    command.args(["--release", "--package", PACKAGE, "--target", TARGET, "-Zbuild-std=core"]);
    // A folder of its own: the two compilers would throw each other's results away.
    command.arg("--target-dir").arg(ebpf_target());
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\u{1f}")));
    command.current_dir(workspace::root());
    command
}

fn ebpf_target() -> std::path::PathBuf {
    workspace::target().join("ebpf")
}
