//! The pipeline's thread: finishes, scores and writes flows, and puts their verdicts into the table.

use std::sync::{Arc, mpsc as blocking};

use anyhow::Result;
use flowmeter_common::flow::FIRST_CHECKPOINT;
use tokio::task::JoinHandle;

use super::queues::{Message, Received, StatsRequest, Taken};
use super::stats::{Sources, complete};
use crate::kernel::{Heartbeat, clock, name_of};
use crate::latency::LatencyHistogram;
use crate::pipeline::{Feedback, Pipeline};
use crate::record::{FlowRecord, Stage};
use crate::scoring::Scorer;
use crate::stats::ScoringStats;

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
                at_checkpoints: LatencyHistogram::default(),
                at_ends: LatencyHistogram::default(),
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
    at_checkpoints: LatencyHistogram,
    at_ends: LatencyHistogram,
}

impl Writer {
    fn take(&mut self, message: Message, received: &mut Received) -> Result<()> {
        match message {
            Message::Flows(taken) => self.flows(&taken),
            Message::Beat(at) => {
                if self.pipeline.scores() {
                    self.heartbeat.beat(at);
                }
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

    fn stats(&mut self, request: StatsRequest) -> Result<()> {
        let scoring = self.pipeline.scored().map(|(rows, time)| ScoringStats {
            rows,
            seconds: time.as_secs_f64(),
            rows_per_second: rows as f64 / time.as_secs_f64().max(1e-9),
            checkpoint_delay_ms: self.at_checkpoints.take(),
            end_delay_ms: self.at_ends.take(),
        });
        let drift = self.pipeline.drift();
        let stats = complete(&self.sources, &request, self.pipeline.counts(), scoring, drift)?;
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
