//! Fits the built-in model: an environment of Python, recordings, then `training/flowmeter_training`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::command::{self, is_root, run};
use crate::python;
use crate::setup::packages;
use crate::workspace;

/// What is fitted on what.
#[derive(Args)]
pub struct TrainOptions {
    /// Folder with a labelled corpus's manifest.csv and labels.py; without it, only recordings are learned from.
    #[arg(long, value_name = "DIR", requires = "unpacked")]
    corpus: Option<PathBuf>,
    /// Folder with the corpus's captures, below train/ and val/.
    #[arg(long, value_name = "DIR", requires = "corpus")]
    unpacked: Option<PathBuf>,
    /// Folder that tests/sample/record.py wrote; may be repeated. By default ten rounds are recorded below target/,
    /// which takes about an hour and needs root, unless they are there.
    #[arg(long, value_name = "DIR")]
    recordings: Vec<PathBuf>,
    /// Rounds to record.
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "recordings")]
    rounds: u32,
    /// Of the dice.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
    /// The ONNX file to write; a new built-in model needs another build.
    #[arg(long, value_name = "FILE", default_value = "models/flowmeter-v2.onnx")]
    output: PathBuf,
    /// The page of figures to write beside it.
    #[arg(long, value_name = "FILE", default_value = "models/figures.md")]
    card: PathBuf,
}

/// Sets up what is missing, and fits.
pub fn fit(options: &TrainOptions) -> Result<()> {
    let python = python::environment("python", "training/requirements.txt", "training")?;
    let recordings = match options.recordings.is_empty() {
        true => vec![record(options.rounds)?],
        false => options.recordings.clone(),
    };
    let mut command = Command::new(python);
    command.env("PYTHONPATH", workspace::root().join("training"));
    command.args(["-m", "flowmeter_training.train"]);
    command.arg("--bin").arg(workspace::release("flowmeter"));
    if let (Some(corpus), Some(unpacked)) = (&options.corpus, &options.unpacked) {
        command.arg("--corpus").arg(corpus).arg("--unpacked").arg(unpacked);
    }
    command.arg("--recordings").args(recordings);
    command.arg("--seed").arg(options.seed.to_string());
    command.arg("--output").arg(&options.output).arg("--card").arg(&options.card);
    run(&mut command)
}

/// Recordings of that many rounds, made unless they are there.
fn record(rounds: u32) -> Result<PathBuf> {
    let folder = workspace::target().join(format!("recordings-{rounds}"));
    if folder.join("manifest.csv").is_file() {
        eprintln!("Recordings of an earlier run are used: {}", folder.display());
        return Ok(folder);
    }
    if !is_root() {
        bail!(
            "recording makes network namespaces, so it needs root: sudo --preserve-env=PATH,HOME cargo xtask train, or \
             --recordings names what was recorded before"
        );
    }
    let script = workspace::root().join("tests/sample/record.py");
    let recorder = |words: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(words);
        command
    };
    let missing = command::output(&mut recorder(&["--missing"])).context("the recorder does not start")?;
    if !missing.is_empty() {
        packages::apt("tools whose traffic is recorded", &missing.lines().collect::<Vec<_>>())?;
    }
    eprintln!("Recording {rounds} rounds of every activity; this takes a while.");
    let mut command = recorder(&["--scale", &rounds.to_string(), "--seed", "7", "--jobs", "5", "--output"]);
    run(command.arg(&folder as &Path))?;
    Ok(folder)
}
