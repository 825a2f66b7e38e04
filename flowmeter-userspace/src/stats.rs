//! The accounting, as it stands in the log and at the end.

use flowmeter_common::counter::{InterfaceCounters, Skip};
use flowmeter_common::prefilter::{Cause, Outcome, PrefilterCounters, Tally};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::Mode;
use crate::latency::Quantiles;

/// A `stats` line.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Always `stats`.
    pub event: &'static str,
    /// When it was written.
    pub timestamp: String,
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

/// How an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LinkState {
    /// Whether the programs are attached.
    pub attached: bool,
    /// `up`, `down` (or without carrier), or `gone`.
    pub link: &'static str,
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
}

/// Scoring since the start, and delays since the last `stats` line.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ScoringStats {
    /// Rows scored: flows at their ends and at checkpoints, aggregates.
    pub rows: u64,
    /// Time in which their features were finished, and they were scored and explained, in seconds.
    pub seconds: f64,
    /// The one by the other.
    pub rows_per_second: f64,
    /// From the packet of a checkpoint until the verdict was written, in milliseconds.
    pub checkpoint_delay_ms: Quantiles,
    /// From when a flow that had ended was taken out of the table until it was written, in milliseconds.
    pub end_delay_ms: Quantiles,
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

/// Those counts that are not zero, by name.
fn occurred<const N: usize>(counts: [(&str, u64); N]) -> Map<String, Value> {
    counts.into_iter().filter(|(_, n)| *n != 0).map(|(name, n)| (name.to_owned(), n.into())).collect()
}

/// One interface's (or capture's) packets.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// Interface name.
    pub interface: String,
    /// Packets seen.
    pub seen: u64,
    /// Packets counted in flows.
    pub counted: u64,
    /// Bytes of IP packets counted in flows.
    pub counted_bytes: u64,
    /// Packets that found no slot in the flow table.
    pub folded: u64,
    /// Bytes of them.
    pub folded_bytes: u64,
    /// Packets of them by cause; causes that did not occur are left out.
    pub folded_by_cause: Map<String, Value>,
    /// Packets of them that the aggregates had no slot for either.
    pub unaggregated: u64,
    /// Packets that are not counted in flows by their nature.
    pub skipped: u64,
    /// Those, by reason; reasons that did not occur are left out.
    pub skipped_by_reason: Map<String, Value>,
    /// How the interface is; None for captures.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub state: Option<LinkState>,
    /// What became of the packets, if they were not only watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefilter: Option<PrefilterStats>,
    /// True if seen = counted + folded + skipped, and if what became of the packets adds up to it as well.
    pub identity: bool,
}

/// What became of an interface's packets: packets, and bytes of IP packets.
#[derive(Clone, Debug, Serialize)]
pub struct PrefilterStats {
    /// The mode.
    pub mode: Mode,
    /// By outcome.
    #[serde(flatten)]
    pub outcomes: Map<String, Value>,
    /// What the inspector was spared: kept from it because of what was known. Null in `block`.
    pub spared: Option<Value>,
    /// Packets that were counted and that the hook which copies them did not see, or has not seen yet; only in `mirror`.
    pub between: u64,
    /// By cause, then by outcome; what did not occur is left out.
    pub by_cause: Map<String, Value>,
    /// True if it adds up to the packets seen. While packets flow it may be short of those that are on their way.
    pub identity: bool,
}

impl PrefilterStats {
    /// Of an interface that had `seen` packets when, or after, the counters were read; exact if nothing comes any more.
    pub fn new(
        mode: Mode,
        arrived: &PrefilterCounters,
        left: &PrefilterCounters,
        seen: u64,
        last: bool,
    ) -> Self {
        let mut all = *arrived;
        all.add(left);
        let tally = |tally: Tally| json!({"packets": tally.packets, "bytes": tally.bytes});
        let outcomes = Outcome::ALL
            .map(|outcome| (outcome.name().to_owned(), tally(all.sum(|_, other| other == outcome))));
        let spares = match mode {
            Mode::Mirror => Some(Outcome::Passed),
            Mode::Divert => Some(Outcome::Dropped),
            Mode::Watch | Mode::Block => None,
        };
        let spared =
            spares.map(|outcome| tally(all.sum(|cause, other| cause != Cause::Stale && other == outcome)));
        let by_cause = Cause::ALL
            .into_iter()
            .map(|cause| {
                let occurred: Map<String, Value> = Outcome::ALL
                    .map(|outcome| (outcome, all.sum(|c, o| c == cause && o == outcome)))
                    .into_iter()
                    .filter(|(_, tally)| tally.packets != 0)
                    .map(|(outcome, sum)| (outcome.name().to_owned(), tally(sum)))
                    .collect();
                (cause.name().to_owned(), occurred)
            })
            .filter(|(_, occurred)| !occurred.is_empty())
            .map(|(name, occurred)| (name, occurred.into()))
            .collect();
        let total = all.total().packets;
        let exact = last && mode != Mode::Mirror;
        Self {
            mode,
            outcomes: outcomes.into_iter().collect(),
            spared,
            between: if mode == Mode::Mirror { seen.saturating_sub(total) } else { 0 },
            by_cause,
            identity: if exact { total == seen } else { total <= seen },
        }
    }
}

impl Account {
    /// Adds what became of the packets.
    pub fn set_prefilter(&mut self, prefilter: PrefilterStats) {
        self.identity &= prefilter.identity;
        self.prefilter = Some(prefilter);
    }

    /// An interface's account.
    pub fn new(interface: &str, counters: &InterfaceCounters) -> Self {
        Self {
            interface: interface.to_owned(),
            seen: counters.seen,
            counted: counters.counted,
            counted_bytes: counters.counted_bytes,
            folded: counters.folded,
            folded_bytes: counters.folded_bytes,
            folded_by_cause: occurred([
                ("table_full", counters.folded - counters.contended),
                ("contended", counters.contended),
            ]),
            unaggregated: counters.unaggregated,
            skipped: counters.skipped_total(),
            skipped_by_reason: occurred(
                Skip::ALL.map(|reason| (reason.name(), counters.skipped[reason as usize])),
            ),
            state: None,
            prefilter: None,
            identity: counters.balanced(),
        }
    }

    /// The identity in one line.
    pub fn line(&self) -> String {
        let reasons: Vec<String> =
            self.skipped_by_reason.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        let sign = if self.identity { "=" } else { "≠" };
        format!(
            "{}: seen {} {sign} counted {} + folded {} + skipped {}{reasons}",
            self.interface, self.seen, self.counted, self.folded, self.skipped
        )
    }
}
