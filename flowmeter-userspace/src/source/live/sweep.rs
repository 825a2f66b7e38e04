//! Walks the table, and takes out the flows that have ended.

use std::cmp::Reverse;
use std::sync::Arc;

use anyhow::Result;
use flowmeter_common::aggregate;
use flowmeter_common::flow::Entry;
use flowmeter_common::key::kind;
use flowmeter_common::lifecycle::{Ages, Census, EndReason, Fate, Level, Pressure, Standing, Timeouts};
use flowmeter_common::table::{Memory as _, free, retire, state, tag};
use flowmeter_common::time::SECOND;

use super::checkpoints::notice;
use super::pressure;
use super::{BATCH, Drain, GRACE_SLEEP, Known, LEAVING, RecordSink};
use crate::kernel::{SharedTable, clock};
use crate::record::{FlowRecord, Stage};

/// How long after a flow was cut its record is given out: longer than any packet, once stamped, takes through a kernel
/// program.
const CUT_MARGIN: u64 = SECOND / 20;
/// Slots that a sweep looks at before it looks for events: a fraction of a millisecond's work.
const SWEPT_AT_ONCE: u32 = 4096;
/// How long the sweep takes for granted that a flow lives on, if none of its timeouts ends before. Reading a flow costs a
/// hundred times what reading its tag does. An event tells of a flow that closes meanwhile; if the event was lost, the
/// sweep notices this late.
const TRUST: u64 = 2 * SECOND;

impl Drain {
    /// Takes out every flow: the programs are detached and the agent stops.
    ///
    /// # Errors
    /// The grace period fails, or `sink` does.
    pub fn flush(&mut self, sink: &mut impl RecordSink) -> Result<()> {
        // Programs that were running when they were detached come to their end first.
        self.flows.grace_period()?;
        let (now, timeouts) = (clock::monotonic(), self.timeouts);
        let flows = Arc::clone(&self.flows);
        self.counts.living = self.sweep_with(&flows, now, sink, |_, tag| {
            let by_clock = ages(&flows, tag).and_then(|ages| ages.expired(now, &timeouts));
            Fate::Ended(by_clock.unwrap_or(EndReason::Shutdown))
        })?;
        let aggregates = Arc::clone(&self.aggregates);
        self.sweep_with(&aggregates, now, sink, |_, _| Fate::Ended(EndReason::Folded)).map(drop)
    }

    pub(super) fn take_closed(&mut self, now: u64, sink: &mut impl RecordSink) -> Result<()> {
        let flows = Arc::clone(&self.flows);
        let mut leaving = Vec::new();
        while let Some(&Reverse((due, slot, tag))) = self.closing.peek() {
            if due > now {
                break;
            }
            self.closing.pop();
            let present = flows.tag(slot);
            if present == tag::retired(tag) {
                leaving.push((slot, None));
            } else if present == tag
                && let Some(why) = ages(&flows, tag).and_then(|ages| ages.expired(now, &self.timeouts))
                && retire(&*flows, slot, tag)
            {
                leaving.push((slot, Some(why)));
            }
        }
        self.take_out(&flows, now, leaving, sink)
    }

    pub(super) fn sweep(&mut self, now: u64, sink: &mut impl RecordSink) -> Result<()> {
        let flows = Arc::clone(&self.flows);
        let room = u64::from(flows.size().flows());
        let pressure = Pressure::of(self.counts.living, room, self.folding, &self.census);
        self.folding = false;
        if pressure.level != self.pressure.level {
            pressure::log(pressure.level, self.counts.living, room);
        }
        self.pressure = pressure;
        self.census = Census::default();
        let usual = self.timeouts;
        let timeouts =
            Timeouts { linger: if pressure.level == Level::High { 0 } else { usual.linger }, ..usual };
        self.counts.living = self.sweep_with(&flows, now, sink, |this, tag| {
            let known = &mut this.known[tag::entry(tag) as usize];
            if pressure.level == Level::Low && known.tag == tag && now < known.until {
                return Fate::Living;
            }
            let (Some(entry), Some(ages)) = (flows.entry(tag::entry(tag)), ages(&flows, tag)) else {
                return Fate::Living;
            };
            if known.tag != tag
                && this.context.is_some()
                && let Some((entry, _)) = flows.copy_living(tag)
            {
                notice(&mut this.context, known, tag, now, &entry);
            }
            match ages.fate(now, &timeouts) {
                Fate::Cut if ages.fate(now - CUT_MARGIN, &timeouts) != Fate::Cut => Fate::Living,
                Fate::Living if pressure.level != Level::Low => {
                    // SAFETY: an entry of the table; kernel programs write aligned words.
                    let standing = unsafe { Standing::read(entry) };
                    if pressure.evicts(&standing, now, usual.idle) {
                        return Fate::Ended(EndReason::Pressure);
                    }
                    this.census.add(&standing, now);
                    Fate::Living
                }
                Fate::Living => {
                    *known = Known { tag, until: ages.next_change(now, &timeouts).min(now + TRUST) };
                    Fate::Living
                }
                fate => fate,
            }
        })?;
        let aggregates = Arc::clone(&self.aggregates);
        self.sweep_with(&aggregates, now, sink, |_, tag| {
            match ages(&aggregates, tag).and_then(|ages| ages.expired(now, &aggregate::TIMEOUTS)) {
                Some(_) => Fate::Ended(EndReason::Folded),
                None => Fate::Living,
            }
        })
        .map(drop)
    }

