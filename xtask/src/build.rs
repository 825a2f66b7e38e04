//! Builds the kernel programs, then the agent, which embeds them.

use std::ffi::OsString;
use std::fs;
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

/// Builds everything, in release mode.
pub fn all() -> Result<()> {
    kernel_programs()?;
    setup::onnxruntime::ensure()?;
    run(command::cargo().args(["build", "--release"]).current_dir(workspace::root()))
}

/// Builds the kernel programs, unless their sources are those of the last build.
pub fn kernel_programs() -> Result<()> {
    let root = workspace::root();
    let (object, stamp) = (root.join(bpf_stamp::OBJECT), root.join(bpf_stamp::STAMP));
    let sources = bpf_stamp::fingerprint(root).context("cannot read the sources of the kernel programs")?;
    if object.is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == sources) {
        return Ok(());
    }
    let tools = setup::ebpf()?;
    run(ebpf_cargo(&tools, "build").arg("--quiet"))?;
    let built = ebpf_target().join(TARGET).join("release").join(PACKAGE);
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let write = || -> std::io::Result<()> {
        if let Some(folder) = object.parent() {
            fs::create_dir_all(folder)?;
        }
        // An object that has not changed keeps its time, so that the agent is not built again for a comment.
        if !fs::read(&object).is_ok_and(|old| old == bytes) {
            fs::write(&object, &bytes)?;
        }
        fs::write(&stamp, &sources)
    };
    write().with_context(|| format!("cannot write {}", object.display()))
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
