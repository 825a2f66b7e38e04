//! The arguments of `audit`, `evaluate` and `calibrate`: how good verdicts are.

use std::path::PathBuf;

use clap::Args;

use super::shared::{ParsingArgs, TimingArgs};
use super::values::{positive, share};

/// Arguments of `audit`.
///
/// With `live --audit N` a random 1 in N of the flows cleared as benign goes to the inspector all the same. The share of
/// them in which it raises an alert after the verdict is the share of all cleared flows in which it would have.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// The agent's log (`live --log`).
    #[arg(short, long, value_name = "FILE")]
    pub log: PathBuf,
    /// Suricata's alerts (eve.json, with `community-id: true`).
    #[arg(short, long, value_name = "FILE")]
    pub eve: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
#[command(
    after_help = "The truth is a table (CSV). Each row says by any of these columns which flows it means, and what they are:

  observed      capture or interface, as in the log, or the end of its path
  community_id  src_ip  src_port  dst_ip  dst_port  protocol
  since  until  began from here on, and before that: RFC 3339, or seconds since 1970
  label         malicious or 1, benign or 0; empty leaves the flows out
  source        network or collection; by default what `observed` says
  category      kind of attack or use

Empty cells name nothing. Of the rows that mean a flow, the one that names most columns counts, so that a whole capture
can be benign but for one host:

  observed,src_ip,label,category
  monday.pcap,,benign,office
  monday.pcap,10.0.0.66,malicious,scan

Figures are means over (source, category) groups. docs/evaluate.md explains each."
)]
pub struct EvaluateArgs {
    /// Flows with verdicts, as `flowmeter live` or `flowmeter pcap` wrote them: JSON lines, CSV or Parquet; `-` is the
    /// standard input.
    #[arg(value_name = "FLOWS", required = true)]
    pub files: Vec<PathBuf>,
    /// What the flows are; by default their own columns `label`, `source` and `category` say it.
    #[arg(short, long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Share of malicious flows that precision is given for: the network's, not that of the flows here.
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, value_parser = share)]
    pub base_rate: f64,
    /// Write all figures and curves as JSON; `-` in place of the text.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots, which needs no other file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of `calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "Let it see at least a day of ordinary traffic:

  flowmeter live --interface eth0 --features --log day.jsonl
  flowmeter calibrate day.jsonl --alerts-per-day 20 --output site.json
  flowmeter live --interface eth0 --calibration site.json

Nobody needs to have labelled it, and attacks may be among it: the traffic is cut by time into ten parts of as many flows
each, and what the two parts with most alarms show is not taken for normal. What is there all the time is, so read what
is printed before you use the file. docs/calibrate.md explains what it does and what that was worth in figures.")]
#[command(group = clap::ArgGroup::new("budget").required(true))]
pub struct CalibrateArgs {
    /// The network's own flows: logs written with `--features`, tables, or captures.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// False alarms that you can look at: flows called malicious a day.
    #[arg(long, value_name = "N", group = "budget", value_parser = positive)]
    pub alerts_per_day: Option<f64>,
    /// Or as a share of all flows.
    #[arg(long, value_name = "SHARE", group = "budget", value_parser = share)]
    pub rate: Option<f64>,
    /// The calibration file to write.
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
    /// ONNX Runtime's shared library; by default it is looked for beside this binary.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}
