//! All figures of an evaluation, and how they are calculated.

use serde::Serialize;

use super::curves::{Operating, Point, area, at_fpr, average_precision, precision, roc, thinned};
use super::flow::{Groups, LabelledFlow};
use super::spared::{Spared, spared};
use crate::model::Verdict;

/// False positive rates at which the rate of hits is given.
const LIMITS: [f64; 5] = [1e-3, 1e-2, 2e-2, 5e-2, 1e-1];
/// Bars of the histograms of scores.
pub const BARS: usize = 40;

/// Rows that do not count, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Lines of statistics and of flows that still lived.
    pub not_ended: u64,
    /// Sums of packets whose flows found no slot.
    pub aggregates: u64,
    /// Nothing is known about them.
    pub without_truth: u64,
    /// The truth leaves them open.
    pub left_open: u64,
    /// They have no verdict or no score.
    pub not_scored: u64,
    /// A cell is not what it must be.
    pub malformed: u64,
    /// The row cannot be read.
    pub damaged: u64,
}

/// Shares of flows called malicious.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Share of malicious flows called so.
    pub tpr: Option<f64>,
    /// Share of benign flows called malicious.
    pub fpr: Option<f64>,
    /// Share of malicious flows among those called so, at the base rate.
    pub precision: Option<f64>,
    /// Share of malicious flows called benign.
    pub missed: Option<f64>,
}

/// One (source, category) and what is true of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// Network, collection or day.
    pub source: String,
    /// Kind of attack or use.
    pub category: String,
    /// What its flows are.
    pub malicious: bool,
    /// How many.
    pub flows: usize,
    /// Bytes of them.
    pub bytes: f64,
    /// Share called malicious.
    pub flagged: f64,
    /// The 95 % interval of that share (Wilson), if flows were drawn independently.
    pub flagged_interval: (f64, f64),
    /// Share called benign.
    pub cleared: f64,
    /// Share called unknown.
    pub unknown: f64,
    /// Share of bytes in flows called benign.
    pub cleared_bytes: f64,
}

/// A false positive rate and what it allows. Chosen on these very scores: an upper bound, for reading only.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtLimit {
    /// Largest share of benign flows called malicious.
    pub fpr: f64,
    /// Share of malicious flows found.
    pub tpr: f64,
    /// Score from which flows would be called malicious.
    pub threshold: f64,
    /// Precision at the base rate.
    pub precision: Option<f64>,
}

/// How often scores occur, by truth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Shares of benign flows, by equal steps of the score.
    pub benign: Vec<f64>,
    /// Shares of malicious flows, by the same steps.
    pub malicious: Vec<f64>,
}

/// All figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationReport {
    /// Name of the model.
    pub model: Option<String>,
    /// Scores from which flows were called malicious, as the log has it.
    pub thresholds: Vec<f64>,
    /// Share of malicious flows that precision is given for.
    pub base_rate: f64,
    /// Flows that count.
    pub flows: usize,
    /// Rows that do not, by reason.
    pub left_out: LeftOut,
    /// At the verdicts as given: means over groups.
    pub macro_means: Rates,
    /// Over all flows alike.
    pub pooled: Rates,
    /// Area under the ROC curve.
    pub roc_auc: Option<f64>,
    /// Area under the precision-recall curve at the base rate.
    pub average_precision: Option<f64>,
    /// What thresholds could do.
    pub at_fpr: Vec<AtLimit>,
    /// Share of all bytes in flows called benign.
    pub bytes_called_benign: f64,
    /// Traffic spared, as means over groups.
    pub spared: Option<Spared>,
    /// The same over all flows alike.
    pub spared_pooled: Option<Spared>,
    /// Every group, benign first.
    pub groups: Vec<GroupReport>,
    /// The ROC curve, over groups alike; thinned.
    pub roc: Vec<Operating>,
    /// Over groups alike.
    pub histogram: Histogram,
}

