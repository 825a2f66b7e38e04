//! Set-up, build, test, lint and demo of FlowMeter, by one command each.
//!
//! Reading order: [`setup`] installs what is missing, [`ebpf`] builds the kernel programs, which are committed, [`build`]
//! compiles the agent, which embeds them, [`check`] proves everything; [`command`] runs the programs that all of them need.

mod build;
mod check;
mod command;
mod deny;
mod dist;
mod ebpf;
mod fuzz;
mod glibc;
mod house;
mod notices;
mod python;
mod setup;
mod syntax;
mod text;
mod train;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Sets up, builds, runs and tests FlowMeter.
///
/// Every command first installs the tools that it needs and does not find, and says what and why.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install missing tools for the kernel programs and for scoring: eBPF toolchain, bpf-linker, ONNX Runtime.
    Setup,
    /// Build everything; the agent is target/release/flowmeter.
    Build,
    /// Build the committed kernel programs, or check that they match their sources.
    Ebpf(ebpf::EbpfOptions),
    /// Build, then run the agent: cargo xtask run -- live --interface eth0.
    Run {
        /// Arguments for the agent, after `--`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build, then replay recorded benign and attack traffic through the agent in separate namespaces.
    Demo {
        /// Arguments for the demo; `cargo xtask demo --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build, then benchmark: captures, kernel programs, a cable, the pre-filter, scoring, reasons, latency.
    Bench {
        /// Name and options of the benchmark; `cargo xtask bench help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Fuzz the parser, the capture readers and the flow table.
    Fuzz(fuzz::FuzzOptions),
    /// Build, then fit the built-in model on recordings and, if there is one, a labelled corpus.
    Train(train::TrainOptions),
    /// Build, then make packages in target/dist: a .deb, an .rpm, an archive, a container image, a bill of materials, and their
    /// SHA-256 sums.
    Dist(dist::DistOptions),
    /// Run format checks, lints and all tests; tests on the kernel need root.
    Test,
    /// Check that no modules form a circle, that none names its file by an attribute, and that no crate has a type name
    /// twice.
    House,
    /// Write THIRD-PARTY-NOTICES.md, or check it.
    Notices(notices::NoticesOptions),
    /// Run format checks and lints: Rust, BPF, Python, TOML, spelling, licences, dependencies.
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
            eprintln!("Set-up is complete.");
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
        Command::Dist(options) => dist::run(&options)?,
        Command::Test => check::test()?,
        Command::House => house::check()?,
        Command::Notices(options) => notices::run(&options)?,
        Command::Lint => check::lint()?,
    }
    Ok(ExitCode::SUCCESS)
}
