//! The arguments of `config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print what is in force, defaults included, as a file.
    Show {
        /// The file; by default /etc/flowmeter/flowmeter.toml, if it is there.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check everything that `live` checks before it touches an interface.
    Check {
        /// The file; by default /etc/flowmeter/flowmeter.toml, if it is there.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}
