//! The pipeline's thread: finishes, scores and writes flows, and puts their verdicts into the table.

use std::sync::{Arc, mpsc as blocking};
use std::time::{Duration, Instant};

use anyhow::Result;
use flowmeter_common::flow::FIRST_CHECKPOINT;
use tokio::task::JoinHandle;

use super::queues::{Message, Received, StatsRequest, Taken};
use super::stats::Sources;
use super::status::PipelineState;
use crate::kernel::{Heartbeat, clock, name_of};
use crate::latency::{Delays, Quantiles};
use crate::pipeline::{Feedback, Pipeline};
use crate::record::{FlowRecord, Stage};
use crate::scoring::Scorer;
use crate::stats::{DelayStats, DriftStats, ScoringStats};

/// How often drift is told beside `stats` lines.
const DRIFT_PERIOD: Duration = Duration::from_secs(1);

/// What the pipeline's thread shares with the others.
pub struct PipelineTask {
    /// The stages.
    pub pipeline: Pipeline,
    /// Models that are to take over.
    pub loaded: blocking::Receiver<Scorer>,
    /// Keeps verdicts in force.
    pub heartbeat: Arc<Heartbeat>,
    /// What `stats` lines are made of, and the table that marks go into.
    pub sources: Sources,
}

impl PipelineTask {
    /// Starts the thread. It ends when the drain's end of the queues is gone and they are empty.
    pub fn spawn(self, mut received: Received) -> JoinHandle<Result<()>> {
        tokio::task::spawn_blocking(move || {
            let Self { pipeline, loaded, heartbeat, sources } = self;
            let mut writer = Writer {
                pipeline,
                heartbeat,
                sources,
                at_checkpoints: Delays::default(),
                at_ends: Delays::default(),
                drift_told: None,
            };
            let runtime = tokio::runtime::Handle::current();
            while let Some(message) = runtime.block_on(next(&mut received)) {
                if let Some(scorer) = loaded.try_iter().last() {
                    writer.pipeline.replace_scorer(scorer);
                }
                writer.take(message, &mut received)?;
            }
            writer.pipeline.finish()
        })
    }
}

/// The next message; flows at their checkpoints overtake all else.
async fn next(received: &mut Received) -> Option<Message> {
    tokio::select! {
        biased;
        Some(taken) = received.living.recv() => Some(Message::Flows(taken)),
        Some(message) = received.rest.recv() => Some(message),
        else => None,
    }
}

/// What takes flows to the log and their verdicts to the table.
struct Writer {
    pipeline: Pipeline,
    heartbeat: Arc<Heartbeat>,
    sources: Sources,
    at_checkpoints: Delays,
    at_ends: Delays,
    /// When drift was told last, which costs more than counters.
    drift_told: Option<Instant>,
}

impl Writer {
    fn take(&mut self, message: Message, received: &mut Received) -> Result<()> {
        match message {
            Message::Flows(taken) => self.flows(&taken),
            Message::Beat(at) => {
                if self.pipeline.scores() {
                    self.heartbeat.beat(at);
                }
                self.events()?;
                self.tell();
                self.sources.status.beat();
                // The log may have been renamed, or be waiting for room.
                self.pipeline.flush()
            }
            Message::Stats(request) => {
                // Flows that were sent before the request belong into its line.
                while let Ok(taken) = received.living.try_recv() {
                    self.flows(&taken)?;
                }
                self.stats(*request)
            }
        }
    }

    fn flows(&mut self, taken: &Taken) -> Result<()> {
        let flows = &taken.flows;
        let watched = self.sources.counters.watched();
        let feedback =
            self.pipeline.process(flows, |record| name_of(&watched, record.entry.key.interface))?;
        for Feedback { entry, seen, mark } in feedback {
            // A flow that has gone meanwhile needs no mark.
            self.sources.table.give_mark(entry, seen, mark);
        }
        // Somebody may be reading the log as it grows.
        self.pipeline.flush()?;
        let now = clock::monotonic();
        for record in flows {
            match record.stage {
                Stage::Checkpoint { .. } => {
                    self.at_checkpoints.add(now.saturating_sub(reached(record, taken)))
                }
                Stage::End(_) => self.at_ends.add(now.saturating_sub(taken.at)),
            }
        }
        Ok(())
    }

    /// Writes what has happened to the agent.
    fn events(&mut self) -> Result<()> {
        let events = self.sources.status.take_events();
        events.iter().try_for_each(|event| self.pipeline.agent(event))
    }

    /// Tells what has been done, for whoever asks between two `stats` lines.
    fn tell(&mut self) {
        let due = self.drift_told.is_none_or(|told| told.elapsed() >= DRIFT_PERIOD);
        let drift = if due { self.pipeline.drift() } else { self.sources.status.written().drift };
        if due {
            self.drift_told = Some(Instant::now());
        }
        let latest = [self.at_checkpoints.latest(), self.at_ends.latest()];
        self.sources.status.set_written(self.written(latest, drift));
    }

    fn written(&self, [checkpoints, ends]: [Quantiles; 2], drift: Option<DriftStats>) -> PipelineState {
        let scoring =
            self.pipeline.scored().zip(self.pipeline.model()).map(|((rows, time), (model, feature_set))| {
                ScoringStats {
                    model: model.to_owned(),
                    feature_set,
                    working: self.pipeline.scores(),
                    rows,
                    seconds: time.as_secs_f64(),
                    rows_per_second: rows as f64 / time.as_secs_f64().max(1e-9),
                    checkpoint_delay_ms: DelayStats { latest: checkpoints, all: self.at_checkpoints.all() },
                    end_delay_ms: DelayStats { latest: ends, all: self.at_ends.all() },
                }
            });
        PipelineState { counts: self.pipeline.counts(), scoring, drift }
    }

    fn stats(&mut self, request: StatsRequest) -> Result<()> {
        self.events()?;
        let drift = self.pipeline.drift();
        let latest = [self.at_checkpoints.take(), self.at_ends.take()];
        let written = self.written(latest, drift);
        self.sources.status.set_written(written.clone());
        let stats = self.sources.complete(request.drained, written, request.last)?;
        if !stats.identity {
            log::error!("the account is not balanced: {:?}", stats.interfaces);
        }
        self.pipeline.stats(&stats)?;
        if let Some(done) = request.done {
            // Whoever asked may have gone; the line is written all the same.
            let _ = done.send(());
        }
        Ok(())
    }
}

/// When a living flow reached its checkpoint, or a time before it: only the last packet's time is known.
fn reached(record: &FlowRecord, taken: &Taken) -> u64 {
    let (packets, last) = (record.entry.state.packets(), record.entry.state.last());
    let is_last = packets.is_power_of_two() && packets >= FIRST_CHECKPOINT;
    if is_last { last } else { last.min(taken.since) }
}
