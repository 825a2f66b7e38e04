//! The arguments of `pcap`.

use std::path::PathBuf;

use clap::Args;

use super::shared::{OutputArgs, ParsingArgs, ScoringArgs, TimingArgs};

/// Arguments of `pcap`.
#[derive(Debug, Args)]
pub struct PcapArgs {
    /// Captures; each is read on its own. `-` is the standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where flows go: a file, or `-` for the standard output.
    #[arg(short, long, value_name = "PATH", default_value = "-")]
    pub output: PathBuf,
    /// How many captures to read at the same time [default: the number of processors]. The output does not depend on it.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Also write verdicts on living flows, at 8, 16, 32, ... packets, where the pre-filter would act on them. Then
    /// `evaluate` says what the pre-filter would spare the inspector, and what it would miss.
    #[arg(long)]
    pub checkpoints: bool,
    /// Write what the flows are, by a table as `evaluate --truth` takes it: columns label, source and category.
    #[arg(long, value_name = "FILE")]
    pub label: Option<PathBuf>,
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
