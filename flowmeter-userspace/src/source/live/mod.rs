//! Flows of the kernel's table: takes out those that have ended, copies living ones at their checkpoints.
//!
//! Everything here runs on one thread of its own, which sleeps for milliseconds between polls: no packet ever has to wake
//! it. `checkpoints` reads the events and copies living flows, `sweep` walks the table and takes ended flows out, and
//! `pressure` says when the table fills.

mod checkpoints;
mod pressure;
mod sweep;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use flowmeter_common::lifecycle::{Census, Level, Pressure, Timeouts};
use flowmeter_common::time::SECOND;

use crate::context::Context;
use crate::kernel::{Ring, SharedTable, clock};
use crate::record::FlowRecord;

/// How often the whole table is swept: seldom enough to take at most a tenth of the time, often enough that an idle flow is
/// out within a second of its timeout, and more often when the table fills.
const SWEEP_SHARE: u64 = 10;
const SWEEP_LEAST: u64 = SECOND / 20;
const SWEEP_USUAL: u64 = SECOND / 4;
const SWEEP_MOST: u64 = SECOND / 2;
/// Closed flows whose linger is over are taken out together, at most this late: a batch costs a grace period.
const CLOSING_BATCH: u64 = SECOND / 50;
/// How long the agent sleeps between polls, while events come and while none do. The kernel programs wake it only when
/// the ring fills.
const BUSY_SLEEP: Duration = Duration::from_millis(2);
const QUIET_SLEEP: Duration = Duration::from_millis(20);
/// How long the agent sleeps between polls for events while a grace period is waited for.
const GRACE_SLEEP: Duration = Duration::from_millis(1);
/// Most flows that leave after one grace period.
pub const LEAVING: usize = 4096;
/// Most flows given out at once: bounds the memory of copies, and how long a flow that waits for its verdict waits for
/// others.
pub const BATCH: usize = 256;

/// A note, one for each entry: the flow with this tag has been noticed, and lives until then at least.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    tag: u64,
    until: u64,
}

/// What the drain has seen, for the accounting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainCounts {
    /// Flows taken out of the table.
    pub flows: u64,
    /// Packets in them.
    pub packets: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Flows that had to make room.
    pub evicted: u64,
    /// Packets in aggregates taken out of their table.
    pub aggregated: u64,
    /// Copies of living flows that updates kept tearing.
    pub torn: u64,
    /// Flows in the table at the last sweep.
    pub living: u64,
    /// Groups of the context that had to give way.
    pub pushed_out: u64,
}

/// Where the drain puts flows, in batches of at most [`BATCH`].
pub trait RecordSink {
    /// Takes flows that live, at their checkpoints, however long it has to wait. Their events came after `since`, in the
    /// kernel programs' clock.
    ///
    /// # Errors
    /// Nobody takes flows any more.
    fn living(&mut self, flows: Vec<FlowRecord>, since: u64) -> Result<()>;

    /// Takes flows that have ended, or gives them back if there is no room for them now.
    ///
    /// # Errors
    /// Nobody takes flows any more.
    fn ended(&mut self, flows: Vec<FlowRecord>) -> Result<Option<Vec<FlowRecord>>>;
}

/// A function that takes every batch.
impl<F: FnMut(Vec<FlowRecord>) -> Result<()>> RecordSink for F {
    fn living(&mut self, flows: Vec<FlowRecord>, _since: u64) -> Result<()> {
        self(flows)
    }

    fn ended(&mut self, flows: Vec<FlowRecord>) -> Result<Option<Vec<FlowRecord>>> {
        self(flows).map(|()| None)
    }
}

/// Takes flows out of the table.
pub struct Drain {
    flows: Arc<SharedTable>,
    aggregates: Arc<SharedTable>,
    ring: Ring,
    timeouts: Timeouts,
    /// When closed flows' linger is over: (time, slot, tag).
    closing: BinaryHeap<Reverse<(u64, u32, u64)>>,
    next_sweep: u64,
    pressure: Pressure,
    /// Who may leave, as the last sweep has found.
    census: Census,
    /// True once packets have been folded since the last sweep.
    folding: bool,
    /// By number of the entry in the flow table.
    known: Vec<Known>,
    /// What surrounds flows, if that is asked for.
    context: Option<Context>,
    counts: DrainCounts,
    /// When the ring was last emptied.
    emptied: u64,
    /// See [`be_prompt`](Self::be_prompt).
    prompt: bool,
}

impl DrainCounts {
    /// What an agent that comes after needs to go on counting, see [`Drain::resume`].
    pub fn ledger(&self) -> [u64; 4] {
        [self.flows, self.packets, self.bytes, self.aggregated]
    }
}

impl Drain {
    /// A drain of these tables and their events.
    pub fn new(
        flows: Arc<SharedTable>,
        aggregates: Arc<SharedTable>,
        ring: Ring,
        timeouts: Timeouts,
        context: Option<Context>,
    ) -> Self {
        let known = vec![Known::default(); flows.size().entries() as usize];
        Self {
            flows,
            aggregates,
            ring,
            timeouts,
            closing: BinaryHeap::new(),
            next_sweep: 0,
            pressure: Pressure::NONE,
            census: Census::default(),
            folding: false,
            known,
            context,
            counts: DrainCounts::default(),
            emptied: clock::monotonic(),
            prompt: false,
        }
    }

    /// Polls every two milliseconds even while nothing happens: somebody waits for verdicts.
    pub fn be_prompt(&mut self) {
        self.prompt = true;
    }

    /// Goes on counting where an agent before has stopped.
    pub fn resume(&mut self, [flows, packets, bytes, aggregated]: [u64; 4]) {
        self.counts = DrainCounts { flows, packets, bytes, aggregated, ..self.counts };
    }

    /// What has been seen so far.
    pub fn counts(&self) -> DrainCounts {
        let pushed_out = self.context.as_ref().map_or(0, Context::pushed_out);
        DrainCounts { pushed_out, ..self.counts }
    }

    /// Waits until something may have to be done: for as long as [`poll`](Self::poll) said, or until the ring fills.
    pub fn sleep(&self, longest: Duration) {
        self.ring.wait(longest);
    }

    /// Polls once: events, closed flows that are due, and from time to time the whole table. Returns how long to sleep.
    ///
    /// # Errors
    /// The grace period fails, or `sink` does.
    pub fn poll(&mut self, sink: &mut impl RecordSink) -> Result<Duration> {
        let now = clock::monotonic();
        let events = self.take_events(now, sink)?;
        if now >= self.next_sweep {
            self.sweep(now, sink)?;
            let after = clock::monotonic();
            let least = if self.pressure.level == Level::Low { SWEEP_USUAL } else { SWEEP_LEAST };
            self.next_sweep = after + ((after - now) * SWEEP_SHARE).clamp(least, SWEEP_MOST);
        } else if self.closing.peek().is_some_and(|Reverse((due, ..))| due + CLOSING_BATCH <= now) {
            self.take_closed(now, sink)?;
        }
        Ok(if events == 0 && !self.prompt { QUIET_SLEEP } else { BUSY_SLEEP })
    }

    /// Adds to records what surrounds them, once all that ended with them have been told.
    fn surround(&mut self, now: u64, records: &mut [FlowRecord]) {
        if let Some(context) = &mut self.context {
            for record in records {
                record.context = Some(Box::new(context.around(&record.entry, now)));
            }
        }
    }
}
