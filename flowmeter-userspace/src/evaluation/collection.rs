//! Collects labelled flows, row by row.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, bail};

use super::flow::{Groups, LabelledFlow, LoggedVerdict, describe, identity, logged_verdict, own_truth};
use super::report::{EvaluationReport, LeftOut};
use crate::count::count;
use crate::flow_log::Row;
use crate::truth::{KnownLabel, Truth};

/// Collects labelled flows.
#[derive(Default)]
pub struct Evaluation {
    groups: Groups,
    /// Verdicts on flows whose end has not come yet, by flow.
    living: HashMap<String, Vec<LoggedVerdict>>,
    /// True once there was a verdict on a living flow.
    by_checkpoints: bool,
    left_out: LeftOut,
    models: BTreeSet<String>,
    thresholds: BTreeSet<u64>,
    first_malformed: Option<String>,
    first_unknown: Option<String>,
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
        let Some(KnownLabel { malicious, source, category }) = known else {
            self.first_unknown.get_or_insert_with(|| describe(row));
            return self.left_out.without_truth += 1;
        };
        let Some(malicious) = malicious else {
            return self.left_out.left_open += 1;
        };
        // Taken before it is known whether the flow counts, so that its verdicts do not stay behind.
        let checkpoints = self.said_of(row);
        match logged_verdict(row) {
            Ok(Some(end)) => {
                let flow = LabelledFlow { end, checkpoints };
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

    /// Takes a verdict on a living flow.
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

    /// The verdicts on this ended flow while it lived.
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

    /// What is wrong with the first malformed row.
    pub fn first_malformed(&self) -> Option<&str> {
        self.first_malformed.as_deref()
    }

    /// The report, with precision where a share `base_rate` of flows is malicious.
    ///
    /// # Errors
    /// No flow counts, or flows were judged by several models.
    pub fn report(mut self, base_rate: f64) -> Result<EvaluationReport> {
        if self.groups.is_empty() {
            bail!("{}", self.why_empty());
        }
        if self.models.len() > 1 {
            let models: Vec<_> = self.models.into_iter().collect();
            bail!("the flows were scored by several models ({}): evaluate one at a time", models.join(", "));
        }
        self.left_out.not_ended += self.living.values().map(|said| said.len() as u64).sum::<u64>();
        let mut report = EvaluationReport::of(&self.groups, self.by_checkpoints, base_rate);
        report.model = self.models.into_iter().next();
        report.thresholds = self.thresholds.into_iter().map(f64::from_bits).collect();
        report.left_out = self.left_out;
        Ok(report)
    }

    fn why_empty(&self) -> String {
        let LeftOut { without_truth, left_open, not_scored, malformed, not_ended, .. } = self.left_out;
        if let Some(flow) = self.first_unknown.as_ref().filter(|_| without_truth >= not_scored.max(malformed))
        {
            return format!(
                "the truth of {} is not known, for instance of {flow}: name the flows in the rows of `--truth FILE`, or \
                 give flows with a column `label`",
                count(without_truth, "flow")
            );
        }
        match &self.first_malformed {
            Some(first) => {
                format!("no flow can be used: {} malformed; the first: {first}", count(malformed, "row"))
            }
            None if not_scored != 0 => {
                format!(
                    "{} without a score: write the flows with a model",
                    count(not_scored, "labelled flow")
                )
            }
            None => format!(
                "there are no labelled flows: the truth leaves {} open, and {} not about an ended flow",
                count(left_open, "flow"),
                match not_ended {
                    1 => "1 line is".to_owned(),
                    lines => format!("{lines} lines are"),
                }
            ),
        }
    }
}
