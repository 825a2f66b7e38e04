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

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, bail};
use serde::Serialize;

use self::curves::{
    Load, Operating, Point, Reduction, area, at_fpr, at_missed, average_precision, precision, reduction, roc,
    thinned, thinned_reduction,
};
use self::truth::{Known, Truth, label};
use crate::flow_log::Row;
use crate::model::Verdict;

/// False positive rates at which the rate of hits is given.
const LIMITS: [f64; 5] = [1e-3, 1e-2, 2e-2, 5e-2, 1e-1];
/// Shares of malicious flows missed at which the traffic spared is given.
const MISSES: [f64; 4] = [1e-3, 1e-2, 5e-2, 1e-1];
/// Bars of the histograms of scores.
const BARS: usize = 40;

/// A verdict on a flow, at its end or while it lived.
#[derive(Clone, Copy, Debug)]
struct LoggedVerdict {
    score: f64,
    verdict: Verdict,
    /// Bytes so far.
    bytes: f64,
    /// Packets so far.
    packets: f64,
}

/// A flow that counts.
#[derive(Clone, Debug)]
struct Flow {
    end: LoggedVerdict,
    /// At its checkpoints, in their order, as far as they were written.
    checkpoints: Vec<LoggedVerdict>,
}

/// A part of a flow's traffic, and what was said before it came.
#[derive(Clone, Copy, Debug)]
struct Part {
    score: f64,
    verdict: Verdict,
    /// Bytes and packets.
    load: [f64; 2],
}

