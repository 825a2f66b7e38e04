//! Builds the agent, which embeds the committed kernel programs.

use anyhow::Result;

use crate::command::{self, run};
use crate::ebpf;
use crate::setup;
use crate::workspace;

/// Every package: also those that plain cargo leaves out, which need root or measure.
pub const EVERYTHING: &str = "--workspace";

/// Builds everything but the kernel programs, in release mode.
///
/// # Errors
/// The committed kernel programs are older than their sources, a download failed, or something does not compile.
pub fn all() -> Result<()> {
    ebpf::fresh_manifest(workspace::root())?;
    run(command::cargo().args(["build", "--release"]).arg(EVERYTHING).current_dir(workspace::root()))?;
    setup::onnxruntime::ensure()
}
