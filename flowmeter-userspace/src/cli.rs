//! What can be typed.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use flowmeter_common::parse::ParseOptions;

use crate::features::DEFAULT_SET;
use crate::prefilter::{Mode, Override, parse_override};

/// Watches network traffic, turns packets into flows, and tells the malicious from the benign.
///
/// Headers only, never payload; every packet passes unchanged, unless it is told otherwise (`live --mode`). Verdicts go to the log, one JSON object a line;
/// diagnostics go to the standard error.
#[derive(Debug, Parser)]
#[command(
    name = "flowmeter",
    version,
    max_term_width = 110,
    after_help = "Examples:
  flowmeter live --interface eth0                       verdicts on the standard output
  flowmeter live --interface eth0 --log verdicts.jsonl  verdicts to a file
  flowmeter live --interface eth1 --mode divert --inspector ids0
                                                        only what is not known to be benign goes on to ids0
  flowmeter pcap capture.pcap.gz                        the same for a capture file
  flowmeter pcap *.pcap --format parquet --output flows.parquet
                                                        every feature of every flow, for training
  flowmeter pcap day.pcap --format csv --set cic-fixed/v1 --no-model
                                                        the columns of CICFlowMeter
  flowmeter evaluate flows.jsonl --truth truth.csv --html report.html
                                                        how good the verdicts are
  flowmeter calibrate day.jsonl --alerts-per-day 20 --output site.json
                                                        thresholds for this network
  flowmeter live --interface eth0 --calibration site.json
  flowmeter doctor                                      what this machine can do

Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 done but some captures or rows could not be read,
130 stopped by a signal: what had been read is written."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more on the standard error; twice for even more.
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
    Live(Live),
    /// Read capture files: pcap or pcapng, also gzip or zstd compressed; `-` is the standard input.
    Pcap(Pcap),
    /// Tell what the pre-filter misses, from the log and the alerts of the inspector behind it.
    Audit(Audit),
    /// Say how good verdicts are, from flows whose truth is known.
    Evaluate(Evaluate),
    /// Fit thresholds to a network, from its own unlabelled flows.
    Calibrate(Calibrate),
    /// Check a model file against the contract.
    Model(ModelArgs),
    /// Print the reference page of a feature set, or the list of sets.
    Features(Features),
    /// Look at what this machine offers, and say what is missing.
    Doctor(Scoring),
}

/// Which model scores, and with what library.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Verdicts")]
pub struct Scoring {
    /// The ONNX model; by default the one built into this binary. SIGHUP makes `live` load it again.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Meter only, without verdicts.
    #[arg(long, conflicts_with = "model")]
    pub no_model: bool,
    /// Thresholds and what is normal for this network, written by `flowmeter calibrate` for the same model.
    #[arg(long, value_name = "FILE", conflicts_with = "no_model")]
    pub calibration: Option<PathBuf>,
    /// ONNX Runtime's shared library; by default it is looked for beside this binary.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// When flows end.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "When flows end")]
pub struct Timing {
    /// A flow without packets for this long has ended (1ms to 1h).
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub idle_timeout: Duration,
    /// A flow older than this is cut; what goes on is a new flow (1ms to 1h).
    #[arg(long, value_name = "TIME", default_value = "3600s", value_parser = duration)]
    pub active_timeout: Duration,
}

/// Arguments of `live`.
#[derive(Debug, Args)]
pub struct Live {
    /// Interface to watch; may be repeated.
    #[arg(short, long, value_name = "NAME", required = true)]
    pub interface: Vec<String>,
    /// Where verdicts go: a file, or `-` for the standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub log: PathBuf,
    /// Most flows at once; memory is about 1,020 bytes a flow and is taken at the start.
    #[arg(long, value_name = "N", default_value_t = 262_144)]
    pub max_flows: u32,
    /// Do not count what leaves the interface. Right for a mirror port.
    #[arg(long)]
    pub no_egress: bool,
    /// How often a `stats` line is written.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub stats_interval: Duration,
    /// What verdicts do to packets.
    #[command(flatten)]
    pub prefilter: PrefilterArgs,
    /// How flows are written.
    #[command(flatten)]
    pub writing: Writing,
    /// How packets are read.
    #[command(flatten)]
    pub parsing: Parsing,
    /// When flows end.
    #[command(flatten)]
    pub timing: Timing,
    /// What scores.
    #[command(flatten)]
    pub scoring: Scoring,
}

/// What verdicts do to packets.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The pre-filter")]
pub struct PrefilterArgs {
    /// What verdicts do to packets, from the packet after the verdict on. If the agent dies, hangs, or cannot score, every
    /// packet passes again within two seconds.
    #[arg(long, value_enum, default_value_t = Mode::Watch)]
    pub mode: Mode,
    /// Interface where the inspector (Suricata, Zeek, a recorder) listens; with `mirror` and `divert`.
    #[arg(long, value_name = "NAME")]
    pub inspector: Option<String>,
    /// Do something else for a verdict: `unknown=pass`, or `benign@first=inspect` for those given at the first checkpoint
    /// (8 packets) only; may be repeated. Verdicts: none, benign, unknown, malicious. Stages: first, later. Actions: pass,
    /// inspect (mirror, divert), drop (divert, block).
    #[arg(long, value_name = "VERDICT[@STAGE]=ACTION", value_parser = parse_override)]
    pub on: Vec<Override>,
    /// Treat as benign whatever this file lists, before any verdict: a line is a prefix, or `any`, and then a port if one is
    /// meant (`192.0.2.0/24 443`). Read again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub allow: Option<PathBuf>,
    /// Treat as malicious whatever this file lists, before any verdict, unless it is allowed. Read again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub deny: Option<PathBuf>,
    /// Let the inspector see a random 1 in N of the flows cleared as benign, so that `flowmeter audit` can tell what it
    /// misses.
    #[arg(long, value_name = "N")]
    pub audit: Option<NonZeroU32>,
    /// Leave programs and flows in place when the agent ends by SIGTERM or dies, pinned in this folder of the BPF file
    /// system (/sys/fs/bpf/flowmeter); the next agent with the same folder goes on with them. Ctrl-C removes them.
    #[arg(long, value_name = "FOLDER")]
    pub pin: Option<PathBuf>,
    /// Yes, `block` is to drop traffic on the model's word.
    #[arg(long)]
    pub yes_drop_traffic: bool,
}

/// Formats in which flows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The verdict log: one JSON object a line.
    Jsonl,
    /// A table with every feature of the set, comma-separated, with a header.
    Csv,
    /// The same table as Apache Parquet, with typed columns.
    Parquet,
}

