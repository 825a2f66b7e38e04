//! The subcommands: each puts the stages together for one way of use.

pub mod audit;
pub mod calibrate;
pub mod doctor;
pub mod evaluate;
pub mod live;
pub mod pcap;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flowmeter_common::lifecycle::Timeouts;

use crate::calibration::Calibration;
use crate::cli::{self, Reference, Scoring, Timing};
use crate::features::{FeatureSet, SETS};
use crate::model::{Model, Runtime};
use crate::scoring::Scorer;

/// The model that comes with this binary; see `models/` for its card.
static BUILT_IN: &[u8] = include_bytes!("../../../models/flowmeter-v2.onnx");

/// Exit code when some captures or rows could not be read.
pub const SOME_FAILED: u8 = 3;

impl Timing {
    /// The timeouts in the core's unit.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            idle: self.idle_timeout.as_nanos() as u64,
            active: self.active_timeout.as_nanos() as u64,
            ..Timeouts::default()
        }
    }
}

/// The set with this id.
///
/// # Errors
/// There is none; the message lists those that are.
pub fn feature_set(id: &str) -> Result<&'static FeatureSet> {
    FeatureSet::find(id).with_context(|| {
        let known: Vec<&str> = SETS.iter().map(|set| set.id).collect();
        format!("there is no feature set {id:?}; there are: {}", known.join(", "))
    })
}

/// Where scorers come from, for as long as the agent runs.
pub struct ScorerLoader {
    runtime: Runtime,
    /// The model's file; None for the built-in one.
    file: Option<PathBuf>,
    /// The calibration's file.
    calibration: Option<PathBuf>,
}

impl ScorerLoader {
    /// What was asked for; None if nothing is to score.
    ///
    /// # Errors
    /// ONNX Runtime is missing or broken.
    pub fn of(scoring: &Scoring) -> Result<Option<Self>> {
        if scoring.no_model {
            return Ok(None);
        }
        let runtime = Runtime::load(scoring.onnxruntime.as_deref())
            .context("cannot score without ONNX Runtime (`--no-model` meters without verdicts)")?;
        Ok(Some(Self { runtime, file: scoring.model.clone(), calibration: scoring.calibration.clone() }))
    }

    /// The model's file; None for the built-in one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The calibration's file, if there is one.
    pub fn calibration(&self) -> Option<&Path> {
        self.calibration.as_deref()
    }

    /// Loads the model and the calibration, as their files are now.
    ///
    /// # Errors
    /// One cannot be read, the model breaks the contract, or the calibration was made for another one.
    pub fn load(&self) -> Result<Scorer> {
        let model = model(self.file(), &self.runtime)?;
        let set = feature_set(model.feature_set())?;
        let read = |path: &PathBuf| Calibration::read(path, &model, set);
        let calibration = self.calibration.as_ref().map(read).transpose()?;
        Ok(Scorer::new(model, set).calibrated(calibration))
    }
}

/// Loads the model that was asked for, or the built-in one; None if none is wanted.
///
/// # Errors
/// As [`ScorerLoader::of`] and [`ScorerLoader::load`].
pub fn scorer(scorers: Option<&ScorerLoader>) -> Result<Option<Scorer>> {
    let scorer = scorers.map(ScorerLoader::load).transpose()?;
    if let Some(scorer) = &scorer {
        log::info!("scoring with {}", scorer.in_force());
    }
    Ok(scorer)
}

/// Loads a model file, or the built-in model.
///
/// # Errors
/// It cannot be read, or breaks the contract.
pub fn model(path: Option<&Path>, runtime: &Runtime) -> Result<Model> {
    let known = |id: &str| FeatureSet::find(id).map(FeatureSet::names);
    match path {
        Some(path) => Model::load(path, runtime, &known),
        None => Model::from_bytes(BUILT_IN, "the built-in model", runtime, &known),
    }
}

/// Prints the reference of a set, or what sets there are.
///
/// # Errors
/// There is no such set.
pub fn features(args: &cli::Features) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match &args.set {
        Some(id) => {
            let set = feature_set(id)?;
            match args.format {
                Reference::Markdown => write!(out, "{}", set.page())?,
                Reference::Json => writeln!(out, "{:#}", serde_json::to_value(set.reference())?)?,
            }
        }
        None => {
            writeln!(out, "Feature sets; `flowmeter features --set ID` prints one:\n")?;
            for set in SETS {
                writeln!(out, "{:<14} {:>3} columns", set.id, set.identity.len() + set.names().len())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a model file and prints what was found of each part of the contract.
///
/// # Errors
/// The file cannot be read, or ONNX Runtime not be loaded.
pub fn check_model(file: &Path, onnxruntime: Option<&Path>) -> Result<ExitCode> {
    let runtime = Runtime::load(onnxruntime)?;
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let known = |id: &str| FeatureSet::find(id).map(FeatureSet::names);
    let (model, findings) = Model::examine(&bytes, &runtime, &known);
    let mut out = io::stdout().lock();
    for finding in findings {
        match finding.outcome {
            Ok(text) => writeln!(out, "ok      {}: {text}", finding.subject)?,
            Err(text) => writeln!(out, "failed  {}: {text}", finding.subject)?,
        }
    }
    Ok(if model.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
