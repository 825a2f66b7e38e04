//! The report for a terminal.

use std::fmt::{self, Display, Formatter};

use super::report::{EvaluationReport, GroupReport, LeftOut, Rates};
use crate::count::count;

/// Writes a report as text.
pub struct Text<'a>(pub &'a EvaluationReport);

/// A share with three digits, or a dash.
pub struct Share(pub Option<f64>);

impl Display for Share {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(share) => f.pad(&format!("{share:.3}")),
            None => f.pad("-"),
        }
    }
}

/// What a base rate or limit is called: 0.001 as 0.1 %.
pub fn percent(share: f64) -> String {
    let text = format!("{:.4}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

impl LeftOut {
    /// Each reason that occurs, with its number.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("lines about no ended flow", self.not_ended),
            ("aggregates", self.aggregates),
            ("flows without truth", self.without_truth),
            ("flows that the truth leaves open", self.left_open),
            ("flows without a score", self.not_scored),
            ("malformed rows", self.malformed),
            ("rows that cannot be read", self.damaged),
        ];
        all.into_iter().filter(|(_, number)| *number != 0).collect()
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        groups(f, &self.0.groups)?;
        means(f, self.0)?;
        thresholds(f, self.0)?;
        write!(f, "\n{}", count(self.0.flows as u64, "flow"))?;
        if let Some(model) = &self.0.model {
            write!(f, ", scored by {model}")?;
        }
        for (reason, number) in self.0.left_out.list() {
            write!(f, "; left out: {number} {reason}")?;
        }
        writeln!(f)
    }
}

/// A line for each group.
fn groups(f: &mut Formatter<'_>, groups: &[GroupReport]) -> fmt::Result {
    let width = |of: fn(&GroupReport) -> &str| {
        groups.iter().map(|g| of(g).chars().count().min(34)).max().unwrap_or(0).max(8)
    };
    let (sources, categories) = (width(|g| &g.source), width(|g| &g.category));
    writeln!(
        f,
        "{:sources$} {:categories$} {:9} {:>8} {:>9} {:>8} {:>8}",
        "source", "category", "truth", "flows", "malicious", "unknown", "benign"
    )?;
    for g in groups {
        let truth = if g.malicious { "malicious" } else { "benign" };
        writeln!(
            f,
            "{:sources$} {:categories$} {truth:9} {:8} {:9.3} {:8.3} {:8.3}",
            shortened(&g.source),
            shortened(&g.category),
            g.flows,
            g.flagged,
            g.unknown,
            g.cleared
        )?;
    }
    Ok(())
}

/// Figures at the verdicts as given: means of groups beside those over all flows alike.
fn means(f: &mut Formatter<'_>, report: &EvaluationReport) -> fmt::Result {
    writeln!(f, "\n{:45} {:>12} {:>12}", "", "mean of", "all flows")?;
    writeln!(f, "{:45} {:>12} {:>12}", "", "groups", "alike")?;
    let base = format!("precision, {} of flows malicious", percent(report.base_rate));
    type RateOf = fn(&Rates) -> Option<f64>;
    let rows: [(&str, RateOf); 4] = [
        ("malicious flows called malicious (TPR)", |r| r.tpr),
        ("benign flows called malicious (FPR)", |r| r.fpr),
        (&base, |r| r.precision),
        ("malicious flows called benign", |r| r.missed),
    ];
    for (name, of) in rows {
        let (mean, pooled) = (of(&report.macro_means), of(&report.pooled));
        writeln!(f, "{name:45} {:>12} {:>12}", Share(mean), Share(pooled))?;
    }
    if let (Some(mean), Some(pooled)) = (&report.spared, &report.spared_pooled) {
        let late = [mean.seen_too_late, pooled.seen_too_late];
        let (one, other) = (mean.as_judged, pooled.as_judged);
        let mut line = |name: &str, one, other| writeln!(f, "{name:45} {one:12.3} {other:12.3}");
        if mean.by_checkpoints {
            line("benign bytes that a pre-filter spares", one.bytes, other.bytes)?;
            line("benign packets that it spares", one.packets, other.packets)?;
            line("malicious flows of which it spares a packet", one.missed, other.missed)?;
            let [one, other] = late.map(Share);
            writeln!(f, "{:45} {one:>12} {other:>12}", "  of those called malicious in the end")?;
        } else {
            line("benign bytes called benign", one.bytes, other.bytes)?;
            line("benign packets called benign", one.packets, other.packets)?;
        }
    }
    writeln!(f, "{:45} {:>12}", "area under the ROC curve", Share(report.roc_auc))
}

/// What other thresholds could do.
fn thresholds(f: &mut Formatter<'_>, report: &EvaluationReport) -> fmt::Result {
    if !report.at_fpr.is_empty() {
        writeln!(f, "\nWhat thresholds could do, chosen on these very scores (groups alike):")?;
        for at in &report.at_fpr {
            writeln!(
                f,
                "  FPR at most {:6}  TPR {:.3}  from score {:.4}  precision {}",
                percent(at.fpr),
                at.tpr,
                at.threshold,
                Share(at.precision)
            )?;
        }
    }
    let both = [(&report.spared, "groups alike"), (&report.spared_pooled, "all flows alike")];
    for (spared, weighed) in both.iter().filter_map(|(spared, name)| Some((spared.as_ref()?, name))) {
        writeln!(f, "What need not be looked at deeper, likewise ({weighed}):")?;
        for (limit, at) in &spared.at_missed {
            writeln!(
                f,
                "  missed at most {:6}  benign bytes {:.3}  packets {:.3}  flows {:.3}  below score {:.4}",
                percent(*limit),
                at.bytes,
                at.packets,
                at.flows,
                at.threshold
            )?;
        }
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(34).collect()
}
