//! Flows of the kernel's table: takes out those that have ended, copies living ones at their checkpoints.
//!
//! Everything here runs on one thread of its own. It sleeps for milliseconds between looks, so that no packet ever
//! has to wake it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use flowmeter_common::aggregate;
use flowmeter_common::event::reason;
use flowmeter_common::flow::Entry;
use flowmeter_common::key::kind;
use flowmeter_common::lifecycle::{Ages, EndReason, Fate, Timeouts, is_slight};
use flowmeter_common::table::{Memory as _, free, retire, state, tag};
use flowmeter_common::time::SECOND;

use crate::context::Context;
use crate::kernel::{Ring, SharedTable, clock};
use crate::record::{FlowRecord, Stage};

/// How often the whole table is looked through: so that it takes a tenth of the time at most, but no less often than
/// that an idle flow is out within a second of its timeout, and more often when the table fills.
const SWEEP_SHARE: u64 = 10;
const SWEEP_LEAST: u64 = SECOND / 20;
const SWEEP_USUAL: u64 = SECOND / 4;
const SWEEP_MOST: u64 = SECOND / 2;
/// Closed flows whose linger is over are taken out together, at most this late: a batch costs a grace period.
const CLOSING_BATCH: u64 = SECOND / 50;
/// How long the agent sleeps between looks, while events come and while none do. The kernel programs wake it only when
/// the ring fills.
const BUSY_SLEEP: Duration = Duration::from_millis(2);
const QUIET_SLEEP: Duration = Duration::from_millis(20);
/// How long the agent sleeps between looks for events while a grace period is waited for.
const GRACE_SLEEP: Duration = Duration::from_millis(1);
/// How long after a flow was cut its record is given out: longer than any packet is on its way through a kernel program
/// after it was stamped.
const CUT_MARGIN: u64 = SECOND / 20;
/// Most flows that leave after one grace period.
pub const LEAVING: usize = 4096;
/// Most flows given out at once: bounds the memory of copies, and how long a flow that waits for its verdict waits for
/// others.
pub const BATCH: usize = 256;
/// Slots that a sweep looks at before it looks for events: a fraction of a millisecond's work.
const SWEPT_AT_ONCE: u32 = 4096;
/// Most events taken in one look: a flood of them must not keep the sweep from its work.
const EVENTS_AT_ONCE: u32 = 65_536;

/// How long it is taken for granted that a flow lives on, if no timeout of its ends before: reading the flow costs the
/// sweep a hundred times what reading its tag does. What closes meanwhile is told by an event; if that was lost, this late.
const TRUST: u64 = 2 * SECOND;

/// That the flow with this tag has been noticed, and lives on until then. One for each entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    tag: u64,
    until: u64,
}

/// How full the table is, and what follows for the flows of which little is known, see [`is_slight`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pressure {
    /// They are flows like any other.
    None,
    /// There are three quarters of the flows that there is room for: they have ended after five seconds of silence.
    Some,
    /// Nine tenths are, or packets have been folded since the last sweep: after half a second; and closed flows do not
    /// linger.
    Much,
}

impl Pressure {
    fn of(living: u64, room: u64, folding: bool) -> Self {
        match () {
            () if folding || living >= room / 10 * 9 => Self::Much,
            () if living >= room / 4 * 3 => Self::Some,
            () => Self::None,
        }
    }

    /// Says what has changed.
    fn log(self, living: u64, room: u64) {
        let why = match self {
            Self::None => {
                return log::info!("the flow table has room again: {living} flows, of {room}");
            }
            Self::Some => "three quarters of the flow table are taken",
            Self::Much => "the flow table is full, or nearly; what finds no slot is counted in aggregates",
        };
        let after = self.slight_idle(u64::MAX) as f64 / SECOND as f64;
        log::warn!(
            "{why} ({living} of {room} flows at the last look): one-packet and half-open flows end after {after} s of \
             silence; --max-flows makes it larger"
        );
    }

