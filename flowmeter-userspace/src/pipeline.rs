//! The one place that knows all stages: records become features, features verdicts, verdicts lines and stores.

use anyhow::Result;
use flowmeter_common::reaction::mark;

use crate::features::FeatureSet;
use crate::model::Verdict;
use crate::reaction::Marker;
use crate::record::{FlowRecord, Stage};
use crate::sink::Sink;
use crate::stats::{PipelineCounts, Stats};
use crate::verdict::{Batch, Judge, Judged, Scored};

/// A verdict to be written into a living flow's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The slot.
    pub slot: u32,
    /// The tag it had; if it has changed, the flow has gone.
    pub tag: u64,
    /// The verdict and what belongs to it, see [`mark`].
    pub mark: u32,
}

/// Everything after the sources.
pub struct Pipeline {
    set: &'static FeatureSet,
    judge: Option<Judge>,
    sink: Box<dyn Sink>,
    counts: PipelineCounts,
    scoring_failed: bool,
    marker: Marker,
    /// Whether the latest batch could be scored.
    scores: bool,
}

impl Pipeline {
    /// Flows are given `set`'s features, judged by `judge` (by its own set's) if there is one, and written to `sink`.
    pub fn new(set: &'static FeatureSet, judge: Option<Judge>, sink: Box<dyn Sink>) -> Self {
        let counts = PipelineCounts::default();
        Self { set, judge, sink, counts, scoring_failed: false, marker: Marker::default(), scores: true }
    }

    /// Has flows that live marked by this marker.
    pub fn mark_by(&mut self, marker: Marker) {
        self.marker = marker;
    }

    /// False while the model fails: what it said before is not to be relied on.
    pub fn scores(&self) -> bool {
        self.scores
    }

    /// True if what surrounds a flow is asked for: for the columns, or by the model.
    pub fn needs_context(&self) -> bool {
        self.set.context || self.judge.as_ref().is_some_and(|judge| judge.feature_set().context)
    }

    /// What has become of flows so far.
    pub fn counts(&self) -> PipelineCounts {
        self.counts
    }

    /// Takes a batch through all stages. `observed` names where a record was seen.
    ///
    /// # Errors
    /// The sink cannot be written to. A failing model is no error: flows are then written without a verdict, counted.
    pub fn process<'a>(
        &mut self,
        records: &[FlowRecord],
        observed: impl Fn(&FlowRecord) -> Option<&'a str>,
    ) -> Result<Vec<Feedback>> {
        let batch = Batch::of(records, self.set);
        let judged = self.judge(records, &batch);
        let (threshold, model) = match &self.judge {
            Some(judge) => (Some(judge.threshold()), Some(judge.name())),
            None => (None, None),
        };
        let mut feedback = Vec::new();
        for (i, record) in records.iter().enumerate() {
            let found: Option<&Judged> = judged.get(i);
            let verdict = found.map(|j| j.verdict);
            match record.stage {
                Stage::End(_) if record.is_aggregate() => self.counts.aggregates += 1,
                Stage::End(_) => count(&mut self.counts, verdict),
                Stage::Checkpoint { slot, tag } => {
                    self.counts.checkpoints += 1;
                    let mark = self.marker.mark(verdict, record);
                    if mark != record.entry.verdict {
                        feedback.push(Feedback { slot, tag, mark });
                    }
                    if mark::verdict(mark) == mark::verdict(record.entry.verdict) {
                        continue;
                    }
                    self.counts.verdicts_changed += 1;
                }
            }
            self.sink.flow(&Scored {
                record,
                observed: observed(record),
                features: batch.row(i),
                verdict,
                score: found.map(|j| j.score),
                threshold,
                model,
                reasons: found.map_or(&[], |j| &j.reasons),
            })?;
        }
        Ok(feedback)
    }

    /// Writes statistics.
    ///
    /// # Errors
    /// The sink cannot be written to.
    pub fn stats(&mut self, stats: &Stats) -> Result<()> {
        self.sink.stats(stats)?;
        self.sink.flush()
    }

    /// Writes what belongs at the end; nothing can be processed afterwards.
    ///
    /// # Errors
    /// The sink cannot be written to.
    pub fn finish(&mut self) -> Result<()> {
        self.sink.finish()
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// The sink cannot be written to.
    pub fn flush(&mut self) -> Result<()> {
        self.sink.flush()
    }

    fn judge(&mut self, records: &[FlowRecord], batch: &Batch) -> Vec<Judged> {
        let Some(judge) = &mut self.judge else {
            return Vec::new();
        };
        let outcome = if judge.feature_set().id == self.set.id {
            judge.judge(batch)
        } else {
            judge.judge(&Batch::of(records, judge.feature_set()))
        };
        self.scores = outcome.is_ok();
        match outcome {
            Ok(judged) => judged,
            Err(error) => {
                if !self.scoring_failed {
                    self.scoring_failed = true;
                    log::error!(
                        "scoring failed, flows go on without a verdict and are counted as not_scored: {error:#}"
                    );
                }
                Vec::new()
            }
        }
    }
}

fn count(counts: &mut PipelineCounts, verdict: Option<Verdict>) {
    match verdict {
        Some(Verdict::Benign) => counts.benign += 1,
        Some(Verdict::Malicious) => counts.malicious += 1,
        Some(Verdict::Unknown) => counts.unknown += 1,
        None => counts.not_scored += 1,
    }
}
