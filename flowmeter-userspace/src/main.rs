//! The `flowmeter` command.

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use flowmeter::cli::{self, Cli, Command, ModelCommand};
use flowmeter::config::file;
use flowmeter::{command, version};

/// Exit code when arguments are wrong, as clap gives it.
const WRONG_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    // `--version` tells more than the parser of the command line knows.
    let command = cli::command().long_version(version::long());
    let cli = match file::parse(command, std::env::args_os().collect(), &|name| std::env::var(name).ok()) {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(WRONG_ARGUMENTS);
        }
    };
    start_log(&cli);
    match run(&cli) {
        Ok(code) => code,
        // An agent that cannot write its log has failed. Everything else is done when nobody reads on.
        Err(error) if is_broken_pipe(&error) && !matches!(cli.command, Command::Live(_)) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Live(args) => command::live::run(args),
        Command::Pcap(args) => command::pcap::run(args),
        Command::Status(args) => command::status::run(args),
        Command::Audit(args) => command::audit::run(args),
        Command::Config(args) => command::config::run(args),
        Command::Doctor(args) => command::doctor::run(args),
        Command::Setup(args) => command::setup::run(args),
        Command::Evaluate(args) => command::evaluate::run(args),
        Command::Adapt(args) => command::adapt::run(args),
        Command::Calibrate(args) => command::calibrate::run(args),
        Command::Manual { root } => command::manual::run(root),
        Command::Features(args) => command::features(args),
        Command::Model(args) => match &args.command {
            ModelCommand::Check { file, onnxruntime } => command::check_model(file, onnxruntime.as_deref()),
        },
    }
}

/// Diagnostics go to the standard error, coloured on a terminal only; RUST_LOG overrides the flags.
fn start_log(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (false, 0) => "info",
        (false, 1) => "info,flowmeter=debug",
        (false, _) => "debug",
    };
    // Libraries below a warning have nothing to say to an operator.
    let filter = if cli.verbose >= 2 { level.to_owned() } else { format!("warn,flowmeter={}", last(level)) };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter))
        .format_target(false)
        .format_timestamp_millis()
        .init();
}

fn last(level: &str) -> &str {
    level.rsplit('=').next().unwrap_or(level)
}

/// Whoever read our output has had enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
    })
}
