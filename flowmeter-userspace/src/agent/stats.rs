//! The agent's `stats` lines, and the account at its end.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;

use super::queues::StatsRequest;
use crate::config::Mode;
use crate::count::count;
use crate::kernel::{Counters, SharedTable, clock};
use crate::source::live::DrainCounts;
use crate::stats::{Account, DriftStats, FlowCounts, PipelineCounts, PrefilterStats, ScoringStats, Stats};
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
    let Sources { table, counters, mode, adopted } = sources;
    let prefilter_counters = if *mode == Mode::Watch { Vec::new() } else { counters.prefilter_counters()? };
    let read = counters.read()?;
    let mut interfaces: Vec<Account> =
        read.iter().map(|(name, counters)| Account::new(name, counters)).collect();
    for (account, [arrived, left]) in interfaces.iter_mut().zip(&prefilter_counters) {
        account.set_prefilter(PrefilterStats::new(
            *mode,
            arrived,
            left,
            account.seen,
            request.last && !adopted,
        ));
    }
    Ok(Stats {
        event: "stats",
        timestamp: timestamp(clock::monotonic().wrapping_add(clock::offset_to_epoch())),
        identity: interfaces.iter().all(|account| account.identity),
        interfaces,
        flows: FlowCounts {
            opened: read.iter().map(|(_, c)| c.opened).sum(),
            ended: request.drained.flows,
            living: request.drained.living,
            evicted: request.drained.evicted,
            slots: table.size().flows().into(),
        },
        pipeline,
        scoring,
        drift,
        events_lost: read.iter().map(|(_, c)| c.events_lost).sum(),
        torn_reads: request.drained.torn,
        context_pushed_out: request.drained.pushed_out,
        last: request.last,
    })
}

/// Prints the account, and proves that what was counted is what was written.
///
/// # Errors
/// The kernel refuses to read its counters.
pub fn report(counters: &Counters, drained: DrainCounts, adopted: bool) -> Result<ExitCode> {
    let mut balanced = true;
    let (mut counted, mut bytes, mut opened, mut aggregated) = (0, 0, 0, 0);
    for (name, counters) in counters.read()? {
        let account = Account::new(&name, &counters);
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
        return Ok(ExitCode::SUCCESS);
    }
    if balanced && adopted && counted >= drained.packets && aggregated >= drained.aggregated {
        log::warn!(
            "an agent that died had taken out {} of {} and not noted them; they may be missing in its log",
            count(counted - drained.packets, "packet"),
            count(opened.saturating_sub(drained.flows), "flow")
        );
        return Ok(ExitCode::SUCCESS);
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
    Ok(ExitCode::FAILURE)
}
