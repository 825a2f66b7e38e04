//! A Rust compiler for the BPF target with the sources of `core`, which no distribution ships compiled.
//!
//! Two kinds are known: a pinned nightly of rustup, and the compiler that Debian keeps for its web browsers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::command::{self, find, install};

/// The nightly that is asked for: its LLVM is not newer than the linker's (see [`super::bpf_linker`]).
const NIGHTLY: &str = "nightly-2026-05-20";
/// What is asked for beside the compiler: the sources of `core`, and the lints.
const COMPONENTS: &str = "rust-src,clippy";
/// Debian's compiler and sources.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "rust-web-clippy"];
/// Where Debian's compiler lies.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The oldest compiler that understands the sources, as in the workspace's `rust-version`.
const OLDEST_MINOR: u32 = 95;

/// A compiler that can build the kernel programs.
#[derive(Clone, Debug)]
pub enum Toolchain {
    /// A toolchain of rustup, by its name.
    Rustup(String),
    /// A compiler of the distribution.
    System(PathBuf),
}

impl Toolchain {
    /// Cargo's `verb` with this compiler, and leave to use unstable features.
    pub fn cargo(&self, verb: &str) -> Command {
        match self {
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, "cargo", verb]);
                // Set by the cargo that runs us, and meant for that one's compiler.
                for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
                    command.env_remove(variable);
                }
                command
            }
            Self::System(rustc) => {
                // Clippy is a second compiler, which must be this one's: it lies beside its own cargo command.
                let mut command = match verb {
                    "clippy" => Command::new(rustc.with_file_name("cargo-clippy")),
                    _ => command::cargo(),
                };
                command.arg(verb).env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

impl Toolchain {
    /// What the compiler says of itself: its version, with its commit's date where it has one.
    ///
    /// # Errors
    /// It does not start.
    pub fn version(&self) -> Result<String> {
        command::output(self.rustc().arg("--version")).context("the compiler does not tell its version")
    }

    /// The folder that holds its libraries and sources.
    ///
    /// # Errors
    /// It does not start.
    pub fn sysroot(&self) -> Result<PathBuf> {
        let printed = command::output(self.rustc().args(["--print", "sysroot"]));
        printed.map(PathBuf::from).context("the compiler does not tell where its libraries are")
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, "rustc"]);
                command
            }
            Self::System(rustc) => Command::new(rustc),
        }
    }
}

/// Finds a toolchain, or installs one.
pub fn ensure() -> Result<Toolchain> {
    if let Some(found) = find_rustup().or_else(find_debian) {
        return Ok(found);
    }
    let mut tried = Vec::new();
    if find("rustup").is_some() {
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"]);
        command.args(["--component", COMPONENTS]);
        match install("a nightly Rust with the sources of `core`, for the kernel programs", &mut command) {
            Ok(()) => match find_rustup() {
                Some(found) => return Ok(found),
                None => tried.push(format!("rustup installed {NIGHTLY}, but without the sources of `core`")),
            },
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    if packages::has_apt() {
        for reason in &tried {
            eprintln!("{reason}\nThe distribution's compiler is tried instead.");
        }
        match packages::apt(
            "Debian's Rust with the sources of `core`, for the kernel programs",
            &DEBIAN_PACKAGES,
        ) {
            Ok(()) => match find_debian() {
                Some(found) => return Ok(found),
                None => {
                    tried.push(format!("{DEBIAN_RUSTC} is older than 1.{OLDEST_MINOR}, or has no sources"))
                }
            },
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    bail!(
        "there is no compiler for the kernel programs. {}\nWith rustup it is: rustup toolchain install {NIGHTLY} \
         --component {COMPONENTS}",
        tried.join("\n")
    )
}

fn find_rustup() -> Option<Toolchain> {
    let sysroot =
        command::output(Command::new("rustup").args(["run", NIGHTLY, "rustc", "--print", "sysroot"]))?;
    let clippy = Path::new(&sysroot).join("bin/clippy-driver").is_file();
    (has_core(&sysroot) && clippy).then(|| Toolchain::Rustup(NIGHTLY.to_owned()))
}

fn find_debian() -> Option<Toolchain> {
    let sysroot = command::output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))?;
    let version = command::output(Command::new(DEBIAN_RUSTC).arg("--version"))?;
    let minor: u32 = version.split(['.', ' ']).nth(2)?.parse().ok()?;
    let clippy = Path::new(DEBIAN_RUSTC).with_file_name("cargo-clippy").is_file();
    (minor >= OLDEST_MINOR && has_core(&sysroot) && clippy).then(|| Toolchain::System(DEBIAN_RUSTC.into()))
}

fn has_core(sysroot: &str) -> bool {
    Path::new(sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}
