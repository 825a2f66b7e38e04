//! From finished features to a verdict, with what moved it.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::calibration::{Calibration, Service};
use crate::features::{Feature, FeatureSet, FlowView};
use crate::model::drift::{Drift, Fit};
use crate::model::{Model, Verdict, to_input};
use crate::record::{FlowRecord, Stage};

/// Reasons given with a malicious verdict.
const REASONS: usize = 3;
/// Most malicious flows of a batch for which reasons are computed: each takes two runs of the model per input, and a
/// flood must not make the agent fall behind. The others are scored like any, and marked.
const EXPLAINED_PER_BATCH: usize = 8;
/// Live, where batches are as small as the traffic is slow, the bound is a share of the time, of which so much can be saved up.
const EXPLAINING_SHARE: f64 = 0.2;
const EXPLAINING_SAVED: Duration = Duration::from_millis(10);

/// Most flows of a batch that are compared with those of training.
const OBSERVED_PER_BATCH: usize = 256;
/// Inputs that are named when the traffic no longer looks like that of training.
const DRIFTED: usize = 5;

/// A feature that moved a verdict.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Explanation {
    /// Feature name.
    pub feature: &'static str,
    /// Its value in this flow.
    pub value: f32,
    /// Unit of both values.
    pub unit: &'static str,
    /// The median of benign flows that the model was trained on.
    pub normal: f32,
    /// Between what values nine tenths of them lie, if the model says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normal_range: Option<(f32, f32)>,
}

/// A flow with all that is said about it.
pub struct Scored<'a> {
    /// The flow.
    pub record: &'a FlowRecord,
    /// Interface or capture that it was seen on.
    pub observed: Option<&'a str>,
    /// Values of the feature set, in order.
    pub features: &'a [f64],
    /// None if there is no model.
    pub verdict: Option<Verdict>,
    /// Probability of malicious.
    pub score: Option<f64>,
    /// Score from which a flow is called malicious.
    pub threshold: Option<f64>,
    /// Name of the model.
    pub model: Option<&'a str>,
    /// What moved a malicious verdict, most first.
    pub reasons: &'a [Explanation],
    /// True if it is malicious and was not asked why, see [`Prediction::unexplained`].
    pub unexplained: bool,
}

/// Verdict on one flow of a batch.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Malicious, benign or unknown.
    pub verdict: Verdict,
    /// Probability of malicious.
    pub score: f64,
    /// Score from which it would be malicious.
    pub threshold: f64,
    /// What moved a malicious verdict.
    pub reasons: Vec<Explanation>,
    /// True if it is malicious, and more such flows came at once than are explained.
    pub unexplained: bool,
}

/// Features of a batch of flows, by row.
#[derive(Default)]
pub struct Batch {
    /// All values, row after row.
    values: Vec<f64>,
    columns: usize,
}

impl Batch {
    /// Finishes the features of `records`.
    pub fn of(records: &[FlowRecord], set: &FeatureSet) -> Self {
        let columns = set.features().count();
        let mut values = Vec::with_capacity(records.len() * columns);
        for record in records {
            set.values(&FlowView::new(record), &mut values);
        }
        Self { values, columns }
    }

    /// Values of one flow.
    pub fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }
}

/// How much is explained.
enum Limit {
    /// So many flows of a batch: the same at every reading of a capture.
    Count {
        /// Of this batch.
        explained: usize,
    },
    /// A share of the time.
    Time {
        /// Seconds that may be spent; less than 0 after one that took longer.
        saved: f64,
        /// When that was added to last.
        at: Instant,
    },
}

impl Limit {
    /// A batch begins.
    fn begin(&mut self) {
        match self {
            Self::Count { explained } => *explained = 0,
            Self::Time { saved, at } => {
                let now = Instant::now();
                let earned = now.duration_since(*at).as_secs_f64() * EXPLAINING_SHARE;
                *saved = (*saved + earned).min(EXPLAINING_SAVED.as_secs_f64());
                *at = now;
            }
        }
    }

    /// Whether another flow is explained.
    fn allows(&self) -> bool {
        match self {
            Self::Count { explained } => *explained < EXPLAINED_PER_BATCH,
            Self::Time { saved, .. } => *saved > 0.0,
        }
    }

    /// One has been, and took so long.
    fn spend(&mut self, took: Duration) {
        match self {
            Self::Count { explained } => *explained += 1,
            Self::Time { saved, .. } => *saved -= took.as_secs_f64(),
        }
    }
}

/// Scores batches with one model.
pub struct Scorer {
    model: Model,
    set: &'static FeatureSet,
    /// The model's inputs, in its order.
    features: Vec<&'static Feature>,
    calibration: Option<Calibration>,
    drift: Drift,
    limit: Limit,
    inputs: Vec<f32>,
    scores: Vec<f32>,
}

impl Scorer {
    /// A scorer by this model, whose inputs are features of `set`.
    pub fn new(model: Model, set: &'static FeatureSet) -> Self {
        let all: Vec<_> = set.features().collect();
        let features = model.inputs().iter().map(|&column| all[column]).collect();
        let drift = Drift::new(model.distribution().map(Into::into));
        let limit = Limit::Count { explained: 0 };
        Self { model, set, features, calibration: None, drift, limit, inputs: Vec::new(), scores: Vec::new() }
    }

    /// ScorerLoader by what was learned of a network, if there is something.
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
        Self { limit: Limit::Time { saved: EXPLAINING_SAVED.as_secs_f64(), at: Instant::now() }, ..self }
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

    /// The model's inputs for these flows, row after row, as [`scorer`](Self::scorer) takes them.
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

    /// Scores every flow. `finished` has their features, if those of this scorer's set have been finished already.
    ///
    /// # Errors
    /// ONNX Runtime fails, or gives what is no probability.
    pub fn predict(&mut self, records: &[FlowRecord], finished: Option<&Batch>) -> Result<Vec<Prediction>> {
        self.finish(records, finished);
        self.scores.clear();
        self.model.score(&self.inputs, &mut self.scores)?;
        self.observe(records);
        let width = self.features.len();
        self.limit.begin();
        let mut predictions = Vec::with_capacity(records.len());
        let rows = self.inputs.chunks_exact(width).zip(&self.scores);
        for (record, (row, &score)) in records.iter().zip(rows) {
            let score = f64::from(score);
            let (verdict, threshold) = match &self.calibration {
                Some(calibration) => calibration.verdict(&self.model, score, row, service(record)),
                None => (self.model.verdict(score, row), self.model.thresholds().malicious),
            };
            let malicious = verdict == Verdict::Malicious;
            let unexplained = malicious && !self.limit.allows();
            let mut reasons = Vec::new();
            if malicious && !unexplained {
                let start = Instant::now();
                for reason in self.model.reasons(row, REASONS)? {
                    let feature = self.features[reason.input];
                    reasons.push(Explanation {
                        feature: feature.name,
                        value: reason.value,
                        unit: feature.unit,
                        normal: reason.normal,
                        normal_range: reason.normal_range,
                    });
                }
                self.limit.spend(start.elapsed());
            }
            predictions.push(Prediction { verdict, score, threshold, reasons, unexplained });
        }
        Ok(predictions)
    }

    /// Compares flows that have ended with those of training; of a large batch a part, evenly spread.
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
