//! The arguments of `live`.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::shared::{OutputArgs, ParsingArgs, ScoringArgs, TimingArgs};
use super::values::{MetricsAddress, RotateArg, duration};

/// Arguments of `live`.
#[derive(Clone, Debug, Args)]
pub struct LiveArgs {
    /// Interface to watch; may be repeated.
    #[arg(short, long, value_name = "NAME", required = true)]
    pub interface: Vec<String>,
    /// Take options from this TOML file, too: a key is an option's long name. What is typed counts more, then the environment
    /// (FLOWMETER_MAX_FLOWS); by default /etc/flowmeter/flowmeter.toml is read if it is there.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where verdicts go: a file, or `-` for the standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub log: PathBuf,
    /// Open the log again when its file has been renamed or removed. SIGHUP has it opened again in any case.
    #[arg(long)]
    pub reopen: bool,
    /// End when a watched interface is gone, instead of waiting until there is one of its name again.
    #[arg(long)]
    pub exit_when_gone: bool,
    /// How many flows can live at once. Memory is taken at the start, about 1,020 bytes a flow.
    #[arg(long, value_name = "N", default_value_t = 262_144)]
    pub max_flows: u32,
    /// Do not count packets that leave the interface. Right for a mirror port.
    #[arg(long)]
    pub no_egress: bool,
    /// How often a `stats` line is written.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub stats_interval: Duration,
    /// Cut a table (csv, parquet, zeek-tsv) into finished files: after a time by the clock (15m, 1h, 1d), or a size (100M, 1G).
    /// Their names have the time at which they began: flows-20260101T120000Z.parquet.
    #[arg(long, value_name = "WHEN")]
    pub rotate: Option<RotateArg>,
    /// Serve metrics for Prometheus at http://ADDRESS/metrics, and the state of health at /healthz and /readyz: PORT (on the
    /// loopback interface), or ADDRESS:PORT. There is neither encryption nor a password: leave both to a proxy.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<MetricsAddress>,
    /// Answer `flowmeter status` at this Unix socket, with what `--metrics` serves.
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// What verdicts do to packets.
    #[command(flatten)]
    pub prefilter: PrefilterArgs,
    /// How flows are written.
    #[command(flatten)]
    pub writing: OutputArgs,
    /// How packets are read.
    #[command(flatten)]
    pub parsing: ParsingArgs,
    /// When flows end.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// What scores.
    #[command(flatten)]
    pub scoring: ScoringArgs,
}

/// Arguments of `doctor`: the same as those of `live`, for which it looks.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Print the findings as JSON: a list of objects with `subject`, `state` (ok, warning, failed) and `text`.
    #[arg(long)]
    pub json: bool,
    /// What `live` would be told.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// What verdicts do to packets.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The pre-filter")]
pub struct PrefilterArgs {
    /// What verdicts do to packets, from the first packet after the verdict. If the agent dies, hangs, or cannot score,
    /// every packet passes again within two seconds.
    #[arg(long, value_enum, default_value_t = ModeArg::Watch)]
    pub mode: ModeArg,
    /// Interface where the inspector (Suricata, Zeek, a recorder) listens; for `mirror` and `divert`.
    #[arg(long, value_name = "NAME")]
    pub inspector: Option<String>,
    /// Change what is done for a verdict, such as `unknown=pass`; `benign@first=inspect` is for verdicts given at the first
    /// checkpoint (8 packets) only. May be repeated. Verdicts: none, benign, unknown, malicious. Stages: first, later.
    /// Actions: pass, inspect (mirror, divert), drop (divert, block).
    #[arg(long, value_name = "VERDICT[@STAGE]=ACTION")]
    pub on: Vec<OverrideArg>,
    /// Treat what this file lists as benign, before any verdict. A line is a prefix or `any`, and then a port if you mean one:
    /// `192.0.2.0/24 443`. SIGHUP reads the file again.
    #[arg(long, value_name = "FILE")]
    pub allow: Option<PathBuf>,
    /// Treat what this file lists as malicious, before any verdict, unless `--allow` lists it. SIGHUP reads the file again.
    #[arg(long, value_name = "FILE")]
    pub deny: Option<PathBuf>,
    /// Let the inspector see a random 1 in N of the flows cleared as benign, so that `flowmeter audit` can say what the
    /// pre-filter misses.
    #[arg(long, value_name = "N")]
    pub audit: Option<NonZeroU32>,
    /// Pin programs and flows in this folder of the BPF file system (/sys/fs/bpf/flowmeter), so that they stay when the
    /// agent ends by SIGTERM or dies. The next agent with the same folder goes on with them. Ctrl-C removes them.
    #[arg(long, value_name = "FOLDER")]
    pub pin: Option<PathBuf>,
    /// Confirm that `block` may drop traffic on the word of a model, which errs.
    #[arg(long)]
    pub yes_drop_traffic: bool,
}

