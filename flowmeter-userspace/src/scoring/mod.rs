//! From finished features to a verdict, with what moved it: [`Scorer`] takes a [`Batch`] and gives a [`Prediction`] a flow.

mod batch;
mod budget;
mod loader;
mod prediction;

use std::time::Instant;

use anyhow::Result;

use crate::calibration::{Calibration, Service};
use crate::features::{Feature, FeatureSet, FlowView};
use crate::model::drift::{Drift, Fit};
use crate::model::{Model, Verdict, to_input};
use crate::record::{FlowRecord, Stage};

pub use self::batch::Batch;
use self::budget::ExplanationBudget;
pub use self::loader::{ScorerLoader, load_model};
pub use self::prediction::{Explanation, Prediction, Scored};

/// Reasons given with a malicious verdict.
const REASONS: usize = 3;
/// Most flows of a batch that are compared with those of training.
const OBSERVED_PER_BATCH: usize = 256;
/// Inputs that are named when the traffic no longer looks like that of training.
const DRIFTED: usize = 5;

/// Scores batches with one model.
pub struct Scorer {
    model: Model,
    set: &'static FeatureSet,
    /// The model's inputs, in its order.
    features: Vec<&'static Feature>,
    calibration: Option<Calibration>,
    drift: Drift,
    budget: ExplanationBudget,
    /// It has been said that the model gives some flows no probability.
    said_unscorable: bool,
    inputs: Vec<f32>,
    scores: Vec<f32>,
}

impl Scorer {
    /// A scorer by this model, whose inputs are features of `set`.
    pub fn new(model: Model, set: &'static FeatureSet) -> Self {
        let all: Vec<_> = set.features().collect();
        let features = model.inputs().iter().map(|&column| all[column]).collect();
        let drift = Drift::new(model.distribution().map(Into::into));
        let budget = ExplanationBudget::by_count();
        Self {
            model,
            set,
            features,
            calibration: None,
            drift,
            budget,
            said_unscorable: false,
            inputs: Vec::new(),
            scores: Vec::new(),
        }
    }

    /// Scores by what was learned of a network, if there is something.
    pub fn calibrated(self, calibration: Option<Calibration>) -> Self {
        Self { calibration, ..self }
    }

    /// What decides, in words.
    pub fn in_force(&self) -> String {
        match &self.calibration {
            Some(calibration) => format!("{}, {calibration}", self.name()),
            None => format!("{}, threshold {}", self.name(), self.threshold()),
        }
    }

    /// Bounds the time that reasons take, instead of their number: for living traffic.
    pub fn explaining_in_time(self) -> Self {
        Self { budget: ExplanationBudget::by_time(), ..self }
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// The set that the model takes its inputs from.
    pub fn feature_set(&self) -> &'static FeatureSet {
        self.set
    }

    /// Score from which a flow is called malicious, unless more is known of its service.
    pub fn threshold(&self) -> f64 {
        self.calibration
            .as_ref()
            .map_or(self.model.thresholds(), |calibration| calibration.thresholds)
            .malicious
    }

    /// The model.
    pub fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Name of an input.
    pub fn input(&self, index: usize) -> &'static str {
        self.features[index].name
    }

    /// How the last flows stand to those of training, with the inputs that have moved most.
    pub fn fit(&self) -> Fit {
        self.drift.fit(DRIFTED)
    }

    /// The model's inputs for these flows, row after row, as [`predict`](Self::predict) takes them.
    pub fn finish(&mut self, records: &[FlowRecord], finished: Option<&Batch>) -> &[f32] {
        self.inputs.clear();
        for (i, record) in records.iter().enumerate() {
            if let Some(batch) = finished {
                let row = batch.row(i);
                self.inputs.extend(self.model.inputs().iter().map(|&column| to_input(row[column])));
            } else {
                let view = FlowView::new(record);
                self.inputs.extend(self.features.iter().map(|feature| to_input((feature.value)(&view))));
            }
        }
        &self.inputs
    }

    /// Scores every flow; None for those that the model gives no probability. `finished` has their features, if those of
    /// this scorer's set have been finished already.
    ///
    /// # Errors
    /// ONNX Runtime fails for all of them.
    pub fn predict(
        &mut self,
        records: &[FlowRecord],
        finished: Option<&Batch>,
    ) -> Result<Vec<Option<Prediction>>> {
        self.finish(records, finished);
        self.scores.clear();
        self.model.score(&self.inputs, &mut self.scores)?;
        self.observe(records);
        self.budget.begin();
        Ok((0..records.len()).map(|i| self.prediction(&records[i], i)).collect())
    }

    /// What is said of the flow in this row.
    fn prediction(&mut self, record: &FlowRecord, index: usize) -> Option<Prediction> {
        let width = self.features.len();
        let (row, score) = (&self.inputs[index * width..(index + 1) * width], f64::from(self.scores[index]));
        if score.is_nan() {
            if !self.said_unscorable {
                self.said_unscorable = true;
                log::error!(
                    "{} gives a flow no probability as its score; such flows go on without a verdict and are counted as \
                     not_scored",
                    self.model.name()
                );
            }
            return None;
        }
        let (verdict, threshold) = match &self.calibration {
            Some(calibration) => calibration.verdict(&self.model, score, row, service(record)),
            None => (self.model.verdict(score, row), self.model.thresholds().malicious),
        };
        let malicious = verdict == Verdict::Malicious;
        let mut unexplained = malicious && !self.budget.allows();
        let mut reasons = Vec::new();
        if malicious && !unexplained {
            let start = Instant::now();
            // A verdict is not lost for want of reasons.
            let found = self.model.reasons(row, REASONS);
            unexplained = found.is_err();
            for reason in found.unwrap_or_default() {
                let feature = self.features[reason.input];
                reasons.push(Explanation {
                    feature: feature.name,
                    value: reason.value,
                    unit: feature.unit,
                    normal: reason.normal,
                    normal_range: reason.normal_range,
                });
            }
            self.budget.spend(start.elapsed());
        }
        Some(Prediction { verdict, score, threshold, reasons, unexplained })
    }

    /// Compares ended flows with those of training. In a large batch it takes a part, evenly spread.
    fn observe(&mut self, records: &[FlowRecord]) {
        let rows = self.inputs.chunks_exact(self.features.len());
        let each = records.len().div_ceil(OBSERVED_PER_BATCH).max(1);
        for (record, row) in records.iter().zip(rows).step_by(each) {
            if matches!(record.stage, Stage::End(_)) && !record.is_aggregate() {
                self.drift.observe(row, self.model.is_foreign(row));
            }
        }
    }
}

/// The service that a flow is of.
pub fn service(record: &FlowRecord) -> Service {
    Service::of(record.entry.key.protocol, record.destination().port)
}
