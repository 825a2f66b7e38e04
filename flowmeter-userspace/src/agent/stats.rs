//! The agent's `stats` lines, and the account at its end.

use std::sync::Arc;

use anyhow::Result;
use flowmeter_common::counter::InterfaceCounters;

use super::queues::StatsRequest;
use super::status::Status;
use crate::config::Mode;
use crate::count::count;
use crate::kernel::{Counters, SharedTable, clock};
use crate::source::live::DrainCounts;
use crate::stats::{
    Account, DriftStats, FlowCounts, LogCounts, PipelineCounts, PrefilterStats, ScoringStats, Stats,
};
use crate::timestamp::timestamp;

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    /// The flow table.
    pub table: Arc<SharedTable>,
    /// The kernel's counters.
    pub counters: Arc<Counters>,
    /// What verdicts do to packets.
    pub mode: Mode,
    /// The agent before may have been told to do something else with packets.
    pub adopted: bool,
    /// How the agent is.
    pub status: Arc<Status>,
    /// Whether lines are written, and not a table.
    pub is_log: bool,
}

impl Sources {
    /// The account of each interface. `last` says that nothing comes any more.
    ///
    /// # Errors
    /// The kernel refuses to read its counters.
    fn accounts(&self, last: bool) -> Result<Vec<(Account, InterfaceCounters)>> {
        let prefilter =
            if self.mode == Mode::Watch { Vec::new() } else { self.counters.prefilter_counters()? };
        let read = self.counters.read()?;
        let mut accounts: Vec<_> =
            read.into_iter().map(|(name, counters)| (Account::new(&name, &counters), counters)).collect();
        for (account, _) in &mut accounts {
            account.state = self.status.link(&account.interface);
        }
        for ((account, _), [arrived, left]) in accounts.iter_mut().zip(&prefilter) {
            let exact = last && !self.adopted;
            account.set_prefilter(PrefilterStats::new(self.mode, arrived, left, account.seen, exact));
        }
        Ok(accounts)
    }
}

/// Completes a `stats` line.
///
/// # Errors
/// The kernel refuses to read its counters.
pub fn complete(
    sources: &Sources,
    request: &StatsRequest,
    pipeline: PipelineCounts,
    scoring: Option<ScoringStats>,
    drift: Option<DriftStats>,
) -> Result<Stats> {
    let (interfaces, counters): (Vec<_>, Vec<_>) = sources.accounts(request.last)?.into_iter().unzip();
    let log = &sources.status.log;
    Ok(Stats {
        event: "stats",
        timestamp: timestamp(clock::monotonic().wrapping_add(clock::offset_to_epoch())),
        identity: interfaces.iter().all(|account: &Account| account.identity),
        interfaces,
        flows: FlowCounts {
            opened: counters.iter().map(|c| c.opened).sum(),
            ended: request.drained.flows,
            living: request.drained.living,
            evicted: request.drained.evicted,
            slots: sources.table.size().flows().into(),
        },
        pipeline,
        scoring,
        drift,
        events_lost: counters.iter().map(|c| c.events_lost).sum(),
        torn_reads: request.drained.torn,
        context_pushed_out: request.drained.pushed_out,
        inspector: sources.status.inspector(),
        log: sources.is_log.then(|| LogCounts { errors: log.errors(), lost: log.lost() }),
        last: request.last,
    })
}

/// Prints the account, and says whether what was counted is what was written.
///
/// # Errors
/// The kernel refuses to read its counters.
pub fn report(sources: &Sources, drained: DrainCounts) -> Result<bool> {
    let mut balanced = true;
    let (mut counted, mut bytes, mut opened, mut aggregated) = (0, 0, 0, 0);
    for (account, counters) in sources.accounts(true)? {
        log::info!("{}", account.line());
        balanced &= account.identity;
        counted += counters.counted;
        bytes += counters.counted_bytes;
        opened += counters.opened;
        aggregated += counters.folded - counters.unaggregated;
    }
    log::info!(
        "flows: {} opened, {} written, with {} and {}",
        opened,
        drained.flows,
        count(drained.packets, "packet"),
        count(drained.bytes, "byte")
    );
    let written = (drained.packets, drained.bytes, drained.flows, drained.aggregated);
    if balanced && (counted, bytes, opened, aggregated) == written {
        return Ok(true);
    }
    if balanced && sources.adopted && counted >= drained.packets && aggregated >= drained.aggregated {
        log::warn!(
            "an agent that died had taken out {} of {} and not noted them; they may be missing in its log",
            count(counted - drained.packets, "packet"),
            count(opened.saturating_sub(drained.flows), "flow")
        );
        return Ok(true);
    }
    log::error!(
        "the account is not balanced: counted were {counted} packets and {bytes} bytes in {opened} flows, and {aggregated} \
         packets in aggregates; written were {} packets and {} bytes in {} flows, and {} packets in aggregates. This is a \
         defect of flowmeter",
        written.0,
        written.1,
        written.2,
        written.3
    );
    Ok(false)
}
