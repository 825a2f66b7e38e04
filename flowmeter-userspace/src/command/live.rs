//! `flowmeter live`: interfaces to flows and verdicts, until told to stop.

use std::process::ExitCode;

use anyhow::Result;

use crate::agent::{self, Options};
use crate::cli::LiveArgs;
use crate::config::LiveConfig;

/// Watches until Ctrl-C or SIGTERM.
///
/// # Errors
/// Anything that keeps it from watching, or from writing the log; nothing stays attached.
pub fn run(args: &LiveArgs) -> Result<ExitCode> {
    let options = Options::new(std::env::args_os().collect(), |name| std::env::var(name).ok())?;
    agent::run(&LiveConfig::new(args)?, options)
}
