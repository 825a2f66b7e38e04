//! Runs the fuzz targets of `fuzz/`: each for a while, from the hard cases of the tests.

use std::num::NonZeroU32;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::command::{self, run as run_command};
use crate::setup::cargo_fuzz;
use crate::{build, workspace};

/// The targets' manifest, from the workspace's root.
pub const MANIFEST: &str = "fuzz/Cargo.toml";
/// A target, and the longest input it is given: what is longer shows nothing new and takes longer.
const TARGETS: [(&str, u32); 3] = [("frame", 512), ("capture", 8192), ("flows", 6144)];
/// An input that takes longer is a finding, seconds.
const PATIENCE: u32 = 10;
/// A target that grows beyond this is a finding, MiB.
const MEMORY: u32 = 1024;

/// How long, and what.
#[derive(Args)]
pub struct FuzzOptions {
    /// How long each target runs, in seconds.
    #[arg(long, default_value = "60", value_name = "N")]
    seconds: NonZeroU32,
    /// The targets; all, if none is named.
    #[arg(value_name = "TARGET", value_parser = TARGETS.map(|(name, _)| name))]
    targets: Vec<String>,
}

/// Installs cargo-fuzz, writes the first inputs, and runs the targets one after the other.
///
/// # Errors
/// A target found something; it has printed what, and where the input lies.
pub fn run(options: &FuzzOptions) -> Result<()> {
    build::all()?;
    cargo_fuzz::ensure()?;
    let corpora = workspace::root().join("fuzz/corpus");
    run_command(Command::new(workspace::release("flowmeter-seeds")).arg(&corpora))?;
    for (name, longest) in TARGETS {
        if !options.targets.is_empty() && !options.targets.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut command = command::cargo();
        // Coverage needs no nightly compiler, a sanitizer does; what they find is in unsafe code, of which the targets run
        // next to none, while overflow and bounds are checked either way.
        command.args(["fuzz", "run", name, "--fuzz-dir", "fuzz", "--sanitizer", "none", "--"]);
        command.arg(format!("-max_total_time={}", options.seconds));
        command.args([format!("-max_len={longest}"), format!("-timeout={PATIENCE}")]);
        command.args([
            format!("-rss_limit_mb={MEMORY}"),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
        ]);
        run_command(command.current_dir(workspace::root()))
            .with_context(|| format!("the fuzz target {name} did not end well"))?;
    }
    Ok(())
}
