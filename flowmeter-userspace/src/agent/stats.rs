//! The agent's `stats` lines, and the account at its end.

use std::sync::Arc;

use anyhow::Result;
use flowmeter_common::counter::InterfaceCounters;

use super::status::{PipelineState, Status};
use crate::config::Mode;
use crate::count::count;
use crate::kernel::{Counters, SharedTable, clock};
use crate::source::live::DrainCounts;
use crate::stats::{Account, AgentStats, FlowCounts, LogCounts, PrefilterStats, Stats};
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
    /// The numbers as they are now, beside the `stats` lines.
    ///
    /// # Errors
    /// The kernel refuses to read its counters.
    pub fn now(&self) -> Result<Stats> {
        self.complete(self.status.drained(), self.status.written(), false)
    }

    /// A `stats` line.
    ///
    /// # Errors
    /// The kernel refuses to read its counters.
    pub fn complete(&self, drained: DrainCounts, written: PipelineState, last: bool) -> Result<Stats> {
        let (interfaces, counters): (Vec<_>, Vec<_>) = self.accounts(last)?.into_iter().unzip();
        let log = &self.status.log;
        Ok(Stats {
            event: "stats",
            timestamp: timestamp(clock::monotonic().wrapping_add(clock::offset_to_epoch())),
            agent: self.agent(),
            identity: interfaces.iter().all(|account: &Account| account.identity),
            interfaces,
            flows: FlowCounts {
                opened: counters.iter().map(|c| c.opened).sum(),
                ended: drained.flows,
                living: drained.living,
                evicted: drained.evicted,
                slots: self.table.size().flows().into(),
            },
            pipeline: written.counts,
            scoring: written.scoring,
            drift: written.drift,
            events_lost: counters.iter().map(|c| c.events_lost).sum(),
            torn_reads: drained.torn,
            context_pushed_out: drained.pushed_out,
            queues: self.status.queues(),
            inspector: self.status.inspector(),
            log: self.is_log.then(|| LogCounts { errors: log.errors(), lost: log.lost(), held: log.held() }),
            last,
        })
    }

    fn agent(&self) -> AgentStats {
        let status = &self.status;
        AgentStats {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION"),
            uptime: status.uptime().as_secs_f64(),
            memory: resident(),
            cpu: clock::cpu_time().as_secs_f64(),
            heartbeat_age: status.heartbeat_age().as_secs_f64(),
            healthy: status.ailments().is_empty(),
            ready: status.obstacles().is_empty(),
            reloads: status.reloads(),
        }
    }

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

/// Bytes of memory that this process holds; 0 where /proc does not say.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
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
