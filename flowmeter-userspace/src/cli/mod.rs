//! What can be typed: one struct for each subcommand, as clap reads it. Nothing here knows what it means.

mod adapt;
mod config;
mod evaluation;
mod live;
mod model;
mod pcap;
mod setup;
mod shared;
mod status;
mod values;

pub use adapt::AdaptArgs;
pub use config::{ConfigArgs, ConfigCommand};
pub use evaluation::{AuditArgs, CalibrateArgs, EvaluateArgs};
pub use live::{ActionArg, DoctorArgs, LiveArgs, ModeArg, OverrideArg, PrefilterArgs, StageArg, VerdictArg};
pub use model::{FeaturesArgs, ModelArgs, ModelCommand, ReferenceArg};
pub use pcap::PcapArgs;
pub use setup::SetupArgs;
pub use shared::{FormatArg, OutputArgs, ParsingArgs, ScoringArgs, TimestampArg, TimingArgs};
pub use status::StatusArgs;
pub use values::{MetricsAddress, RotateArg};

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Turns packets into flows, scores each flow with a model, and logs a verdict: benign, malicious or unknown.
///
/// It reads headers, never payload. Every packet passes unchanged, unless `live --mode` says otherwise. Verdicts go to the
/// log, one JSON object a line. Diagnostics go to the standard error.
#[derive(Debug, Parser)]
#[command(
    name = "flowmeter",
    version,
    max_term_width = 110,
    after_help = "Examples:
  flowmeter pcap capture.pcap.gz                        verdicts on the flows of a capture
  flowmeter live --interface eth0                       verdicts on living traffic, on the standard output
  flowmeter live --interface eth0 --log verdicts.jsonl  the same to a file
  flowmeter live --interface eth1 --mode divert --inspector ids0
                                                        ids0 gets all but what is known to be benign
  flowmeter pcap *.pcap --format parquet --output flows.parquet
                                                        every feature of every flow, for training
  flowmeter pcap day.pcap --format csv --set cic-fixed/v1 --no-model
                                                        the columns of CICFlowMeter
  flowmeter evaluate flows.jsonl --truth truth.csv --html report.html
                                                        how good the verdicts are
  flowmeter calibrate day.jsonl --alerts-per-day 20 --output site.json
                                                        thresholds for this network
  flowmeter live --interface eth0 --calibration site.json
                                                        verdicts by these thresholds
  flowmeter setup                                       install ONNX Runtime, which scores flows
  flowmeter doctor                                      what this machine can do

Exit codes:
  0    done
  1    failed
  2    wrong arguments
  3    done, but some captures or rows could not be read, or some flows not be scored
  130  stopped by a signal; what had been read is written"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more on the standard error; given twice, even more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say only errors on the standard error.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch network interfaces until Ctrl-C or SIGTERM.
    Live(LiveArgs),
    /// Read capture files: pcap or pcapng, plain or compressed; `-` is the standard input.
    Pcap(PcapArgs),
    /// Say how a running agent is; the exit code says whether it is ready.
    Status(StatusArgs),
    /// Say what the pre-filter misses, from the log and the alerts of the inspector behind it.
    Audit(AuditArgs),
    /// Say how good verdicts are, from flows whose truth is known.
    Evaluate(EvaluateArgs),
    /// Fit thresholds to a network, from its own unlabelled flows.
    Calibrate(CalibrateArgs),
    /// Learn a network from its own unlabelled flows, and write a model that knows it.
    Adapt(AdaptArgs),
    /// Check a model file against the contract.
    Model(ModelArgs),
    /// Print the reference page of a feature set, or the list of sets.
    Features(FeaturesArgs),
    /// Install ONNX Runtime, which scores flows.
    Setup(SetupArgs),
    /// Show or check the configuration of `live`: file and environment.
    Config(ConfigArgs),
    /// Say what this machine offers, and what `live` with the same options would find missing. Nothing is attached.
    Doctor(DoctorArgs),
    /// Write the man pages and the completions of shells below a folder, where a system has them.
    #[command(hide = true)]
    Manual {
        /// The root of the system, or of a package.
        #[arg(value_name = "FOLDER")]
        root: PathBuf,
    },
}

/// The command line. `doctor` takes what `live` takes, and needs no interface.
pub fn command() -> clap::Command {
    Cli::command().mut_subcommand("doctor", |doctor| doctor.mut_arg("interface", |arg| arg.required(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
