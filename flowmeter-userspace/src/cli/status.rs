//! The arguments of `status`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The agent's socket (`live --socket`).
    #[arg(long, value_name = "FILE", default_value = "/run/flowmeter/flowmeter.sock")]
    pub socket: PathBuf,
    /// Print the numbers as a `stats` line of the log.
    #[arg(long)]
    pub json: bool,
}