impl Flow {
    /// What a pre-filter could spare of it: what came after each checkpoint's verdict, or the flow as a whole by its last one
    /// where verdicts on living flows were not written.
    fn parts(&self, by_checkpoints: bool) -> Vec<Part> {
        if !by_checkpoints {
            let LoggedVerdict { score, verdict, bytes, packets } = self.end;
            return vec![Part { score, verdict, load: [bytes, packets] }];
        }
        let ends = self.checkpoints.iter().skip(1).chain([&self.end]);
        let part = |(at, end): (&LoggedVerdict, &LoggedVerdict)| Part {
            score: at.score,
            verdict: at.verdict,
            load: [(end.bytes - at.bytes).max(0.0), (end.packets - at.packets).max(0.0)],
        };
        self.checkpoints.iter().zip(ends).map(part).collect()
    }
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
    /// What was said of flows whose end has not come yet, by what tells them apart.
    living: HashMap<String, Vec<LoggedVerdict>>,
    /// Something was.
    by_checkpoints: bool,
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

/// Traffic that needs no deeper look.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spared {
    /// True if what counts is what came after each verdict on a living flow, and a flow is missed if any of its packets would
    /// have been spared. Otherwise each flow counts whole, by its last verdict, although its first packets pass before any.
    pub by_checkpoints: bool,
    /// By the verdicts as they were given.
    pub as_judged: Reduction,
    /// Of the malicious flows that the model sees, which are those called malicious in the end, the share of which packets were
    /// spared before. None if verdicts on living flows were not written.
    pub seen_too_late: Option<f64>,
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
    pub groups: Vec<GroupReport>,
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
            Some("verdict") => return self.take_living(row),
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
        // Before it is known whether the flow counts, so that what was said of it does not stay.
        let checkpoints = self.said_of(row);
        match logged_verdict(row) {
            Ok(Some(end)) => {
                let flow = Flow { end, checkpoints };
                self.groups.entry((source, category, malicious)).or_default().push(flow);
            }
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

    /// Takes what was said of a flow that lived.
    fn take_living(&mut self, row: &dyn Row) {
        match logged_verdict(row) {
            Ok(Some(logged)) => {
                self.by_checkpoints = true;
                self.living.entry(identity(row)).or_default().push(logged);
            }
            Ok(None) => self.left_out.not_scored += 1,
            Err(error) => self.malformed(&error),
        }
    }

    /// What was said of this flow, which has ended, while it lived.
    fn said_of(&mut self, row: &dyn Row) -> Vec<LoggedVerdict> {
        match self.living.is_empty() {
            true => Vec::new(),
            false => self.living.remove(&identity(row)).unwrap_or_default(),
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
        self.left_out.not_ended += self.living.values().map(|said| said.len() as u64).sum::<u64>();
        let said = self.groups.values().flatten().flat_map(|flow| flow.checkpoints.iter().chain([&flow.end]));
        let called_benign = said.filter(|said| said.verdict == Verdict::Benign);
        // A flow that is unknown although its score would clear it is unlike what the model was trained on.
        let clears = called_benign.map(|said| said.score).fold(f64::NEG_INFINITY, f64::max);
        let groups: Vec<GroupReport> = self.groups.iter().map(|(key, flows)| group(key, flows)).collect();
        let macro_means = rates(&groups, base_rate, |_| 1.0);
        let pooled = rates(&groups, base_rate, |group| group.flows as f64);
        let mut points = Vec::new();
        for ((_, _, malicious), flows) in &self.groups {
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
            let flows = self.groups.values().flatten();
            flows.filter(|f| verdict.is_none_or(|v| f.end.verdict == v)).map(|f| f.end.bytes).sum()
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
        let quantities: [fn(&Flow) -> f64; 3] = [|f| f.end.bytes, |f| f.end.packets, |_| 1.0];
        let (all_malicious, all_benign) = (total(true, |_| 1.0), quantities.map(|of| total(false, of)));
        let (malicious_groups, benign_groups) = (number(true), number(false));
        if all_malicious == 0.0 || all_benign[2] == 0.0 {
            return None;
        }
        // Of each group, or of all: flows called malicious in the end, and those of them that were cleared before.
        let mut seen: Vec<[f64; 2]> = Vec::new();
        for ((.., malicious), flows) in &self.groups {
            if *malicious && (by_group || seen.is_empty()) {
                seen.push([0.0; 2]);
            }
            let sums = quantities.map(|of| flows.iter().map(of).sum::<f64>());
            let share = |i: usize| {
                let whole = if by_group { sums[i] * benign_groups } else { all_benign[i] };
                if whole == 0.0 { 0.0 } else { 1.0 / whole }
            };
            let shares = [share(0), share(1), share(2)];
            let missed = if by_group { 1.0 / (sums[2] * malicious_groups) } else { 1.0 / all_malicious };
            for flow in flows {
                let parts = flow.parts(self.by_checkpoints);
                let clearing = |part: &Part| {
                    let foreign = part.verdict == Verdict::Unknown && part.score <= clears;
                    if foreign { f64::INFINITY } else { part.score }
                };
                // The flow itself: it is missed, or spared, as soon as a part of it is.
                let (earliest, cleared) = parts.iter().fold((f64::INFINITY, false), |(least, any), part| {
                    (least.min(clearing(part)), any || part.verdict == Verdict::Benign)
                });
                let whole = match malicious {
                    true => Load { score: earliest, missed, spared: [0.0; 3] },
                    false => Load { score: earliest, missed: 0.0, spared: [0.0, 0.0, shares[2]] },
                };
                if *malicious
                    && flow.end.verdict == Verdict::Malicious
                    && let Some([number, too_late]) = seen.last_mut()
                {
                    *number += 1.0;
                    *too_late += f64::from(u8::from(cleared));
                }
                if cleared {
                    judged.missed += whole.missed;
                    judged.flows += whole.spared[2];
                }
                loads.push(whole);
                for part in parts.iter().filter(|_| !malicious) {
                    let spared = [part.load[0] * shares[0], part.load[1] * shares[1], 0.0];
                    if part.verdict == Verdict::Benign {
                        judged.bytes += spared[0];
                        judged.packets += spared[1];
                    }
                    loads.push(Load { score: clearing(part), missed: 0.0, spared });
                }
            }
        }
        judged.threshold = if clears.is_finite() { clears.next_up() } else { 0.0 };
        let mut curve = reduction(&mut loads);
        curve.retain(|point| point.threshold.is_finite());
        let at_missed = MISSES.iter().filter_map(|&limit| Some((limit, at_missed(&curve, limit)?))).collect();
        let shares: Vec<f64> = seen.iter().filter(|[n, _]| *n > 0.0).map(|[n, late]| late / n).collect();
        let late = (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64);
        Some(Spared {
            by_checkpoints: self.by_checkpoints,
            seen_too_late: late.filter(|_| self.by_checkpoints),
            as_judged: judged,
            at_missed,
            curve: thinned_reduction(&curve),
        })
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

/// What was said; None if nothing was.
fn logged_verdict(row: &dyn Row) -> Result<Option<LoggedVerdict>> {
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
    Ok(Some(LoggedVerdict {
        score,
        verdict,
        bytes: either("flow_bytes", "bytes"),
        packets: either("flow_packets", "packets"),
    }))
}

/// What tells a flow from all others, while it lives as at its end.
fn identity(row: &dyn Row) -> String {
    const COLUMNS: [&str; 12] = [
        "observed",
        "timestamp",
        "community_id",
        "src_ip",
        "src_port",
        "dst_ip",
        "dst_port",
        "protocol",
        "vlan",
        "inner_vlan",
        "tunnel",
        "tunnel_id",
    ];
    let mut identity = String::new();
    for column in COLUMNS {
        identity.push_str(row.text(column).as_deref().unwrap_or_default());
        identity.push('\n');
    }
    identity
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

fn group((source, category, malicious): &(String, String, bool), flows: &[Flow]) -> GroupReport {
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
