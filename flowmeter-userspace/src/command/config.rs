//! `flowmeter config`: what `live` is told by its configuration file and the environment.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::cli::{self, Command, ConfigArgs, ConfigCommand};
use crate::config::{LiveConfig, file};

/// Prints or checks it.
///
/// # Errors
/// It is wrong.
pub fn run(args: &ConfigArgs) -> Result<ExitCode> {
    let variable = |name: &str| std::env::var(name).ok();
    match &args.command {
        ConfigCommand::Show { config } => {
            let table = file::effective(config.as_deref(), &variable)?;
            write!(io::stdout(), "{}", toml::to_string(&table)?).context("cannot write")?;
        }
        ConfigCommand::Check { config } => {
            let mut typed: Vec<OsString> = vec!["flowmeter".into(), "live".into()];
            if let Some(path) = config {
                typed.extend(["--config".into(), path.into()]);
            }
            if let Command::Live(live) = file::parse(cli::command(), typed, &variable)?.command {
                LiveConfig::new(&live)?;
            }
            writeln!(io::stdout(), "the configuration is right").context("cannot write")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
