//! Arguments that several subcommands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::duration;

/// Which model scores, and with what library.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Verdicts")]
pub struct ScoringArgs {
    /// ONNX model that scores [default: the one built into this binary]. SIGHUP makes `live` load it again.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Meter only: no verdicts, and no need for ONNX Runtime.
    #[arg(long, conflicts_with = "model")]
    pub no_model: bool,
    /// Thresholds and normal ranges of this network, written by `flowmeter calibrate` for the same model.
    #[arg(long, value_name = "FILE", conflicts_with = "no_model")]
    pub calibration: Option<PathBuf>,
    /// ONNX Runtime's shared library; by default the one that `flowmeter setup` installed.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// When flows end.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "When flows end")]
pub struct TimingArgs {
    /// End a flow after this long without a packet (1ms to 1h).
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub idle_timeout: Duration,
    /// Cut a flow that is older than this; what goes on is a new flow (1ms to 1h).
    #[arg(long, value_name = "TIME", default_value = "3600s", value_parser = duration)]
    pub active_timeout: Duration,
}

/// Formats in which flows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// The verdict log: one JSON object a line.
    Jsonl,
    /// A table with every feature of the set, comma-separated, with a header.
    Csv,
    /// The same table as Apache Parquet, with typed columns.
    Parquet,
    /// Suricata's EVE: a `flow` event for each flow that has ended, an `alert` for each malicious one.
    Eve,
    /// Zeek's conn.log as JSON.
    Zeek,
    /// Zeek's conn.log as tab-separated values.
    ZeekTsv,
}

/// Units of times in typed tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TimestampArg {
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

/// How flows are written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// How flows are written. By default the file's ending says it (.csv, .parquet, .jsonl); otherwise JSON lines are.
    #[arg(short, long, value_enum)]
    pub format: Option<FormatArg>,
    /// Feature set of the columns; `flowmeter features` lists them, and flowmeter/v2 is the default. The model takes its own
    /// set, whatever is written.
    #[arg(long, value_name = "ID")]
    pub set: Option<String>,
    /// Write every feature into the JSON lines. Tables always have them.
    #[arg(long)]
    pub features: bool,
    /// Export flows that have ended to an IPFIX collector, too: udp://ADDRESS:PORT or tcp://ADDRESS:PORT; may be repeated. A
    /// collector that is slow or away keeps nothing waiting; what it misses is counted.
    #[arg(long, value_name = "URL")]
    pub ipfix: Vec<String>,
    /// Unit of times in Parquet: microseconds, which every engine reads, or nanoseconds. Text always has nanoseconds.
    #[arg(long, value_enum, value_name = "UNIT", default_value_t = TimestampArg::Us)]
    pub timestamps: TimestampArg,
}

/// How packets are read.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Packets")]
pub struct ParsingArgs {
    /// Look into tunnels (IP in IP, GRE, VXLAN, Geneve): packets inside make flows of their own, which name the tunnel's
    /// identifier, instead of one flow between the tunnel's ends.
    #[arg(long)]
    pub tunnels: bool,
}
