//! Runs the compiler of the kernel programs, in such a way that the same sources give the same bytes everywhere.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::run;
use crate::setup::EbpfTools;
use crate::workspace;

/// The BPF target of little-endian machines.
const TARGET: &str = "bpfel-unknown-none";
/// The package of the kernel programs.
const PACKAGE: &str = "flowmeter-ebpf";
/// How they are compiled, but for paths. The third version of the instruction set brought atomic compare-exchange. Line
/// information and types go into the object, for the verifier's messages and the kernel's records.
pub const FLAGS: [&str; 3] = ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Builds the programs with cargo's further `words`, and reads the object.
///
/// # Errors
/// They do not compile.
pub fn object(tools: &EbpfTools, words: &[&str]) -> Result<Vec<u8>> {
    run(cargo(tools, "build")?.arg("--quiet").args(words))?;
    let built = target().join(TARGET).join("release").join(PACKAGE);
    fs::read(&built).with_context(|| format!("cannot read {}", built.display()))
}

/// Cargo for the kernel programs: `build` or `clippy`.
///
/// # Errors
/// The compiler does not tell where its sources are.
pub fn cargo(tools: &EbpfTools, verb: &str) -> Result<Command> {
    let mut flags: Vec<OsString> = FLAGS.map(OsString::from).into();
    for (path, name) in machine_paths(tools)? {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(path);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    let mut command = tools.toolchain.cargo(verb);
    command.args(["--release", "--locked", "--package", PACKAGE, "--target", TARGET, "-Zbuild-std=core"]);
    // A folder of its own: the two compilers would throw each other's results away.
    command.arg("--target-dir").arg(target());
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\u{1f}")));
    // Not among the flags: its path would count among what the crates are made of.
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker);
    command.current_dir(workspace::root());
    Ok(command)
}

/// Folders that differ from machine to machine, and what stands for them in an object.
fn machine_paths(tools: &EbpfTools) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut paths = vec![
        (workspace::root().to_owned(), "flowmeter"),
        (tools.toolchain.sysroot()?.join("lib/rustlib/src/rust"), "rust"),
    ];
    // Cargo names the folder after the registry's address, which is a mirror's on some machines.
    let registries = cargo_home().map(|home| home.join("registry/src"));
    for folder in registries.iter().flat_map(fs::read_dir).flatten().flatten() {
        paths.push((folder.path(), "registry"));
    }
    Ok(paths)
}

/// Where cargo keeps what it fetched.
fn cargo_home() -> Option<PathBuf> {
    let home = |home| Path::new(&home).join(".cargo");
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| std::env::var_os("HOME").map(home))
}

fn target() -> PathBuf {
    workspace::target().join("ebpf")
}
