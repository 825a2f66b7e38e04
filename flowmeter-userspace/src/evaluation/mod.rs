//! How good verdicts are: labelled flows in, a report out.
//!
//! [`truth`] says what a flow is, this file collects flows and calculates, [`curves`] has the arithmetic of thresholds,
//! [`text`] and [`html`] write the report for people. Its fields, as JSON, are for programs.
//!
//! Figures are means over (source, category) groups, so that no flood of one tool decides them; those over all flows alike
//! stand beside them.

pub mod curves;
pub mod html;
mod plot;
pub mod text;
pub mod truth;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Serialize;

use self::curves::{
    Load, Operating, Point, Reduction, area, at_fpr, at_missed, average_precision, precision, reduction, roc,
    thinned, thinned_reduction,
};
use self::truth::{Known, Truth, label};
use crate::model::Verdict;
use crate::written::Row;

/// False positive rates at which the rate of hits is given.
const LIMITS: [f64; 5] = [1e-3, 1e-2, 2e-2, 5e-2, 1e-1];
/// Shares of malicious flows missed at which the traffic spared is given.
const MISSES: [f64; 4] = [1e-3, 1e-2, 5e-2, 1e-1];
/// Bars of the histograms of scores.
const BARS: usize = 40;

/// A flow that counts.
#[derive(Clone, Copy, Debug)]
struct Flow {
    score: f64,
    verdict: Verdict,
    bytes: f64,
    packets: f64,
}

/// Rows that do not count, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Lines of statistics and of flows that still lived.
    pub not_ended: u64,
    /// Sums of flows that found no slot: no flow of its own.
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

/// Collects labelled flows.
#[derive(Default)]
pub struct Evaluation {
    groups: BTreeMap<(String, String, bool), Vec<Flow>>,
    left_out: LeftOut,
    models: BTreeSet<String>,
    thresholds: BTreeSet<u64>,
    first_malformed: Option<String>,
    first_unknown: Option<String>,
}

/// Shares of flows called malicious.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Of malicious flows.
    pub tpr: Option<f64>,
    /// Of benign flows.
    pub fpr: Option<f64>,
    /// Share of malicious among those called so, at the base rate.
    pub precision: Option<f64>,
    /// Malicious flows called benign.
    pub missed: Option<f64>,
}

/// One (source, category) and what is true of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
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
    /// Between what shares that lies with 95 % confidence, if flows were drawn independently (Wilson).
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

/// Traffic that needs no deeper look. A flow counts whole, although its first packets pass before its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spared {
    /// By the verdicts as they were given.
    pub as_judged: Reduction,
    /// For shares of malicious flows missed: the most that can be spared. Chosen on these very scores.
    pub at_missed: Vec<(f64, Reduction)>,
    /// Over the benign threshold. Flows that the model takes for unlike its training are never cleared.
    pub curve: Vec<Reduction>,
}

/// How often scores occur, by truth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Shares of benign flows, by equal steps of the score.
    pub benign: Vec<f64>,
    /// Of malicious flows.
    pub malicious: Vec<f64>,
}

/// All figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
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
    pub groups: Vec<Group>,
    /// The ROC curve, over groups alike; thinned.
    pub roc: Vec<Operating>,
    /// Over groups alike.
    pub histogram: Histogram,
}

impl Evaluation {
    /// Takes a row of a log or table. Its label is that of `truth` if there is one, else its own.
    pub fn take(&mut self, row: &dyn Row, truth: Option<&Truth>) {
        match row.text("event").as_deref() {
            None | Some("flow") => {}
            Some("aggregate") => return self.left_out.aggregates += 1,
            Some(_) => return self.left_out.not_ended += 1,
        }
        // In tables an aggregate is told by how it ended.
        if row.text("end_reason").as_deref() == Some("folded") {
            return self.left_out.aggregates += 1;
        }
        let known = match truth {
            Some(truth) => truth.of(row).cloned(),
            None => match own_truth(row) {
                Ok(known) => known,
                Err(error) => return self.malformed(&error),
            },
        };
        let Some(Known { malicious, source, category }) = known else {
            self.first_unknown.get_or_insert_with(|| describe(row));
            return self.left_out.without_truth += 1;
        };
        let Some(malicious) = malicious else {
            return self.left_out.left_open += 1;
        };
        match flow(row) {
            Ok(Some(flow)) => self.groups.entry((source, category, malicious)).or_default().push(flow),
            Ok(None) => return self.left_out.not_scored += 1,
            Err(error) => return self.malformed(&error),
        }
        if let Some(model) = row.text("model")
            && !self.models.contains(model.as_ref())
        {
            self.models.insert(model.into_owned());
        }
        if let Some(threshold) = row.number("threshold") {
            self.thresholds.insert(threshold.to_bits());
        }
    }

