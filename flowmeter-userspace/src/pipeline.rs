//! The one place that knows all stages: records become features, features verdicts, verdicts lines and stores.

use std::time::{Duration, Instant};

use anyhow::Result;
use flowmeter_common::prefilter::mark;

use crate::features::FeatureSet;
use crate::model::Verdict;
use crate::model::drift::{LARGEST_OUTSIDE, LARGEST_SHIFT};
use crate::prefilter::Marker;
use crate::record::{FlowRecord, Stage};
use crate::scoring::{Batch, Prediction, Scored, Scorer};
use crate::sink::Sink;
use crate::stats::{AgentEvent, DriftStats, PipelineCounts, Shift, Stats};

/// A verdict to be written into a living flow's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// Number of its entry.
    pub entry: u32,
    /// The flow's word when it was copied, see [`mark`]; by it is told whether the flow has gone.
    pub seen: u32,
    /// The verdict and what belongs to it, see [`mark`].
    pub mark: u32,
}

/// Everything after the sources.
pub struct Pipeline {
    set: &'static FeatureSet,
    scorer: Option<Scorer>,
    sink: Box<dyn Sink>,
    counts: PipelineCounts,
    scoring_failed: bool,
    /// Rows scored, and the time that it took to finish their features, score and explain them.
    scored: (u64, Duration),
    /// What was said last of whether the model fits the traffic.
    said_to_fit: Option<bool>,
    marker: Marker,
    /// Whether any flow of the latest batch could be scored.
    scores: bool,
}

impl Pipeline {
    /// Flows are given `set`'s features, judged by `scorer` (by its own set's) if there is one, and written to `sink`.
    pub fn new(set: &'static FeatureSet, scorer: Option<Scorer>, sink: Box<dyn Sink>) -> Self {
        Self {
            set,
            scorer,
            sink,
            counts: PipelineCounts::default(),
            scoring_failed: false,
            scored: (0, Duration::ZERO),
            said_to_fit: None,
            marker: Marker::default(),
            scores: true,
        }
    }

    /// Scores by another scorer from now on; what has been counted stays.
    pub fn replace_scorer(&mut self, scorer: Scorer) {
        let threshold = scorer.threshold();
        let before = self.scorer.as_ref().map_or("no model", Scorer::name);
        log::info!("scoring with {} from now on, threshold {threshold}, instead of {before}", scorer.name());
        self.scorer = Some(scorer);
        self.scoring_failed = false;
        self.said_to_fit = None;
    }

    /// Name of the model that scores, and of its feature set; None if nothing scores.
    pub fn model(&self) -> Option<(&str, &'static str)> {
        self.scorer.as_ref().map(|scorer| (scorer.name(), scorer.feature_set().id))
    }

    /// Rows scored so far (flows at their ends and at checkpoints), and the time it took to finish their features, score and
    /// explain them; None if nothing scores.
    pub fn scored(&self) -> Option<(u64, Duration)> {
        self.scorer.as_ref().map(|_| self.scored)
    }

    /// How the last flows stand to those that the model was trained on; says so among the diagnostics when that has
    /// changed. None if nothing scores.
    pub fn drift(&mut self) -> Option<DriftStats> {
        let scorer = self.scorer.as_ref()?;
        let fit = scorer.fit();
        let worst: Vec<Shift> =
            fit.worst.iter().map(|(input, psi)| Shift { feature: scorer.input(*input), psi: *psi }).collect();
        if fit.fits.is_some() && fit.fits != self.said_to_fit {
            let moved: Vec<_> = worst.iter().map(|w| format!("{} {:.1}", w.feature, w.psi)).collect();
            let figures = format!(
                "{:.1} % of the last {} flows outside of its ranges (limit {:.0} %), median shift {:.2} (limit {LARGEST_SHIFT})",
                fit.outside * 100.0,
                fit.flows,
                LARGEST_OUTSIDE * 100.0,
                fit.shift.unwrap_or_default(),
            );
            match (fit.fits, self.said_to_fit) {
                (Some(false), _) => log::warn!(
                    "the traffic does not look like what {} was trained on, so its verdicts are worth less: {figures}. Most \
                     changed: {}",
                    scorer.name(),
                    moved.join(", ")
                ),
                (_, Some(false)) => log::info!("{} fits the traffic again: {figures}", scorer.name()),
                _ => log::debug!("{} fits the traffic: {figures}", scorer.name()),
            }
            self.said_to_fit = fit.fits;
        }
        Some(DriftStats {
            flows: fit.flows,
            outside: fit.outside,
            shift: fit.shift,
            worst,
            model_fits: fit.fits,
        })
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
        self.set.context || self.scorer.as_ref().is_some_and(|scorer| scorer.feature_set().context)
    }

