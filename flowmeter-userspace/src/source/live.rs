//! Flows of the kernel's table: takes out those that have ended, copies living ones at their checkpoints.
//!
//! Everything here runs on one thread of its own. It sleeps for milliseconds between looks, so that no packet ever
//! has to wake it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use anyhow::Result;
use flowmeter_common::config::{SECOND, Timeouts};
use flowmeter_common::event::reason;
use flowmeter_common::flow::Entry;
use flowmeter_common::lifecycle::{Ages, EndReason, Fate};
use flowmeter_common::table::{Memory as _, free, retire, state};

use crate::kernel::{Ring, SharedTable, clock};
use crate::record::{FlowRecord, Stage};

/// How often the whole table is looked through. An idle flow is out at most this late, and the grace period.
const SWEEP_PERIOD: u64 = SECOND / 4;
/// How often closed flows whose linger is over are taken out.
const CLOSING_PERIOD: u64 = SECOND / 20;
/// Sleep between looks while events come, and while none do.
const BUSY_SLEEP: Duration = Duration::from_millis(2);
const QUIET_SLEEP: Duration = Duration::from_millis(20);
/// How long after a flow was cut its record is given out: longer than any packet is on its way through a kernel program
/// after it was stamped.
const CUT_MARGIN: u64 = SECOND / 20;
/// Most flows taken out in one batch: bounds the memory of copies.
const BATCH: usize = 4096;

/// What the harvest has seen, for the accounting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harvested {
    /// Flows taken out of the table.
    pub flows: u64,
    /// Packets in them.
    pub packets: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Copies of living flows that updates kept tearing.
    pub torn: u64,
    /// Flows in the table at the last sweep.
    pub living: u64,
}

/// Takes flows out of the table.
pub struct Harvester {
    table: std::sync::Arc<SharedTable>,
    ring: Ring,
    timeouts: Timeouts,
    /// When closed flows' linger is over: (time, slot, tag).
    closing: BinaryHeap<Reverse<(u64, u32, u64)>>,
    swept_at: u64,
    closed_at: u64,
    harvested: Harvested,
}

impl Harvester {
    /// A harvester of this table and its events.
    pub fn new(table: std::sync::Arc<SharedTable>, ring: Ring, timeouts: Timeouts) -> Self {
        Self {
            table,
            ring,
            timeouts,
            closing: BinaryHeap::new(),
            swept_at: 0,
            closed_at: 0,
            harvested: Harvested::default(),
        }
    }

    /// What has been seen so far.
    pub fn harvested(&self) -> Harvested {
        self.harvested
    }

    /// Looks once: events, closed flows that are due, and from time to time the whole table. Returns how long to sleep.
    ///
    /// # Errors
    /// The grace period fails, or `give` does.
    pub fn look(&mut self, give: &mut impl FnMut(Vec<FlowRecord>) -> Result<()>) -> Result<Duration> {
        let now = clock::monotonic();
        let mut checkpoints: HashMap<u32, u64> = HashMap::new();
        let mut events = 0_u32;
        while let Some(event) = self.ring.take() {
            events += 1;
            match event.reason {
                reason::CHECKPOINT => {
                    checkpoints.insert(event.slot, event.tag);
                }
                reason::CLOSING => {
                    self.closing.push(Reverse((now + self.timeouts.linger, event.slot, event.tag)))
                }
                _ => {}
            }
            // A flood of events must not keep the sweep from its work.
            if events == 65_536 {
                break;
            }
        }
        if !checkpoints.is_empty() {
            let living = self.copy_living(&checkpoints);
            give(living)?;
        }
        if now - self.swept_at >= SWEEP_PERIOD {
            self.swept_at = now;
            self.closed_at = now;
            self.sweep(now, give)?;
        } else if now - self.closed_at >= CLOSING_PERIOD {
            self.closed_at = now;
            self.take_closed(now, give)?;
        }
        Ok(if events == 0 { QUIET_SLEEP } else { BUSY_SLEEP })
    }

    /// Takes out every flow: the programs are detached and the agent stops.
    ///
    /// # Errors
    /// The grace period fails, or `give` does.
    pub fn flush(&mut self, give: &mut impl FnMut(Vec<FlowRecord>) -> Result<()>) -> Result<()> {
        // Programs that were running when they were detached come to their end first.
        self.table.grace_period()?;
        let (now, timeouts) = (clock::monotonic(), self.timeouts);
        self.sweep_with(give, |ages| {
            let by_clock = ages.and_then(|ages| ages.expired(now, &timeouts));
            Fate::Ended(by_clock.unwrap_or(EndReason::Shutdown))
        })
    }

    fn copy_living(&mut self, checkpoints: &HashMap<u32, u64>) -> Vec<FlowRecord> {
        let clock_offset = clock::offset_to_epoch();
        let mut records = Vec::with_capacity(checkpoints.len());
        for (&slot, &tag) in checkpoints {
            if self.table.tag(slot) != tag {
                continue;
            }
            let Some((entry, whole)) = self.table.copy_living(slot) else {
                continue;
            };
            // If the tag is still the same, what was copied is that flow.
            if self.table.tag(slot) == tag {
                self.harvested.torn += u64::from(!whole);
                records.push(FlowRecord { entry, stage: Stage::Checkpoint { slot, tag }, clock_offset });
            }
        }
        records
    }