    /// Counts rows that could not be read.
    pub fn damaged(&mut self, rows: u64) {
        self.left_out.damaged += rows;
    }

    fn malformed(&mut self, error: &anyhow::Error) {
        self.left_out.malformed += 1;
        self.first_malformed.get_or_insert_with(|| format!("{error:#}"));
    }

    /// What was wrong with the first row that is not as it must be.
    pub fn first_malformed(&self) -> Option<&str> {
        self.first_malformed.as_deref()
    }

    /// The report, with precision where a share `base_rate` of flows is malicious.
    ///
    /// # Errors
    /// No flow counts, or flows were judged by several models.
    pub fn report(mut self, base_rate: f64) -> Result<Report> {
        if self.groups.is_empty() {
            bail!("{}", self.why_empty());
        }
        if self.models.len() > 1 {
            let models: Vec<_> = self.models.into_iter().collect();
            bail!("flows were judged by several models ({}); evaluate one at a time", models.join(", "));
        }
        let called_benign = self.groups.values().flatten().filter(|f| f.verdict == Verdict::Benign);
        // A flow that is unknown although its score would clear it is unlike what the model was trained on.
        let clears = called_benign.map(|f| f.score).fold(f64::NEG_INFINITY, f64::max);
        let groups: Vec<Group> = self.groups.iter().map(|(key, flows)| group(key, flows)).collect();
        let macro_means = rates(&groups, base_rate, |_| 1.0);
        let pooled = rates(&groups, base_rate, |group| group.flows as f64);
        let mut points = Vec::new();
        for ((_, _, malicious), flows) in &self.groups {
            let weight = 1.0 / flows.len() as f64;
            points.extend(flows.iter().map(|f| Point { score: f.score, malicious: *malicious, weight }));
        }
        let histogram = histogram(&points);
        let curve = roc(&mut points);
        let at_fpr = LIMITS.iter().filter_map(|&limit| {
            let Operating { threshold, fpr, tpr } = at_fpr(&curve, limit)?;
            Some(AtLimit { fpr: limit, tpr, threshold, precision: precision(tpr, fpr, base_rate) })
        });
        let bytes = |verdict: Option<Verdict>| -> f64 {
            let flows = self.groups.values().flatten();
            flows.filter(|f| verdict.is_none_or(|v| f.verdict == v)).map(|f| f.bytes).sum()
        };
        let mut report = Report {
            model: std::mem::take(&mut self.models).into_iter().next(),
            thresholds: self.thresholds.iter().map(|&bits| f64::from_bits(bits)).collect(),
            base_rate,
            flows: groups.iter().map(|g| g.flows).sum(),
            left_out: self.left_out.clone(),
            macro_means,
            pooled,
            roc_auc: area(&curve),
            average_precision: average_precision(&curve, base_rate),
            at_fpr: at_fpr.collect(),
            bytes_called_benign: bytes(Some(Verdict::Benign)) / bytes(None).max(1.0),
            spared: self.spared(clears, true),
            spared_pooled: self.spared(clears, false),
            groups,
            roc: thinned(&curve),
            histogram,
        };
        report.groups.sort_by_key(|group| group.malicious);
        Ok(report)
    }

    /// Traffic spared and flows missed, over groups or over flows alike; None unless there are flows of both kinds.
    fn spared(&self, clears: f64, by_group: bool) -> Option<Spared> {
        let mut loads = Vec::new();
        let mut judged = Reduction::default();
        let number =
            |kind: bool| self.groups.keys().filter(|(.., malicious)| *malicious == kind).count() as f64;
        let total = |kind: bool, of: fn(&Flow) -> f64| -> f64 {
            self.groups.iter().filter(|((.., m), _)| *m == kind).flat_map(|(_, flows)| flows).map(of).sum()
        };
        let quantities: [fn(&Flow) -> f64; 3] = [|f| f.bytes, |f| f.packets, |_| 1.0];
        let (all_malicious, all_benign) = (total(true, |_| 1.0), quantities.map(|of| total(false, of)));
        let (malicious_groups, benign_groups) = (number(true), number(false));
        if all_malicious == 0.0 || all_benign[2] == 0.0 {
            return None;
        }
        for ((.., malicious), flows) in &self.groups {
            let sums = quantities.map(|of| flows.iter().map(of).sum::<f64>());
            for flow in flows {
                let part = |i: usize| {
                    let whole = if by_group { sums[i] * benign_groups } else { all_benign[i] };
                    if whole == 0.0 { 0.0 } else { quantities[i](flow) / whole }
                };
                let (missed, spared) = match (malicious, by_group) {
                    (true, true) => (1.0 / (sums[2] * malicious_groups), [0.0; 3]),
                    (true, false) => (1.0 / all_malicious, [0.0; 3]),
                    (false, _) => (0.0, [part(0), part(1), part(2)]),
                };
                if flow.verdict == Verdict::Benign {
                    judged.missed += missed;
                    judged.bytes += spared[0];
                    judged.packets += spared[1];
                    judged.flows += spared[2];
                }
                let foreign = flow.verdict == Verdict::Unknown && flow.score <= clears;
                loads.push(Load { score: if foreign { f64::INFINITY } else { flow.score }, missed, spared });
            }
        }
        judged.threshold = if clears.is_finite() { clears.next_up() } else { 0.0 };
        let mut curve = reduction(&mut loads);
        curve.retain(|point| point.threshold.is_finite());
        let at_missed = MISSES.iter().filter_map(|&limit| Some((limit, at_missed(&curve, limit)?))).collect();
        Some(Spared { as_judged: judged, at_missed, curve: thinned_reduction(&curve) })
    }

