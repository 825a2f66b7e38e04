//! Installs what is missing, each part for its own reason, and says so; what is there is left alone.

pub mod bpf_linker;
pub mod cargo_fuzz;
pub mod ebpf_toolchain;
pub mod onnxruntime;
pub mod packages;

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;

/// What the kernel programs are built with.
pub struct EbpfTools {
    /// Compiler with the sources of `core`.
    pub toolchain: ebpf_toolchain::Toolchain,
    /// The linker's path.
    pub linker: std::path::PathBuf,
}

impl EbpfTools {
    /// What compiler and linker say of themselves.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn versions(&self) -> Result<(String, String)> {
        let linker = command::output(Command::new(&self.linker).arg("--version"));
        Ok((self.toolchain.version()?, linker.context("bpf-linker does not tell its version")?))
    }
}

/// Finds the tools for the kernel programs, or installs them.
pub fn ebpf() -> Result<EbpfTools> {
    Ok(EbpfTools { toolchain: ebpf_toolchain::ensure()?, linker: bpf_linker::ensure()? })
}