/// How flows are written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Writing {
    /// How flows are written.
    #[arg(short, long, value_enum, default_value_t = Format::Jsonl)]
    pub format: Format,
    /// Feature set of the columns, see `flowmeter features`; the model takes its own whatever is written.
    #[arg(long, value_name = "ID", default_value = DEFAULT_SET.id)]
    pub set: String,
    /// Write every feature into the JSON lines, too; tables always have them.
    #[arg(long)]
    pub features: bool,
}

/// How packets are read.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Packets")]
pub struct Parsing {
    /// Look into tunnels (IP in IP, GRE, VXLAN, Geneve): what is inside makes flows of its own, marked with the tunnel's
    /// identifier, instead of one flow between the tunnel's ends.
    #[arg(long)]
    pub tunnels: bool,
}

impl Parsing {
    /// In the core's terms.
    pub fn look(&self) -> ParseOptions {
        ParseOptions { tunnels: self.tunnels }
    }
}

/// Arguments of `pcap`.
#[derive(Debug, Args)]
pub struct Pcap {
    /// Captures, each read on its own; `-` is the standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where flows go: a file, or `-` for the standard output.
    #[arg(short, long, value_name = "PATH", default_value = "-")]
    pub output: PathBuf,
    /// Captures read at the same time; by default as many as there are processors. The output does not depend on it.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Write verdicts on flows that live, too, at 8, 16, 32, ... packets, where the pre-filter would act on them: `evaluate`
    /// then says what it would spare the inspector, and what it would miss.
    #[arg(long)]
    pub checkpoints: bool,
    /// How flows are written.
    #[command(flatten)]
    pub writing: Writing,
    /// How packets are read.
    #[command(flatten)]
    pub parsing: Parsing,
    /// When flows end.
    #[command(flatten)]
    pub timing: Timing,
    /// What scores.
    #[command(flatten)]
    pub scoring: Scoring,
}

/// Arguments of `audit`.
///
/// With `live --audit N` a random 1 in N of the flows cleared as benign goes to the inspector all the same. The share of
/// them in which it raises an alert after the verdict is the share of all cleared flows in which it would have.
#[derive(Debug, Args)]
pub struct Audit {
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
pub struct Evaluate {
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
pub struct Calibrate {
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
    pub parsing: Parsing,
    /// When flows of captures end.
    #[command(flatten)]
    pub timing: Timing,
    /// The ONNX model; by default the one built into this binary.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// ONNX Runtime's shared library; by default it is looked for beside this binary.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// Arguments of `model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ModelCommand,
}

/// The subcommands of `model`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Check everything that the agent checks before it loads a model, and explain what is wrong.
    Check {
        /// The ONNX file.
        file: PathBuf,
        /// ONNX Runtime's shared library; by default it is looked for beside this binary.
        #[arg(long, value_name = "FILE")]
        onnxruntime: Option<PathBuf>,
    },
}

/// Arguments of `features`.
#[derive(Debug, Args)]
pub struct Features {
    /// The set to print; without it, all sets are listed.
    #[arg(long, value_name = "ID")]
    pub set: Option<String>,
    /// The page to read, or an array of objects for programs.
    #[arg(long, value_enum, default_value = "markdown", requires = "set")]
    pub format: Reference,
}

/// How a feature set is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reference {
    /// A page with a table.
    Markdown,
    /// One object a column: role (identity or feature), name, type, unit, definition, undefined.
    Json,
}

/// A time with its unit: 500ms, 90s, 15m, 1h; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other:?}; use ms, s, m or h, as in 90s")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is no time; write it like 500ms, 90s, 15m or 1h"))?;
    let seconds = number * scale;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(format!("{text:?} lies outside of 1ms to 1h"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A share, above 0 and below 1.
fn share(text: &str) -> Result<f64, String> {
    let share = positive(text)?;
    if share < 1.0 {
        Ok(share)
    } else {
        Err(format!("{text:?} is no share; write 0.001 for one in a thousand"))
    }
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err(format!("{text:?} is no number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(duration("120"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        for wrong in ["", "s", "2d", "-1s", "0", "2h", "1e3"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken for a time");
        }
    }
}
