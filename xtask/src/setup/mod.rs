//! Installs what is missing, each part for its own reason, and says so; what is there is left alone.

pub mod bpf_linker;
pub mod cargo_fuzz;
pub mod ebpf_toolchain;
pub mod onnxruntime;
pub mod packages;

use anyhow::Result;

/// What the kernel programs are built with.
pub struct EbpfTools {
    /// Compiler with the sources of `core`.
    pub toolchain: ebpf_toolchain::Toolchain,
    /// The linker's path.
    pub linker: std::path::PathBuf,
}

/// Finds the tools for the kernel programs, or installs them.
pub fn ebpf() -> Result<EbpfTools> {
    Ok(EbpfTools { toolchain: ebpf_toolchain::ensure()?, linker: bpf_linker::ensure()? })
}
