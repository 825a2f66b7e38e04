//! What is meant: typed words become checked settings here, once, with every default and every refusal.
//!
//! The kernel's loader, the pre-filter's policy and the agent take these types; none of them knows a flag.

mod collector;
pub mod file;
mod prefilter;

pub use collector::{Target, Transport};
pub use prefilter::{Mode, PrefilterSettings};

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::ParseOptions;

use crate::cli::{
    FormatArg, LiveArgs, MetricsAddress, OutputArgs, ParsingArgs, RotateArg, ScoringArgs, TimestampArg,
    TimingArgs,
};
use crate::features::{DEFAULT_SET, FeatureSet};

/// Most flows that a table can hold: 64 GiB of them.
pub const MAX_FLOWS: u32 = 1 << 26;

/// What `flowmeter live` is to do.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    /// Names of the interfaces to watch.
    pub interfaces: Vec<String>,
    /// Where the log goes; `-` is the standard output.
    pub log: PathBuf,
    /// Whether a log that was renamed or removed is noticed, and opened again.
    pub reopen: bool,
    /// Whether the agent ends when a watched interface is gone.
    pub exit_when_gone: bool,
    /// Flows that there must be room for.
    pub max_flows: u32,
    /// Whether to count what leaves, too.
    pub egress: bool,
    /// How often a `stats` line is written.
    pub stats_interval: Duration,
    /// When a table goes on in another file; None if it is one file.
    pub rotate: Option<Rotation>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The Unix socket where `flowmeter status` is answered.
    pub socket: Option<PathBuf>,
    /// What becomes of packets.
    pub prefilter: PrefilterSettings,
    /// The folder where programs and maps are left for the next agent.
    pub pin: Option<PathBuf>,
    /// How flows are written.
    pub output: OutputConfig,
    /// How deep packets are looked into.
    pub parse: ParseOptions,
    /// When flows end.
    pub timeouts: Timeouts,
    /// What scores; None if nothing does.
    pub scoring: Option<ScoringConfig>,
}

impl LiveConfig {
    /// What was typed.
    ///
    /// # Errors
    /// What was typed does not go together; the message says what does.
    pub fn new(args: &LiveArgs) -> Result<Self> {
        ensure!(
            (1..=MAX_FLOWS).contains(&args.max_flows),
            "invalid --max-flows {}: expected a number between 1 and {MAX_FLOWS}",
            args.max_flows
        );
        let prefilter = PrefilterSettings::new(&args.prefilter, &args.interface)?;
        let output = OutputConfig::new(&args.writing, &args.log)?;
        let is_table = matches!(output.format, Format::Csv | Format::Parquet | Format::ZeekTsv);
        ensure!(
            args.rotate.is_none() || is_table,
            "--rotate cuts tables (csv, parquet, zeek-tsv) into files; a log is rotated from outside, see --reopen"
        );
        ensure!(
            args.rotate.is_none() || args.log != Path::new("-"),
            "--rotate needs a file that names are made of: name one with --log"
        );
        Ok(Self {
            interfaces: args.interface.clone(),
            log: args.log.clone(),
            reopen: args.reopen,
            exit_when_gone: args.exit_when_gone,
            max_flows: args.max_flows,
            // What leaves a mirror port was not mirrored to it.
            egress: !args.no_egress && prefilter.mode != Mode::Divert,
            stats_interval: args.stats_interval,
            metrics: args.metrics.map(|MetricsAddress(address)| address),
            socket: args.socket.clone(),
            prefilter,
            pin: args.prefilter.pin.clone(),
            output,
            rotate: args.rotate.map(Into::into),
            parse: parse_options(&args.parsing),
            timeouts: timeouts(&args.timing),
            scoring: ScoringConfig::new(&args.scoring),
        })
    }
}

/// When a table goes on in another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// After this time, by the clock.
    Time(Duration),
    /// When there are so many bytes in it.
    Size(u64),
}

impl From<RotateArg> for Rotation {
    fn from(typed: RotateArg) -> Self {
        match typed {
            RotateArg::Time(time) => Self::Time(time),
            RotateArg::Size(size) => Self::Size(size),
        }
    }
}

/// Formats in which flows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
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

impl From<FormatArg> for Format {
    fn from(typed: FormatArg) -> Self {
        match typed {
            FormatArg::Jsonl => Self::Jsonl,
            FormatArg::Csv => Self::Csv,
            FormatArg::Parquet => Self::Parquet,
            FormatArg::Eve => Self::Eve,
            FormatArg::Zeek => Self::Zeek,
            FormatArg::ZeekTsv => Self::ZeekTsv,
        }
    }
}

