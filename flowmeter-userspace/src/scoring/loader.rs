//! Where scorers come from: the model, ONNX Runtime and the calibration, loaded again while the agent runs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Scorer;
use crate::calibration::Calibration;
use crate::config::ScoringConfig;
use crate::features::FeatureSet;
use crate::model::{Model, Runtime};

/// The model that comes with this binary; see `models/` for its card.
static BUILT_IN: &[u8] = include_bytes!("../../../models/flowmeter-v2.onnx");

/// Where scorers come from, for as long as the agent runs.
pub struct ScorerLoader {
    runtime: Runtime,
    /// The model's file; None for the built-in one.
    file: Option<PathBuf>,
    /// The calibration's file.
    calibration: Option<PathBuf>,
}

impl ScorerLoader {
    /// What was asked for.
    ///
    /// # Errors
    /// ONNX Runtime is missing or broken.
    pub fn new(scoring: &ScoringConfig) -> Result<Self> {
        let runtime = Runtime::load(scoring.onnxruntime.as_deref())
            .context("cannot score flows (`--no-model` meters them without verdicts)")?;
        Ok(Self { runtime, file: scoring.model.clone(), calibration: scoring.calibration.clone() })
    }

    /// Loads for the first time, and says what scores.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_first(&self) -> Result<Scorer> {
        let scorer = self.load()?;
        log::info!("scoring with {}", scorer.in_force());
        Ok(scorer)
    }

    /// The model's file; None for the built-in one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The calibration's file, if there is one.
    pub fn calibration(&self) -> Option<&Path> {
        self.calibration.as_deref()
    }

    /// Takes these files from now on; true if they are others than before. ONNX Runtime stays.
    pub fn set_files(&mut self, scoring: ScoringConfig) -> bool {
        let changed = (&self.file, &self.calibration) != (&scoring.model, &scoring.calibration);
        (self.file, self.calibration) = (scoring.model, scoring.calibration);
        changed
    }

    /// Loads the model and the calibration, as their files are now.
    ///
    /// # Errors
    /// One cannot be read, the model breaks the contract, or the calibration was made for another one.
    pub fn load(&self) -> Result<Scorer> {
        let model = load_model(self.file(), &self.runtime)?;
        let set = FeatureSet::named(model.feature_set())?;
        let read = |path: &PathBuf| Calibration::read(path, &model, set);
        let calibration = self.calibration.as_ref().map(read).transpose()?;
        Ok(Scorer::new(model, set).calibrated(calibration))
    }
}

/// Loads a model file, or the built-in model.
///
/// # Errors
/// It cannot be read, or breaks the contract.
pub fn load_model(path: Option<&Path>, runtime: &Runtime) -> Result<Model> {
    let known = |id: &str| FeatureSet::find(id).map(FeatureSet::names);
    match path {
        Some(path) => Model::load(path, runtime, &known),
        None => Model::from_bytes(BUILT_IN, "the built-in model", runtime, &known),
    }
}