impl EvaluationReport {
    /// The figures of these flows; who judged them, and what was left out, is not known here.
    pub(super) fn of(flows: &Groups, by_checkpoints: bool, base_rate: f64) -> Self {
        let said = flows.values().flatten().flat_map(|flow| flow.checkpoints.iter().chain([&flow.end]));
        let called_benign = said.filter(|said| said.verdict == Verdict::Benign);
        // A flow that is unknown although its score would clear it is unlike what the model was trained on.
        let clears = called_benign.map(|said| said.score).fold(f64::NEG_INFINITY, f64::max);
        let mut groups: Vec<GroupReport> = flows.iter().map(|(key, flows)| group(key, flows)).collect();
        let macro_means = rates(&groups, base_rate, |_| 1.0);
        let pooled = rates(&groups, base_rate, |group| group.flows as f64);
        let mut points = Vec::new();
        for ((_, _, malicious), flows) in flows {
            let weight = 1.0 / flows.len() as f64;
            points.extend(flows.iter().map(|f| Point { score: f.end.score, malicious: *malicious, weight }));
        }
        let histogram = histogram(&points);
        let curve = roc(&mut points);
        let at_fpr = LIMITS.iter().filter_map(|&limit| {
            let Operating { threshold, fpr, tpr } = at_fpr(&curve, limit)?;
            Some(AtLimit { fpr: limit, tpr, threshold, precision: precision(tpr, fpr, base_rate) })
        });
        let bytes = |verdict: Option<Verdict>| -> f64 {
            let flows = flows.values().flatten();
            flows.filter(|f| verdict.is_none_or(|v| f.end.verdict == v)).map(|f| f.end.bytes).sum()
        };
        groups.sort_by_key(|group| group.malicious);
        Self {
            model: None,
            thresholds: Vec::new(),
            base_rate,
            flows: groups.iter().map(|g| g.flows).sum(),
            left_out: LeftOut::default(),
            macro_means,
            pooled,
            roc_auc: area(&curve),
            average_precision: average_precision(&curve, base_rate),
            at_fpr: at_fpr.collect(),
            bytes_called_benign: bytes(Some(Verdict::Benign)) / bytes(None).max(1.0),
            spared: spared(flows, by_checkpoints, clears, true),
            spared_pooled: spared(flows, by_checkpoints, clears, false),
            groups,
            roc: thinned(&curve),
            histogram,
        }
    }
}

fn group((source, category, malicious): &(String, String, bool), flows: &[LabelledFlow]) -> GroupReport {
    let count = flows.len() as f64;
    let share = |verdict| flows.iter().filter(|f| f.end.verdict == verdict).count() as f64 / count;
    let bytes: f64 = flows.iter().map(|f| f.end.bytes).sum();
    let cleared = flows.iter().filter(|f| f.end.verdict == Verdict::Benign).map(|f| f.end.bytes).sum::<f64>();
    let flagged = share(Verdict::Malicious);
    GroupReport {
        source: source.clone(),
        category: category.clone(),
        malicious: *malicious,
        flows: flows.len(),
        bytes,
        flagged,
        flagged_interval: wilson(flagged, count),
        cleared: share(Verdict::Benign),
        unknown: share(Verdict::Unknown),
        cleared_bytes: if bytes > 0.0 { cleared / bytes } else { 0.0 },
    }
}

/// Wilson's interval of a share `p` found in `n`, at 95 %.
fn wilson(p: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let reach = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre - reach).max(0.0), (centre + reach).min(1.0))
}

fn rates(groups: &[GroupReport], base_rate: f64, weight: impl Fn(&GroupReport) -> f64) -> Rates {
    let mean = |malicious: bool, of: fn(&GroupReport) -> f64| {
        let chosen = || groups.iter().filter(|group| group.malicious == malicious);
        let whole: f64 = chosen().map(&weight).sum();
        (whole > 0.0).then(|| chosen().map(|group| of(group) * weight(group)).sum::<f64>() / whole)
    };
    let (tpr, fpr) = (mean(true, |g| g.flagged), mean(false, |g| g.flagged));
    let precision = tpr.zip(fpr).and_then(|(tpr, fpr)| precision(tpr, fpr, base_rate));
    Rates { tpr, fpr, precision, missed: mean(true, |g| g.cleared) }
}

fn histogram(points: &[Point]) -> Histogram {
    let bars = |kind| {
        let mut bars = vec![0.0; BARS];
        for point in points.iter().filter(|p| p.malicious == kind) {
            bars[((point.score * BARS as f64) as usize).min(BARS - 1)] += point.weight;
        }
        let whole: f64 = bars.iter().sum();
        bars.iter().map(|bar| if whole > 0.0 { bar / whole } else { 0.0 }).collect()
    };
    Histogram { benign: bars(false), malicious: bars(true) }
}