    fn take_closed(&mut self, now: u64, give: &mut impl FnMut(Vec<FlowRecord>) -> Result<()>) -> Result<()> {
        let mut leaving = Vec::new();
        while let Some(&Reverse((due, slot, tag))) = self.closing.peek() {
            if due > now {
                break;
            }
            self.closing.pop();
            let retired = tag & !state::MASK | state::RETIRED;
            let present = self.table.tag(slot);
            if present == retired {
                leaving.push((slot, None));
            } else if present == tag
                && let Some(why) = ages(&self.table, slot).and_then(|ages| ages.expired(now, &self.timeouts))
                && retire(&*self.table, slot, tag)
            {
                leaving.push((slot, Some(why)));
            }
        }
        self.take_out(leaving, give)
    }

    fn sweep(&mut self, now: u64, give: &mut impl FnMut(Vec<FlowRecord>) -> Result<()>) -> Result<()> {
        let timeouts = self.timeouts;
        self.sweep_with(give, |ages| match ages.map(|ages| ages.fate(now, &timeouts)) {
            Some(Fate::Cut) if ages.map(|ages| ages.fate(now - CUT_MARGIN, &timeouts)) != Some(Fate::Cut) => {
                Fate::Living
            }
            fate => fate.unwrap_or(Fate::Living),
        })
    }

    /// Takes out all retired flows, and the living ones that have ended by `fate`.
    fn sweep_with(
        &mut self,
        give: &mut impl FnMut(Vec<FlowRecord>) -> Result<()>,
        fate: impl Fn(Option<Ages>) -> Fate,
    ) -> Result<()> {
        let table = std::sync::Arc::clone(&self.table);
        let mut leaving = Vec::new();
        let mut cut = Vec::new();
        let mut living = 0;
        for slot in 0..table.size().slots() {
            let tag = table.tag(slot);
            match tag & state::MASK {
                state::RETIRED => leaving.push((slot, None)),
                state::LIVE => match fate(ages(&table, slot)) {
                    Fate::Ended(why) if retire(&*table, slot, tag) => leaving.push((slot, Some(why))),
                    // Somebody else retired it; the next sweep finds it.
                    Fate::Ended(_) => {}
                    Fate::Cut => cut.extend(self.report_cut(slot, tag)),
                    Fate::Living => living += 1,
                },
                _ => {}
            }
            if leaving.len() == BATCH {
                self.take_out(std::mem::take(&mut leaving), give)?;
            }
            if cut.len() == BATCH {
                give(std::mem::take(&mut cut))?;
            }
        }
        self.harvested.living = living;
        if !cut.is_empty() {
            give(cut)?;
        }
        self.take_out(leaving, give)
    }

    /// The record of a flow that the active timeout has cut, once; its slot stays, see [`Fate::Cut`].
    fn report_cut(&mut self, slot: u32, tag: u64) -> Option<FlowRecord> {
        let (entry, whole) = self.table.copy_living(slot)?;
        // A packet may have ended it just now; then it leaves like any other.
        if entry.reported != 0 || self.table.tag(slot) != tag {
            return None;
        }
        self.table.mark_reported(slot);
        self.harvested.torn += u64::from(!whole);
        Some(self.harvest(entry, EndReason::Active, clock::offset_to_epoch()))
    }

    /// Counts a flow as taken out.
    fn harvest(&mut self, entry: Entry, why: EndReason, clock_offset: u64) -> FlowRecord {
        self.harvested.flows += 1;
        self.harvested.packets += entry.state.packets();
        self.harvested.bytes += entry.state.bytes();
        FlowRecord { entry, stage: Stage::End(why), clock_offset }
    }

    /// Copies retired flows once nobody can write them any more, and frees their slots.
    fn take_out(
        &mut self,
        leaving: Vec<(u32, Option<EndReason>)>,
        give: &mut impl FnMut(Vec<FlowRecord>) -> Result<()>,
    ) -> Result<()> {
        if leaving.is_empty() {
            return Ok(());
        }
        self.table.grace_period()?;
        let clock_offset = clock::offset_to_epoch();
        let mut records = Vec::with_capacity(leaving.len());
        for (slot, why) in leaving {
            // The same flow can be named twice, by an event and by the sweep; the first freed it.
            if self.table.tag(slot) & state::MASK != state::RETIRED {
                continue;
            }
            let Some(entry) = self.table.copy_retired(slot) else {
                continue;
            };
            free(&*self.table, slot);
            if entry.reported == 0 {
                let why = why.unwrap_or_else(|| ended_by_kernel(&entry));
                records.push(self.harvest(entry, why, clock_offset));
            }
        }
        give(records)
    }
}

/// The times of the flow in a slot.
fn ages(table: &SharedTable, slot: u32) -> Option<Ages> {
    let entry = table.entry(slot)?;
    // SAFETY: the slot exists; kernel programs write aligned words.
    unsafe { Ages::read(&raw const (*entry).state) }
}

/// The reason that the kernel program noted when a new flow took the old one's key.
fn ended_by_kernel(entry: &Entry) -> EndReason {
    EndReason::from_number(entry.end_reason).unwrap_or(EndReason::PortReuse)
}