/// What one unit of a time in a typed table is. Text has nanoseconds always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampUnit {
    /// Which every engine reads.
    #[default]
    Microseconds,
    /// To the last digit.
    Nanoseconds,
}

impl From<TimestampArg> for TimestampUnit {
    fn from(typed: TimestampArg) -> Self {
        match typed {
            TimestampArg::Us => Self::Microseconds,
            TimestampArg::Ns => Self::Nanoseconds,
        }
    }
}

/// How flows are written.
#[derive(Clone, Debug)]
pub struct OutputConfig {
    /// The format.
    pub format: Format,
    /// Whose features are the columns.
    pub set: &'static FeatureSet,
    /// Whether the JSON lines have every feature, too.
    pub features: bool,
    /// IPFIX collectors that flows are exported to, too.
    pub ipfix: Vec<Target>,
    /// Unit of times in Parquet.
    pub timestamps: TimestampUnit,
}

impl OutputConfig {
    /// What was typed; `place` is where flows go, whose ending says the format unless that was typed. A set that the
    /// format does not show is said.
    ///
    /// # Errors
    /// There is no such feature set, or a collector is not named as it should be.
    pub fn new(args: &OutputArgs, place: &Path) -> Result<Self> {
        let format =
            args.format.map(Into::into).or_else(|| Format::by_ending(place)).unwrap_or(Format::Jsonl);
        let set = args.set.as_deref().map_or(Ok(DEFAULT_SET), FeatureSet::named)?;
        let shows_set = match format {
            Format::Csv | Format::Parquet => true,
            Format::Jsonl => args.features,
            Format::Eve | Format::Zeek | Format::ZeekTsv => false,
        };
        if args.set.is_some() && !shows_set {
            log::warn!(
                "--set changes nothing here: tables have the set's features, and JSON lines have them with --features"
            );
        }
        let collector = |typed: &String| typed.parse().map_err(|problem| anyhow!("--ipfix: {problem}"));
        let ipfix = args.ipfix.iter().map(collector).collect::<Result<_>>()?;
        Ok(Self { format, set, features: args.features, ipfix, timestamps: args.timestamps.into() })
    }
}

impl Format {
    /// The format that a file's ending names.
    fn by_ending(place: &Path) -> Option<Self> {
        match place.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "parquet" | "pq" => Some(Self::Parquet),
            "jsonl" | "ndjson" | "json" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// What scores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoringConfig {
    /// The model's file; None for the built-in model.
    pub model: Option<PathBuf>,
    /// The calibration's file.
    pub calibration: Option<PathBuf>,
    /// ONNX Runtime's library; None if it is to be looked for.
    pub onnxruntime: Option<PathBuf>,
}

impl ScoringConfig {
    /// What was typed; None if nothing is to score.
    pub fn new(args: &ScoringArgs) -> Option<Self> {
        (!args.no_model).then(|| Self {
            model: args.model.clone(),
            calibration: args.calibration.clone(),
            onnxruntime: args.onnxruntime.clone(),
        })
    }
}

/// When flows end, in the core's unit.
pub fn timeouts(args: &TimingArgs) -> Timeouts {
    Timeouts {
        idle: args.idle_timeout.as_nanos() as u64,
        active: args.active_timeout.as_nanos() as u64,
        ..Timeouts::default()
    }
}

/// How deep packets are looked into.
pub fn parse_options(args: &ParsingArgs) -> ParseOptions {
    ParseOptions { tunnels: args.tunnels }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    /// What `flowmeter live` with these words is to do.
    fn live(words: &[&str]) -> Result<LiveConfig> {
        let cli = Cli::try_parse_from(["flowmeter", "live"].iter().chain(words))?;
        let Command::Live(args) = cli.command else { anyhow::bail!("not live") };
        LiveConfig::new(&args)
    }

    #[test]
    fn what_is_not_typed_has_a_default() {
        let config = live(&["--interface", "eth0"]).expect("a configuration");
        assert_eq!(config.output.set.id, DEFAULT_SET.id);
        assert_eq!((config.timeouts, config.egress), (Timeouts::default(), true));
        assert_eq!(config.scoring, Some(ScoringConfig::default()));
        assert_eq!(config.prefilter, PrefilterSettings::default());
    }

    #[test]
    fn settings_out_of_bounds_are_refused() {
        for flows in ["0", "67108865"] {
            let problem = live(&["-i", "eth0", "--max-flows", flows]).expect_err(flows);
            assert!(format!("{problem:#}").contains("between 1 and 67108864"), "{problem:#}");
        }
        let blocks = live(&["-i", "eth0", "--mode", "block"]).expect_err("not confirmed");
        assert!(format!("{blocks:#}").contains("--yes-drop-traffic"), "{blocks:#}");
    }
}
