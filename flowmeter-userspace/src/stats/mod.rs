//! The accounting, as it stands in the log and at the end.

mod account;

use flowmeter_common::lifecycle::EndReason;
use serde::Serialize;

pub use self::account::{Account, LinkState, PrefilterStats};
use crate::latency::{Buckets, Quantiles};

/// A `stats` line.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Always `stats`.
    pub event: &'static str,
    /// When it was written.
    pub timestamp: String,
    /// How the agent is.
    pub agent: AgentStats,
    /// Accounting of each interface.
    pub interfaces: Vec<Account>,
    /// True if every interface's account is balanced.
    pub identity: bool,
    /// Flows opened, taken out, and in the table at the last look.
    pub flows: FlowCounts,
    /// What became of flows after the table.
    pub pipeline: PipelineCounts,
    /// How fast flows are scored; None if nothing scores.
    pub scoring: Option<ScoringStats>,
    /// Whether the model fits the traffic; None if nothing scores.
    pub drift: Option<DriftStats>,
    /// Events that the ring buffer had no room for; no flow is lost by it.
    pub events_lost: u64,
    /// Reads of living flows that kept being torn by updates.
    pub torn_reads: u64,
    /// Groups of flows that were still remembered and had to give way to others, see [`crate::context`].
    pub context_pushed_out: u64,
    /// What waits for the pipeline.
    pub queues: QueueStats,
    /// Whether the inspector gets its packets; None if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inspector: Option<InspectorStats>,
    /// How the log fares; None for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogCounts>,
    /// True in the last line.
    pub last: bool,
}

impl Stats {
    /// Says the accounts among the diagnostics: for formats that have no place for them.
    pub fn log(&self) {
        for account in &self.interfaces {
            log::info!("{}", account.line());
        }
    }
}

/// How the agent is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AgentStats {
    /// Name of the machine.
    pub host: String,
    /// Version of the agent.
    pub version: &'static str,
    /// Seconds since it started.
    pub uptime: f64,
    /// Bytes of memory that it holds, the flow table included.
    pub memory: u64,
    /// Seconds of CPU time that it has taken.
    pub cpu: f64,
    /// Seconds since a heartbeat last went through drain and pipeline.
    pub heartbeat_age: f64,
    /// Whether drain and pipeline do their work.
    pub healthy: bool,
    /// Whether everything is watched, scored and written.
    pub ready: bool,
    /// Times that SIGHUP was taken.
    pub reloads: u64,
}

/// An `agent` line: something that happened to the agent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentEvent {
    /// Always `agent`.
    pub event: &'static str,
    /// When it happened.
    pub timestamp: String,
    /// What: `start`, `stop`, `attach`, `loss`, `reload` or `adoption`.
    pub what: &'static str,
    /// The interface, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// In words.
    pub message: String,
    /// Version of the agent.
    pub version: &'static str,
}

/// What waits for the pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// Batches of living flows.
    pub living: u64,
    /// Batches of ended flows, and messages.
    pub ended: u64,
}

/// What was sent to the inspector, and what its interface says it sent on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InspectorStats {
    /// Name of the interface.
    pub interface: String,
    /// Packets sent to it since the start.
    pub sent: u64,
    /// How many of them arrived there, at most.
    pub arrived: u64,
    /// False while it is gone or down, or while nothing arrives; then every packet passes.
    pub reached: bool,
}

/// What kept the log from being written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogCounts {
    /// Writes that failed.
    pub errors: u64,
    /// Lines that are lost: there was no room for them for so long that they could not be held.
    pub lost: u64,
    /// Bytes of lines that wait to be written.
    pub held: u64,
}

/// Flows by where they are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FlowCounts {
    /// Opened since the start.
    pub opened: u64,
    /// Ended and taken out of the table.
    pub ended: u64,
    /// Living.
    pub living: u64,
    /// Of those ended: one-packet and half-open flows that had to make room.
    pub evicted: u64,
    /// Slots of the table.
    pub slots: u64,
}

/// Flows and verdicts after the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PipelineCounts {
    /// Ended flows scored, by verdict.
    pub benign: u64,
    /// Likewise.
    pub malicious: u64,
    /// Likewise.
    pub unknown: u64,
    /// Ended flows without a verdict: no model, or it failed.
    pub not_scored: u64,
    /// Aggregates of flows that found no slot.
    pub aggregates: u64,
    /// Looks at living flows.
    pub checkpoints: u64,
    /// Verdicts of living flows that changed.
    pub verdicts_changed: u64,
    /// Malicious verdicts without reasons, because many came at once.
    pub unexplained: u64,
    /// Ended flows and aggregates by why they ended; reasons that did not occur are left out.
    pub ended_by_reason: EndCounts,
}

/// Ended flows by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndCounts([u64; EndReason::ALL.len()]);

impl EndCounts {
    /// Counts one.
    pub fn add(&mut self, why: EndReason) {
        let count = EndReason::ALL.iter().zip(&mut self.0).find(|(reason, _)| **reason == why);
        if let Some((_, count)) = count {
            *count += 1;
        }
    }
}

impl Serialize for EndCounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = EndReason::ALL.iter().map(|reason| reason.name()).zip(&self.0);
        serializer.collect_map(counts.filter(|(_, count)| **count != 0))
    }
}

/// Scoring since the start, and delays since the last `stats` line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScoringStats {
    /// The model's name.
    pub model: String,
    /// The feature set that it takes.
    pub feature_set: &'static str,
    /// Whether the latest batch could be scored.
    pub working: bool,
    /// Rows scored: flows at their ends and at checkpoints, aggregates.
    pub rows: u64,
    /// Time in which their features were finished, and they were scored and explained, in seconds.
    pub seconds: f64,
    /// The one by the other.
    pub rows_per_second: f64,
    /// From the packet of a checkpoint until the verdict was written, in milliseconds.
    pub checkpoint_delay_ms: DelayStats,
    /// From when a flow that had ended was taken out of the table until it was written, in milliseconds.
    pub end_delay_ms: DelayStats,
}

/// Delays: quantiles for the line, buckets for the metrics.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DelayStats {
    /// Those since the last `stats` line.
    #[serde(flatten)]
    pub latest: Quantiles,
    /// Those since the start.
    #[serde(skip)]
    pub all: Buckets,
}

/// How the last flows stand to those that the model was trained on, see [`crate::model::drift`].
#[derive(Clone, Debug, Serialize)]
pub struct DriftStats {
    /// Flows that were compared: the last ones, up to 8,192.
    pub flows: u64,
    /// Share of them outside of the training ranges.
    pub outside: f64,
    /// Median over the model's inputs of the population stability index; None if the model does not say how they were
    /// spread in training.
    pub shift: Option<f64>,
    /// The inputs that have moved most.
    pub worst: Vec<Shift>,
    /// Whether the model fits this traffic; None while there are too few flows to tell.
    pub model_fits: Option<bool>,
}

/// How far an input has moved.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shift {
    /// The input's name.
    pub feature: &'static str,
    /// Population stability index.
    pub psi: f64,
}
