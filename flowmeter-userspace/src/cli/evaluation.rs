//! The arguments of `audit`, `evaluate` and `calibrate`: how good verdicts are.

use std::path::PathBuf;

use clap::Args;

use super::shared::{ParsingArgs, TimingArgs};
use super::values::{positive, share};

/// Arguments of `audit`.
///
/// With `live --audit N` a random 1 in N of the flows cleared as benign still goes to the inspector. The share of these in
/// which it raises an alert after the verdict is the share of all cleared flows in which it would have raised one.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// The agent's log (`live --log`); rotated logs follow each other, the oldest first. Plain or compressed (gzip, zstd); `-` is
    /// the standard input.
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    pub log: Vec<PathBuf>,
    /// Suricata's alerts (eve.json, with `community-id: true`); likewise.
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    pub eve: Vec<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
#[command(
    after_help = "The truth is a table (CSV). Each row names flows by any of these columns, and says what they are:

  observed      capture or interface, as in the log, or the end of its path
  community_id  src_ip  src_port  dst_ip  dst_port  protocol
  since  until  began from here on, and before that: RFC 3339, or seconds since 1970
  label         malicious or 1, benign or 0; empty leaves the flows out
  source        network or collection; by default what `observed` says
  category      kind of attack or use

Empty cells name nothing. If several rows mean a flow, the one that names most columns counts. So a whole capture can be
benign but for one host:

  observed,src_ip,label,category
  monday.pcap,,benign,office
  monday.pcap,10.0.0.66,malicious,scan

Figures are means over (source, category) groups. docs/evaluate.md explains each."
)]
pub struct EvaluateArgs {
    /// Flows with verdicts, as `flowmeter live` or `flowmeter pcap` wrote them: JSON lines or CSV, plain or compressed
    /// (gzip, zstd), or Parquet; `-` is the standard input.
    #[arg(value_name = "FLOWS", required = true)]
    pub files: Vec<PathBuf>,
    /// Table that says what the flows are [default: their own columns `label`, `source` and `category`].
    #[arg(short, long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Share of malicious flows in the network, for which precision is given. It is not the share among these flows.
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, value_parser = share)]
    pub base_rate: f64,
    /// Write all figures and curves as JSON; `-` prints them instead of the text.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots that needs no other file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of `calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "Give it at least a day of ordinary traffic:

  flowmeter live --interface eth0 --features --log day.jsonl
  flowmeter calibrate day.jsonl --alerts-per-day 20 --output site.json
  flowmeter live --interface eth0 --calibration site.json

Nobody needs to have labelled the traffic, and attacks may be among it. It is cut by time into ten parts of as many flows
each, and what only the two parts with most alarms show is not taken for normal. What is there all the time is taken for
normal, so read what is printed before you use the file. docs/calibrate.md explains what it does and what it is worth.")]
#[command(group = clap::ArgGroup::new("budget").required(true))]
pub struct CalibrateArgs {
    /// The network's own flows: logs written with `--features`, tables, or captures.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// How many false alarms a day you can look at. An alarm is a flow called malicious.
    #[arg(long, value_name = "N", group = "budget", value_parser = positive)]
    pub alerts_per_day: Option<f64>,
    /// The same as a share of all flows.
    #[arg(long, value_name = "SHARE", group = "budget", value_parser = share)]
    pub rate: Option<f64>,
    /// Calibration file to write.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How packets of captures are read.
    #[command(flatten)]
    pub parsing: ParsingArgs,
    /// When flows of captures end.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// The ONNX model; by default the one built into this binary.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// ONNX Runtime's shared library; by default the one that `flowmeter setup` installed.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}