    fn why_empty(&self) -> String {
        let LeftOut { without_truth, left_open, not_scored, malformed, not_ended, .. } = self.left_out;
        if let Some(flow) = self.first_unknown.as_ref().filter(|_| without_truth >= not_scored.max(malformed))
        {
            return format!(
                "nothing is known about any of {without_truth} flows, such as {flow}: give `--truth FILE` whose rows name them, or \
                 flows with a column `label`"
            );
        }
        match &self.first_malformed {
            Some(first) => {
                format!("none of the flows can be used; {malformed} are malformed, first: {first}")
            }
            None if not_scored != 0 => {
                format!("none of {not_scored} labelled flows has a score: they were written without a model")
            }
            None => format!(
                "there is no labelled flow: {left_open} are left open by the truth, {not_ended} lines are no ended flow"
            ),
        }
    }
}

/// The truth that stands in the flow itself.
fn own_truth(row: &dyn Row) -> Result<Option<Known>> {
    let Some(text) = row.text("label") else { return Ok(None) };
    let observed = || row.text("observed").map_or_else(|| "all".to_owned(), Into::into);
    Ok(Some(Known {
        malicious: label(Some(&text))?,
        source: row.text("source").map_or_else(observed, Into::into),
        category: row.text("category").map_or_else(|| "all".to_owned(), Into::into),
    }))
}

/// What counts of a flow; None if it was not scored.
fn flow(row: &dyn Row) -> Result<Option<Flow>> {
    let verdict = match row.text("verdict").as_deref() {
        Some("malicious") => Verdict::Malicious,
        Some("benign") => Verdict::Benign,
        Some("unknown") => Verdict::Unknown,
        None | Some("none") => return Ok(None),
        Some(other) => bail!("{other:?} is no verdict"),
    };
    let Some(score) = row.number("score") else { return Ok(None) };
    if !(0.0..=1.0).contains(&score) {
        bail!("the score {score} does not lie between 0 and 1");
    }
    // The log and our own tables name them differently; tables of other tools have neither.
    let either = |one, other| row.number(one).or_else(|| row.number(other)).unwrap_or(0.0).max(0.0);
    Ok(Some(Flow {
        score,
        verdict,
        bytes: either("flow_bytes", "bytes"),
        packets: either("flow_packets", "packets"),
    }))
}

/// A flow in words, for a message.
fn describe(row: &dyn Row) -> String {
    let cell = |name: &str| row.text(name).map_or_else(|| "?".to_owned(), Into::into);
    format!(
        "{} port {} to {} port {} (protocol {}, observed {})",
        cell("src_ip"),
        cell("src_port"),
        cell("dst_ip"),
        cell("dst_port"),
        cell("protocol"),
        cell("observed")
    )
}

fn group((source, category, malicious): &(String, String, bool), flows: &[Flow]) -> Group {
    let count = flows.len() as f64;
    let share = |verdict| flows.iter().filter(|f| f.verdict == verdict).count() as f64 / count;
    let bytes: f64 = flows.iter().map(|f| f.bytes).sum();
    let cleared = flows.iter().filter(|f| f.verdict == Verdict::Benign).map(|f| f.bytes).sum::<f64>();
    let flagged = share(Verdict::Malicious);
    Group {
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

fn rates(groups: &[Group], base_rate: f64, weight: impl Fn(&Group) -> f64) -> Rates {
    let mean = |malicious: bool, of: fn(&Group) -> f64| {
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
