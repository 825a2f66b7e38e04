//! The arguments of `adapt`: from a network's own flows to a model that knows it.

use std::path::PathBuf;

use clap::Args;

use super::shared::{ParsingArgs, TimingArgs};
use super::values::share;

/// Arguments of `adapt`.
#[derive(Debug, Args)]
#[command(after_help = "Let it see a day of ordinary traffic, better a week:

  flowmeter live --interface eth0 --features --log day.jsonl
  flowmeter adapt day.jsonl --output site.onnx
  flowmeter live --interface eth0 --model site.onnx

It runs on the sensor, without Python and without a network connection. Nobody needs to have labelled the flows, and attacks
may be among them: they are cut by time into five parts, and what looks like an attack to a model that learned from the other
four is set aside and printed. What is there all the time is taken for normal, so read what is printed before you use the
model. SIGHUP makes a running agent load the model again. docs/adapt.md has the figures.")]
pub struct AdaptArgs {
    /// The network's own flows: logs written with `--features`, tables, or captures.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The model file to write.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Share of the network's flows that may be called malicious.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub rate: f64,
    /// Flows that were an attack, learned as one: a Community ID, or a prefix (or `any`) and a port, a line.
    #[arg(long, value_name = "FILE")]
    pub was_attack: Option<PathBuf>,
    /// Flows that were fine, learned as benign whatever they look like; written likewise.
    #[arg(long, value_name = "FILE")]
    pub was_fine: Option<PathBuf>,
    /// How packets of captures are read.
    #[command(flatten)]
    pub parsing: ParsingArgs,
    /// When flows of captures end.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// ONNX Runtime's shared library; by default it is looked for beside this binary.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}
