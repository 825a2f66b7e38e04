//! An interface's (or capture's) account: what became of each packet.

use flowmeter_common::counter::{InterfaceCounters, Skip};
use flowmeter_common::prefilter::{Cause, Outcome, PrefilterCounters, Tally};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::Mode;

/// How an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LinkState {
    /// Whether the programs are attached.
    pub attached: bool,
    /// `up`, `down` (or without carrier), or `gone`.
    pub link: &'static str,
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
