//! What is said of a flow: verdict, score, and what moved it.

use serde::Serialize;

use crate::model::Verdict;
use crate::record::FlowRecord;

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
    /// The range of nine tenths of them, if the model has it.
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
    /// True if it is malicious and has no reasons because many came at once, see [`Prediction::unexplained`].
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
