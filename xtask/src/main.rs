//! Set-up, build, test, lint and demo of FlowMeter, by one command each.
//!
//! Reading order: [`setup`] installs what is missing, [`ebpf`] builds the kernel programs, which are committed, [`build`]
//! compiles the agent, which embeds them, [`check`] proves everything; [`command`] runs the programs that all of them need.

mod build;
mod check;
mod command;
mod dist;
mod ebpf;
mod fuzz;
mod glibc;
mod house;
mod notices;
mod python;
mod setup;
mod text;
mod train;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Sets up, builds, runs and tests FlowMeter.
///
/// Every command first installs what it needs and does not find, and says what and why; nothing else is touched.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing for the kernel programs and for scoring: eBPF toolchain, bpf-linker, ONNX Runtime.
    Setup,
    /// Build everything; the agent is target/release/flowmeter.
    Build,
    /// Build the kernel programs, which are committed, or check that they are what their sources give.
    Ebpf(ebpf::EbpfOptions),
    /// Build, then run the agent: cargo xtask run -- live --interface eth0.
    Run {
        /// What the agent is told, after `--`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build, then replay recorded benign and attack traffic through the agent in namespaces of its own.
    Demo {
        /// What the demo is told; `cargo xtask demo --help` shows it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build, then measure: the capture path, the kernel programs, a cable, the pre-filter, scoring, reasons, delays.
    Bench {
        /// What is measured, and how; `cargo xtask bench help` shows it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Throw made-up frames, captures and packet sequences at the parser, the readers and the flow table.
    Fuzz(fuzz::FuzzOptions),
    /// Build, then fit the built-in model on recordings and, if there is one, a labelled corpus.
    Train(train::TrainOptions),
    /// Build, then pack what is given to others: a .deb, an .rpm, an archive, their SHA-256 sums; into target/dist.
    Dist,
    /// Format, lints and all tests, those with the kernel included (these need root).
    Test,
    /// Check what no compiler does: no circle among modules, no type name twice in a crate.
    House,
    /// Write THIRD-PARTY-NOTICES.md, or check it.
    Notices(notices::NoticesOptions),
    /// Format and lints only, for the user and the BPF crates.
    Lint,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => {
            setup::ebpf()?;
            build::all()?;
            eprintln!("Everything is there.");
        }
        Command::Build => build::all()?,
        Command::Ebpf(options) => ebpf::run(&options)?,
        Command::Run { args } => {
            build::all()?;
            return command::hand_over(&workspace::release("flowmeter"), &args);
        }
        Command::Demo { args } => {
            build::all()?;
            setup::packages::ensure(setup::packages::DEMO)?;
            return command::hand_over(&workspace::release("flowmeter-demo"), &args);
        }
        Command::Bench { args } => {
            build::all()?;
            return command::hand_over(&workspace::release("flowmeter-bench"), &args);
        }
        Command::Fuzz(options) => fuzz::run(&options)?,
        Command::Train(options) => {
            build::all()?;
            train::fit(&options)?;
        }
        Command::Dist => dist::run_all()?,
        Command::Test => check::test()?,
        Command::House => house::check()?,
        Command::Notices(options) => notices::run(&options)?,
        Command::Lint => check::lint()?,
    }
    Ok(ExitCode::SUCCESS)
}