/// What verdicts do to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Nothing: every packet passes.
    Watch,
    /// On a host in the path: every packet passes; the inspector gets a copy of all but what is known to be benign.
    Mirror,
    /// On a mirror port: packets go to the inspector; what is known to be benign is dropped.
    Divert,
    /// On a host in the path: malicious flows are dropped.
    Block,
}

/// A verdict, in an [`OverrideArg`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictArg {
    /// No verdict yet.
    None,
    /// Benign.
    Benign,
    /// Unknown.
    Unknown,
    /// Malicious.
    Malicious,
}

/// The checkpoint at which a verdict was given, in an [`OverrideArg`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageArg {
    /// The first.
    First,
    /// A later one.
    Later,
}

/// What is done with a packet, in an [`OverrideArg`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionArg {
    /// It passes.
    Pass,
    /// The inspector gets it.
    Inspect,
    /// It is dropped.
    Drop,
}

/// `VERDICT[@STAGE]=ACTION`: something else is done for a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverrideArg {
    /// The verdict.
    pub verdict: VerdictArg,
    /// The stage; None for both.
    pub stage: Option<StageArg>,
    /// What is done.
    pub action: ActionArg,
}

const VERDICTS: [(&str, VerdictArg); 4] = [
    ("none", VerdictArg::None),
    ("benign", VerdictArg::Benign),
    ("unknown", VerdictArg::Unknown),
    ("malicious", VerdictArg::Malicious),
];
const STAGES: [(&str, StageArg); 2] = [("first", StageArg::First), ("later", StageArg::Later)];
const ACTIONS: [(&str, ActionArg); 3] =
    [("pass", ActionArg::Pass), ("inspect", ActionArg::Inspect), ("drop", ActionArg::Drop)];

fn find<T: Copy>(words: &[(&str, T)], typed: &str) -> Option<T> {
    words.iter().find(|(word, _)| *word == typed).map(|(_, meant)| *meant)
}

fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], meant: T) -> &'static str {
    words.iter().find(|(_, other)| *other == meant).map_or("", |(word, _)| word)
}

impl FromStr for OverrideArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (verdict, action) = text.split_once('=')?;
            let (verdict, stage) = match verdict.split_once('@') {
                Some((verdict, stage)) => (verdict, Some(find(&STAGES, stage)?)),
                None => (verdict, None),
            };
            let read = Self { verdict: find(&VERDICTS, verdict)?, stage, action: find(&ACTIONS, action)? };
            // A flow without a verdict has not reached a checkpoint that a stage could name.
            (read.verdict != VerdictArg::None || stage.is_none()).then_some(read)
        };
        read().ok_or_else(|| {
            format!(
                "invalid override {text:?}: expected VERDICT=ACTION or VERDICT@STAGE=ACTION, with the verdict none, benign, \
                 unknown or malicious, the stage first or later, and the action pass, inspect or drop"
            )
        })
    }
}

impl fmt::Display for OverrideArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&VERDICTS, self.verdict))?;
        if let Some(stage) = self.stage {
            write!(f, "@{}", word(&STAGES, stage))?;
        }
        write!(f, "={}", word(&ACTIONS, self.action))
    }
}

impl fmt::Display for ActionArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&ACTIONS, *self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_reads_back_as_it_was_typed() {
        for text in ["none=drop", "benign@first=inspect", "malicious@later=pass", "unknown=drop"] {
            let read: OverrideArg = text.parse().expect(text);
            assert_eq!(read.to_string(), text);
        }
        for text in [
            "",
            "=",
            "malicious",
            "malicious=burn",
            "stale=drop",
            "allowed=drop",
            "folded=drop",
            "evil=drop",
            "none@first=drop",
            "benign@last=pass",
        ] {
            assert!(text.parse::<OverrideArg>().is_err(), "{text:?} was understood");
        }
    }
}