    /// What has become of flows so far.
    pub fn counts(&self) -> PipelineCounts {
        self.counts
    }

    /// Takes a batch through all stages. `observed` names where a record was seen.
    ///
    /// # Errors
    /// The sink cannot be written to. A failing model is not an error: flows are then written without a verdict, and counted.
    pub fn process<'a>(
        &mut self,
        records: &[FlowRecord],
        observed: impl Fn(&FlowRecord) -> Option<&'a str>,
    ) -> Result<Vec<Feedback>> {
        let batch = self.sink.takes_features().then(|| Batch::of(records, self.set));
        let predictions = self.predict(records, batch.as_ref());
        let (threshold, model) = match &self.scorer {
            Some(scorer) => (Some(scorer.threshold()), Some(scorer.name())),
            None => (None, None),
        };
        let mut feedback = Vec::new();
        for (i, record) in records.iter().enumerate() {
            let found = predictions.get(i).and_then(Option::as_ref);
            let verdict = found.map(|j| j.verdict);
            let unexplained = found.is_some_and(|j| j.unexplained);
            if let Stage::End(why) = record.stage {
                self.counts.ended_by_reason.add(why);
            }
            match record.stage {
                Stage::End(_) if record.is_aggregate() => self.counts.aggregates += 1,
                Stage::End(_) => count(&mut self.counts, verdict),
                Stage::Checkpoint { entry } => {
                    self.counts.checkpoints += 1;
                    let (seen, mark) = (record.entry.verdict, self.marker.mark(verdict, record));
                    if mark::changed(seen, mark) != seen {
                        feedback.push(Feedback { entry, seen, mark });
                    }
                    if mark::verdict(mark) == mark::verdict(seen) {
                        continue;
                    }
                    self.counts.verdicts_changed += 1;
                }
            }
            self.counts.unexplained += u64::from(unexplained);
            self.sink.flow(&Scored {
                record,
                observed: observed(record),
                features: batch.as_ref().map_or(&[], |batch| batch.row(i)),
                verdict,
                score: found.map(|j| j.score),
                threshold: found.map(|j| j.threshold).or(threshold),
                model,
                reasons: found.map_or(&[], |j| &j.reasons),
                unexplained,
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

    /// Writes what happened to the agent.
    ///
    /// # Errors
    /// The sink cannot be written to.
    pub fn agent(&mut self, event: &AgentEvent) -> Result<()> {
        self.sink.agent(event)
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

    fn predict(&mut self, records: &[FlowRecord], batch: Option<&Batch>) -> Vec<Option<Prediction>> {
        let Some(scorer) = &mut self.scorer else {
            return Vec::new();
        };
        let start = Instant::now();
        let same_set = scorer.feature_set().id == self.set.id;
        let outcome = scorer.predict(records, batch.filter(|_| same_set));
        self.scored.1 += start.elapsed();
        self.scored.0 += outcome.as_ref().map_or(0, |predictions| predictions.len() as u64);
        self.scores = outcome.as_ref().is_ok_and(|predictions| predictions.iter().any(Option::is_some));
        match outcome {
            Ok(predictions) => predictions,
            Err(error) => {
                if !self.scoring_failed {
                    self.scoring_failed = true;
                    log::error!(
                        "scoring failed: flows go on without a verdict, counted as not_scored: {error:#}"
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