    /// How long flows of which little is known may be silent.
    fn slight_idle(self, usual: u64) -> u64 {
        match self {
            Self::None => usual,
            Self::Some => usual.min(5 * SECOND),
            Self::Much => usual.min(SECOND / 2),
        }
    }
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
    /// Of the flows: those that had to make room.
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

/// Who takes whatever comes.
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
    /// True once packets have been folded since the last sweep.
    folding: bool,
    /// By number of the entry in the flow table.
    known: Vec<Known>,
    /// What surrounds flows, if that is asked for.
    context: Option<Context>,
    drained: DrainCounts,
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
            pressure: Pressure::None,
            folding: false,
            known,
            context,
            drained: DrainCounts::default(),
            emptied: clock::monotonic(),
            prompt: false,
        }
    }

    /// Looks every two milliseconds even while nothing happens: somebody waits for verdicts.
    pub fn be_prompt(&mut self) {
        self.prompt = true;
    }

    /// Goes on counting where an agent before has stopped.
    pub fn resume(&mut self, [flows, packets, bytes, aggregated]: [u64; 4]) {
        self.drained = DrainCounts { flows, packets, bytes, aggregated, ..self.drained };
    }

    /// What has been seen so far.
    pub fn drained(&self) -> DrainCounts {
        let pushed_out = self.context.as_ref().map_or(0, Context::pushed_out);
        DrainCounts { pushed_out, ..self.drained }
    }

    /// Waits until something may have to be done: for as long as [`look`](Self::look) said, or until the ring fills.
    pub fn sleep(&self, longest: Duration) {
        self.ring.wait(longest);
    }

    /// Looks once: events, closed flows that are due, and from time to time the whole table. Returns how long to sleep.
    ///
    /// # Errors
    /// The grace period fails, or `sink` does.
    pub fn look(&mut self, sink: &mut impl RecordSink) -> Result<Duration> {
        let now = clock::monotonic();
        let events = self.take_events(now, sink)?;
        if now >= self.next_sweep {
            self.sweep(now, sink)?;
            let after = clock::monotonic();
            let least = if self.pressure == Pressure::None { SWEEP_USUAL } else { SWEEP_LEAST };
            self.next_sweep = after + ((after - now) * SWEEP_SHARE).clamp(least, SWEEP_MOST);
        } else if self.closing.peek().is_some_and(|Reverse((due, ..))| due + CLOSING_BATCH <= now) {
            self.take_closed(now, sink)?;
        }
        Ok(if events == 0 && !self.prompt { QUIET_SLEEP } else { BUSY_SLEEP })
    }

    /// Takes what the programs have told since the last time, and gives out the flows that reached a checkpoint. Returns
    /// how many events there were.
    fn take_events(&mut self, now: u64, sink: &mut impl RecordSink) -> Result<u32> {
        let mut checkpoints: HashMap<u32, u64> = HashMap::new();
        let (mut events, since) = (0_u32, self.emptied);
        loop {
            let Some(event) = self.ring.take() else {
                self.emptied = now;
                break;
            };
            events += 1;
            match event.reason {
                reason::CHECKPOINT => {
                    checkpoints.insert(event.slot, event.tag);
                }
                reason::CLOSING => {
                    self.closing.push(Reverse((now + self.timeouts.linger, event.slot, event.tag)))
                }
                reason::NO_ROOM => {
                    self.folding = true;
                    self.next_sweep = self.next_sweep.min(now + SWEEP_LEAST);
                }
                _ => {}
            }
            if events == EVENTS_AT_ONCE {
                break;
            }
        }
        if checkpoints.is_empty() {
            return Ok(events);
        }
        let (mut living, clock_offset) = (Vec::new(), clock::offset_to_epoch());
        for (slot, tag) in checkpoints {
            living.extend(self.copy_living(now, slot, tag, clock_offset));
            if living.len() == BATCH {
                self.give_living(now, since, std::mem::take(&mut living), sink)?;
            }
        }
        self.give_living(now, since, living, sink)?;
        Ok(events)
    }

    fn give_living(
        &mut self,
        now: u64,
        since: u64,
        mut flows: Vec<FlowRecord>,
        sink: &mut impl RecordSink,
    ) -> Result<()> {
        if flows.is_empty() {
            return Ok(());
        }
        self.surround(now, &mut flows);
        sink.living(flows, since)
    }

    /// Gives out flows that have ended. While there is no room for them, and between batches, flows that reach a checkpoint
    /// overtake them: somebody waits for their verdicts.
    fn give_ended(&mut self, now: u64, flows: Vec<FlowRecord>, sink: &mut impl RecordSink) -> Result<()> {
        let mut flows = flows.into_iter();
        loop {
            let mut batch: Vec<_> = flows.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            self.surround(now, &mut batch);
            while let Some(back) = sink.ended(batch)? {
                batch = back;
                self.ring.wait(GRACE_SLEEP);
                self.take_events(clock::monotonic(), sink)?;
            }
            self.take_events(clock::monotonic(), sink)?;
        }
    }

    /// Takes out every flow: the programs are detached and the agent stops.
    ///
    /// # Errors
    /// The grace period fails, or `sink` does.
    pub fn flush(&mut self, sink: &mut impl RecordSink) -> Result<()> {
        // Programs that were running when they were detached come to their end first.
        self.flows.grace_period()?;
        let (now, timeouts) = (clock::monotonic(), self.timeouts);
        let flows = Arc::clone(&self.flows);
        self.drained.living = self.sweep_with(&flows, now, sink, |_, tag| {
            let by_clock = ages(&flows, tag).and_then(|ages| ages.expired(now, &timeouts));
            Fate::Ended(by_clock.unwrap_or(EndReason::Shutdown))
        })?;
        let aggregates = Arc::clone(&self.aggregates);
        self.sweep_with(&aggregates, now, sink, |_, _| Fate::Ended(EndReason::Folded)).map(drop)
    }

    /// The record of the flow that had this slot and tag, if it still has.
    fn copy_living(&mut self, now: u64, slot: u32, tag: u64, clock_offset: u64) -> Option<FlowRecord> {
        if self.flows.tag(slot) != tag {
            return None;
        }
        let (entry, whole) = self.flows.copy_living(tag)?;
        // If the tag is still the same, what was copied is that flow.
        if self.flows.tag(slot) != tag {
            return None;
        }
        self.drained.torn += u64::from(!whole);
        notice(&mut self.context, &mut self.known[tag::entry(tag) as usize], tag, now, &entry);
        let stage = Stage::Checkpoint { entry: tag::entry(tag) };
        Some(FlowRecord { entry, stage, clock_offset, context: None })
    }

    fn take_closed(&mut self, now: u64, sink: &mut impl RecordSink) -> Result<()> {
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

    fn sweep(&mut self, now: u64, sink: &mut impl RecordSink) -> Result<()> {
        let flows = Arc::clone(&self.flows);
        let room = u64::from(flows.size().flows());
        let pressure = Pressure::of(self.drained.living, room, self.folding);
        self.folding = false;
        if pressure != self.pressure {
            pressure.log(self.drained.living, room);
        }
        self.pressure = pressure;
        let usual = self.timeouts;
        let timeouts =
            Timeouts { linger: if pressure == Pressure::Much { 0 } else { usual.linger }, ..usual };
        let slight = Timeouts { idle: pressure.slight_idle(usual.idle), ..timeouts };
        self.drained.living = self.sweep_with(&flows, now, sink, |this, tag| {
            let known = &mut this.known[tag::entry(tag) as usize];
            if pressure == Pressure::None && known.tag == tag && now < known.until {
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
                Fate::Living
                    if pressure != Pressure::None
                        && ages.expired(now, &slight).is_some()
                        // SAFETY: an entry of the table; kernel programs write aligned words.
                        && unsafe { is_slight(entry) } =>
                {
                    Fate::Ended(EndReason::Pressure)
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
        self.drained.torn += u64::from(!whole);
        notice(&mut self.context, &mut self.known[tag::entry(tag) as usize], tag, now, &entry);
        if let Some(context) = &mut self.context {
            context.ended(&entry, now);
        }
        Some(self.drain(entry, EndReason::Active, clock::offset_to_epoch()))
    }

    /// Counts a flow as taken out.
    fn drain(&mut self, entry: Entry, why: EndReason, clock_offset: u64) -> FlowRecord {
        if why == EndReason::Folded {
            self.drained.aggregated += entry.state.packets();
        } else {
            self.drained.flows += 1;
            self.drained.packets += entry.state.packets();
            self.drained.bytes += entry.state.bytes();
            self.drained.evicted += u64::from(why == EndReason::Pressure);
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
                records.push(self.drain(entry, why, clock_offset));
            }
        }
        self.give_ended(now, records, sink)
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

/// Tells the context of a flow that it has not been told of.
fn notice(context: &mut Option<Context>, known: &mut Known, tag: u64, now: u64, entry: &Entry) {
    if known.tag != tag
        && let Some(context) = context
    {
        context.opened(entry, now);
        *known = Known { tag, until: 0 };
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
