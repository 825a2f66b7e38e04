//! From finished features to a verdict, with what moved it.

use anyhow::Result;
use serde::Serialize;

use crate::features::{FeatureSet, FlowView};
use crate::model::{Model, Verdict};
use crate::record::FlowRecord;

/// Reasons given with a malicious verdict.
const REASONS: usize = 3;
/// Most malicious flows of a batch for which reasons are computed: each takes a run of the model per input, and a
/// flood must not make the agent fall behind. The others are scored like any, and say so by an empty list.
const EXPLAINED_PER_BATCH: usize = 16;

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
}

/// Verdict on one flow of a batch.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Malicious, benign or unknown.
    pub verdict: Verdict,
    /// Probability of malicious.
    pub score: f64,
    /// What moved a malicious verdict.
    pub reasons: Vec<Explanation>,
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

    /// Number of flows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }
}

/// Scores batches with one model.
pub struct Judge {
    model: Model,
    set: &'static FeatureSet,
    inputs: Vec<f32>,
    scores: Vec<f32>,
}

impl Judge {
    /// A judge by this model, whose inputs are features of `set`.
    pub fn new(model: Model, set: &'static FeatureSet) -> Self {
        Self { model, set, inputs: Vec::new(), scores: Vec::new() }
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// The set that the model takes its inputs from.
    pub fn feature_set(&self) -> &'static FeatureSet {
        self.set
    }

    /// Score from which a flow is called malicious.
    pub fn threshold(&self) -> f64 {
        self.model.thresholds().malicious
    }

    /// Scores every row.
    ///
    /// # Errors
    /// ONNX Runtime fails, or gives what is no probability.
    pub fn judge(&mut self, batch: &Batch) -> Result<Vec<Judged>> {
        let rows = batch.rows();
        let width = self.model.inputs().len();
        self.inputs.clear();
        for i in 0..rows {
            let row = batch.row(i);
            self.inputs.extend(self.model.inputs().iter().map(|&column| crate::model::to_input(row[column])));
        }
        self.scores.clear();
        if rows != 0 {
            self.model.score(&self.inputs, &mut self.scores)?;
        }
        let mut explained = 0;
        let features: Vec<_> = self.set.features().collect();
        let mut judged = Vec::with_capacity(rows);
        for i in 0..rows {
            let row = &self.inputs[i * width..(i + 1) * width];
            let score = f64::from(self.scores[i]);
            let verdict = self.model.verdict(score, row);
            let mut reasons = Vec::new();
            if verdict == Verdict::Malicious && explained < EXPLAINED_PER_BATCH {
                explained += 1;
                for reason in self.model.reasons(row, REASONS)? {
                    let feature = features[self.model.inputs()[reason.input]];
                    reasons.push(Explanation {
                        feature: feature.name,
                        value: reason.value,
                        unit: feature.unit,
                        normal: reason.normal,
                    });
                }
            }
            judged.push(Judged { verdict, score, reasons });
        }
        Ok(judged)
    }
}
