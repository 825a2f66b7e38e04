//! bpf-linker, pinned: turns LLVM's intermediate code into one BPF object. Its LLVM must not be older than the compiler's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::packages;
use crate::command::{self, find, install};

/// The version that is installed; another one with the same first two numbers does as well.
const VERSION: &str = "0.13.0";
/// The LLVM that it is built with.
const LLVM: &str = "22";
/// Debian's packages with that LLVM.
const PACKAGES: [&str; 2] = ["llvm-22-dev", "libclang-22-dev"];
/// Libraries that LLVM's are linked with, and a C++ compiler for its bindings.
const LIBRARIES: [&str; 3] = ["g++", "zlib1g-dev", "libzstd-dev"];

/// Finds the linker, or installs it.
pub fn ensure() -> Result<PathBuf> {
    if let Some(found) = find_linker() {
        return Ok(found);
    }
    install_linker().with_context(|| {
        format!(
            "bpf-linker {VERSION} cannot be built; a built one comes by: cargo binstall bpf-linker@{VERSION}"
        )
    })?;
    find_linker().with_context(|| {
        format!("bpf-linker {VERSION} was installed, but is not found in cargo's bin folder")
    })
}

fn install_linker() -> Result<()> {
    let prefix = match find_llvm() {
        Some(prefix) => prefix,
        None => {
            let packages: Vec<&str> = PACKAGES.into_iter().chain(LIBRARIES).collect();
            packages::apt(&format!("LLVM {LLVM}, with which bpf-linker is built"), &packages)?;
            find_llvm()
                .with_context(|| format!("LLVM {LLVM} was installed, but llvm-config-{LLVM} is not found"))?
        }
    };
    let mut command = command::cargo();
    command.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"]);
    command.args(["--features", &format!("llvm-{LLVM}")]).env("LLVM_PREFIX", prefix);
    // The target folder of whoever runs us is not the place for another project's build.
    command.env_remove("CARGO_TARGET_DIR");
    install("bpf-linker, which links the kernel programs (some minutes)", &mut command)
}

/// Where LLVM is installed.
fn find_llvm() -> Option<PathBuf> {
    let config = format!("llvm-config-{LLVM}");
    command::output(Command::new(config).arg("--prefix")).map(PathBuf::from)
}

fn find_linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let own = home.map(|home| home.join("bin/bpf-linker"));
    let series = VERSION.rsplit_once('.').map_or(VERSION, |(series, _)| series);
    find("bpf-linker").into_iter().chain(own).find(|path| {
        let version = command::output(Command::new(path).arg("--version")).unwrap_or_default();
        version
            .split_whitespace()
            .any(|word| word.strip_prefix(series).is_some_and(|rest| rest.starts_with('.')))
    })
}