    /// Takes out all of a table's retired entries, and the living ones that have ended by `fate`, which is told their
    /// tags. Returns how many live.
    fn sweep_with(
        &mut self,
        table: &SharedTable,
        now: u64,
        sink: &mut impl RecordSink,
        mut fate: impl FnMut(&mut Self, u64) -> Fate,
    ) -> Result<u64> {
        let mut leaving = Vec::new();
        let mut cut = Vec::new();
        let mut living = 0;
        for slot in 0..table.size().slots() {
            let tag = table.tag(slot);
            match tag & state::MASK {
                state::RETIRED => leaving.push((slot, None)),
                state::LIVE => match fate(self, tag) {
                    Fate::Ended(why) if retire(table, slot, tag) => leaving.push((slot, Some(why))),
                    // Somebody else retired it; the next sweep finds it.
                    Fate::Ended(_) => {}
                    Fate::Cut => cut.extend(self.report_cut(now, slot, tag)),
                    Fate::Living => living += 1,
                },
                _ => {}
            }
            if leaving.len() == LEAVING {
                self.take_out(table, now, std::mem::take(&mut leaving), sink)?;
            }
            if cut.len() == BATCH {
                self.give_ended(now, std::mem::take(&mut cut), sink)?;
            }
            if slot % SWEPT_AT_ONCE == SWEPT_AT_ONCE - 1 {
                self.take_events(clock::monotonic(), sink)?;
            }
        }
        self.give_ended(now, cut, sink)?;
        self.take_out(table, now, leaving, sink)?;
        Ok(living)
    }

    /// The record of a flow that the active timeout has cut, once; its slot stays, see [`Fate::Cut`].
    fn report_cut(&mut self, now: u64, slot: u32, tag: u64) -> Option<FlowRecord> {
        let (entry, whole) = self.flows.copy_living(tag)?;
        // A packet may have ended it just now; then it leaves like any other.
        if entry.reported != 0 || self.flows.tag(slot) != tag {
            return None;
        }
        self.flows.mark_reported(tag);
        self.counts.torn += u64::from(!whole);
        notice(&mut self.context, &mut self.known[tag::entry(tag) as usize], tag, now, &entry);
        if let Some(context) = &mut self.context {
            context.ended(&entry, now);
        }
        Some(self.count(entry, EndReason::Active, clock::offset_to_epoch()))
    }

    /// Counts a flow as taken out.
    fn count(&mut self, entry: Entry, why: EndReason, clock_offset: u64) -> FlowRecord {
        if why == EndReason::Folded {
            self.counts.aggregated += entry.state.packets();
        } else {
            self.counts.flows += 1;
            self.counts.packets += entry.state.packets();
            self.counts.bytes += entry.state.bytes();
            self.counts.evicted += u64::from(why == EndReason::Pressure);
        }
        FlowRecord { entry, stage: Stage::End(why), clock_offset, context: None }
    }

    /// Copies retired flows once nobody can write them any more, and frees their slots.
    fn take_out(
        &mut self,
        table: &SharedTable,
        now: u64,
        leaving: Vec<(u32, Option<EndReason>)>,
        sink: &mut impl RecordSink,
    ) -> Result<()> {
        if leaving.is_empty() {
            return Ok(());
        }
        // It takes milliseconds, in which flows that reach a checkpoint need not wait for their verdict.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| table.grace_period());
            while !waiting.is_finished() {
                self.ring.wait(GRACE_SLEEP);
                self.take_events(clock::monotonic(), sink)?;
            }
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let clock_offset = clock::offset_to_epoch();
        let mut records = Vec::with_capacity(leaving.len());
        for (nth, (slot, why)) in leaving.into_iter().enumerate() {
            if nth % BATCH == BATCH - 1 {
                self.take_events(clock::monotonic(), sink)?;
            }
            // The same flow can be named twice, by an event and by the sweep; the first freed it.
            let tag = table.tag(slot);
            if tag & state::MASK != state::RETIRED {
                continue;
            }
            let Some(entry) = table.copy_retired(tag) else {
                continue;
            };
            free(table, slot, tag);
            let aggregate = entry.key.kind == kind::AGGREGATE;
            // Whatever gets the entry next is another flow, even if it has the same tag.
            let mut known = Known::default();
            if !aggregate {
                std::mem::swap(&mut known, &mut self.known[tag::entry(tag) as usize]);
            }
            if entry.reported == 0 {
                notice(&mut self.context, &mut known, tag & !state::MASK | state::LIVE, now, &entry);
                if let Some(context) = &mut self.context {
                    context.ended(&entry, now);
                }
                let why = why.unwrap_or_else(|| ended_by_kernel(&entry));
                records.push(self.count(entry, why, clock_offset));
            }
        }
        self.give_ended(now, records, sink)
    }
}

/// The times of the flow with this tag.
fn ages(table: &SharedTable, tag: u64) -> Option<Ages> {
    let entry = table.entry(tag::entry(tag))?;
    // SAFETY: the entry exists; kernel programs write aligned words.
    unsafe { Ages::read(&raw const (*entry).state) }
}

/// The reason that the kernel program noted when a new flow took the old one's key.
fn ended_by_kernel(entry: &Entry) -> EndReason {
    if entry.key.kind == kind::AGGREGATE {
        return EndReason::Folded;
    }
    EndReason::from_number(entry.end_reason).unwrap_or(EndReason::PortReuse)
}
