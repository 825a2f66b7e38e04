//! The host's flow table: what the kernel's does for an interface, for the packets of a capture, by the same functions.

use anyhow::Result;
use flowmeter_common::counter::{InterfaceCounters, Skip};
use flowmeter_common::flow::{Entry, Opening};
use flowmeter_common::hash::HashKeys;
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::{Ages, EndReason, Fate, Timeouts, ended_before};
use flowmeter_common::packet::Packet;

use super::hash_index::Index;
use super::prefetch;
use super::timer_wheel::Timers;

/// Secrets of the hash, known to all: flows of a capture need no protection from whoever sent them beyond bounded memory.
const KEYS: HashKeys = HashKeys::expand(0x243f_6a88_85a3_08d3);

/// Packets that are taken together: their flows' entries fit the first two cache levels.
pub const TOGETHER: usize = 32;

/// A packet, or the reason why it is none, and when it was seen (ns since the Unix epoch).
pub type Parsed = (Result<Packet, Skip>, u64);

/// The hash under which the table keeps a key.
#[inline]
fn hash(key: &FlowKey) -> u64 {
    KEYS.hash(key.words())
}

/// Entries in blocks of 4,096: growing moves nothing and leaves no more than a block unused.
#[derive(Default)]
struct Entries {
    blocks: Vec<Vec<Entry>>,
    count: u32,
}

impl Entries {
    const BLOCK: usize = 4096;

    fn push(&mut self, entry: Entry) -> u32 {
        match self.blocks.last_mut() {
            Some(block) if block.len() < Self::BLOCK => block.push(entry),
            _ => {
                let mut block = Vec::with_capacity(Self::BLOCK);
                block.push(entry);
                self.blocks.push(block);
            }
        }
        self.count += 1;
        self.count - 1
    }

    #[inline]
    fn get(&self, slot: u32) -> &Entry {
        &self.blocks[slot as usize / Self::BLOCK][slot as usize % Self::BLOCK]
    }

    #[inline]
    fn get_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.blocks[slot as usize / Self::BLOCK][slot as usize % Self::BLOCK]
    }
}

/// Takes flows that have ended, and is told of those that open. An entry fills a kilobyte, so that it is lent.
///
/// A closure that takes an entry and why it ended is one that does not look at what surrounds a flow.
pub trait FlowSink {
    /// A flow's first packet came at `now`.
    #[inline]
    fn opened(&mut self, _entry: &Entry, _now: u64) {}

    /// A living flow has reached a checkpoint.
    ///
    /// # Errors
    /// It cannot be taken any further.
    #[inline]
    fn checkpoint(&mut self, _entry: &Entry, _now: u64) -> Result<()> {
        Ok(())
    }

    /// A flow has ended and is given soon, after others that end at once have been announced.
    #[inline]
    fn ending(&mut self, _entry: &Entry, _now: u64) {}

    /// Takes a flow that has ended, and why.
    ///
    /// # Errors
    /// It cannot go any further.
    fn give(&mut self, entry: &Entry, why: EndReason, now: u64) -> Result<()>;
}

impl<T: FnMut(&Entry, EndReason) -> Result<()>> FlowSink for T {
    #[inline]
    fn give(&mut self, entry: &Entry, why: EndReason, _now: u64) -> Result<()> {
        self(entry, why)
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Accounting of packets.
    pub counters: InterfaceCounters,
    /// Flows given out.
    pub flows: u64,
    /// Most flows that were kept at once.
    pub most_living: usize,
    /// Packets stamped earlier than one before them; their time was taken as that one's.
    pub time_stepped_back: u64,
}

/// The flows that live at present. Time is that of the packets, and never goes back.
pub struct Flows {
    timeouts: Timeouts,
    /// Slots by key; the keys lie in the entries.
    index: Index,
    entries: Entries,
    /// Slots that hold no flow.
    free: Vec<u32>,
    timers: Timers,
    /// Latest time seen, ns since the Unix epoch.
    now: u64,
    totals: Totals,
}

impl Flows {
    /// No flow yet.
    pub fn new(timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            index: Index::new(),
            entries: Entries::default(),
            free: Vec::new(),
            timers: Timers::new(),
            now: 0,
            totals: Totals::default(),
        }
    }

    /// What was counted so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Takes packets in order, best [`TOGETHER`] at a time.
    ///
    /// Updating a flow waits for memory more than it computes: an entry fills fifteen cache lines, and a capture's flows
    /// no cache. So the index's cells of all are asked for first, then the entries that these name (nearly always the
    /// right ones), and waited for together. Nothing but the rate depends on it.
    ///
    /// # Errors
    /// `give` fails.
    pub fn packets(&mut self, packets: &[Parsed], give: &mut impl FlowSink) -> Result<()> {
        let mut hashes = [0; TOGETHER];
        for chunk in packets.chunks(TOGETHER) {
            for ((parsed, _), hash) in chunk.iter().zip(&mut hashes) {
                if let Ok(packet) = parsed {
                    *hash = self::hash(&packet.key);
                    self.index.fetch(*hash);
                }
            }
            for ((parsed, _), &hash) in chunk.iter().zip(&hashes) {
                if parsed.is_ok()
                    && let Some(slot) = self.index.find(hash, |_| true)
                {
                    prefetch(self.entries.get(slot));
                }
            }
            for ((parsed, timestamp), &hash) in chunk.iter().zip(&hashes) {
                self.packet(parsed, hash, *timestamp, give)?;
            }
        }
        Ok(())
    }

    /// Takes one packet, or the reason why it is none, seen at `timestamp` (ns since the Unix epoch, at most
    /// [`LATEST`](crate::capture::LATEST)). Flows that end go to `give`.
    #[inline]
    fn packet(
        &mut self,
        parsed: &Result<Packet, Skip>,
        hash: u64,
        timestamp: u64,
        give: &mut impl FlowSink,
    ) -> Result<()> {
        self.totals.counters.seen += 1;
        if timestamp < self.now {
            self.totals.time_stepped_back += 1;
        } else {
            self.now = timestamp;
        }
        if self.timers.ticked(self.now) {
            self.expire(give)?;
        }
        match parsed {
            Ok(packet) => self.count(packet, hash, give),
            Err(why) => {
                self.totals.counters.skipped[*why as usize] += 1;
                Ok(())
            }
        }
    }

    /// Ends all flows: the capture is over.
    ///
    /// # Errors
    /// `give` fails.
    pub fn finish(mut self, give: &mut impl FlowSink) -> Result<Totals> {
        // Neither timers nor the index are needed any more, but memory to sort.
        self.timers = Timers::new();
        let index = std::mem::replace(&mut self.index, Index::new());
        let living: Vec<u32> = index.slots().collect();
        drop(index);
        for &slot in &living {
            self.announce(slot, self.now, give);
        }
        for slot in self.by_age(living) {
            // SAFETY: a reference points to a readable flow.
            let ages = unsafe { Ages::read(&self.entries.get(slot).state) };
            let by_clock = ages.and_then(|ages| ages.expired(self.now, &self.timeouts));
            self.close(slot, by_clock.unwrap_or(EndReason::EndOfCapture), self.now, give)?;
        }
        Ok(self.totals)
    }

    #[inline]
    fn count(&mut self, packet: &Packet, hash: u64, give: &mut impl FlowSink) -> Result<()> {
        let found = self.index.find(hash, |slot| self.entries.get(slot).key.same(&packet.key));
        let mut opened = found.is_none();
        let slot = match found {
            None => self.open(packet, hash, Opening::of(packet)),
            Some(slot) => {
                let entry = self.entries.get(slot);
                match ended_before(&entry.state, packet, self.now, &self.timeouts) {
                    None => slot,
                    Some(ending) => {
                        let opening = match ending.continued {
                            true => Opening::continuing(entry),
                            false => Opening::of(packet),
                        };
                        self.announce(slot, self.now, give);
                        self.close(slot, ending.reason, self.now, give)?;
                        opened = true;
                        self.open(packet, hash, opening)
                    }
                }
            }
        };
        let updated = self.entries.get_mut(slot).state.update(packet, self.now);
        if opened {
            give.opened(self.entries.get(slot), self.now);
        }
        if updated.checkpoint {
            give.checkpoint(self.entries.get(slot), self.now)?;
        }
        if updated.closed {
            self.timers.arm(slot, self.now + self.timeouts.linger);
        }
        self.totals.counters.counted += 1;
        self.totals.counters.counted_bytes += packet.wire_bytes();
        Ok(())
    }

    fn open(&mut self, packet: &Packet, hash: u64, opening: Opening) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => {
                // In place: an entry is a kilobyte, which a move would copy once more.
                self.entries.get_mut(slot).open(packet, opening);
                slot
            }
            None => self.entries.push(Entry::opened_by(packet, opening)),
        };
        self.index.insert(hash, slot);
        self.timers.arm(slot, self.now + self.timeouts.idle.min(self.timeouts.active));
        self.totals.counters.opened += 1;
        self.totals.most_living = self.totals.most_living.max(self.index.len());
        slot
    }

    /// Takes a flow out that has ended at `at`; its record is given out unless that has been done.
    fn close(&mut self, slot: u32, why: EndReason, at: u64, give: &mut impl FlowSink) -> Result<()> {
        let entry = self.entries.get(slot);
        self.index.remove(hash(&entry.key), slot);
        self.timers.disarm(slot);
        self.free.push(slot);
        if entry.reported != 0 {
            return Ok(());
        }
        self.totals.flows += 1;
        give.give(entry, why, at)
    }

    /// Says that a flow is about to be given out, unless that has been done.
    fn announce(&self, slot: u32, at: u64, give: &mut impl FlowSink) {
        let entry = self.entries.get(slot);
        if entry.reported == 0 {
            give.ending(entry, at);
        }
    }

    /// Looks at the flows whose time has come, tick by tick: after a long silence as during it, if somebody had looked.
    fn expire(&mut self, give: &mut impl FlowSink) -> Result<()> {
        while let Some((at, due)) = self.timers.due(self.now) {
            self.expire_tick(at, due, give)?;
        }
        Ok(())
    }

    /// Looks at flows at the time `at`.
    fn expire_tick(&mut self, at: u64, due: Vec<u32>, give: &mut impl FlowSink) -> Result<()> {
        let timeouts = self.timeouts;
        // SAFETY: a reference points to a readable flow.
        let ages = |flows: &Self, slot| unsafe { Ages::read(&flows.entries.get(slot).state) };
        for &slot in &due {
            if ages(self, slot).is_some_and(|ages| ages.fate(at, &timeouts) != Fate::Living) {
                self.announce(slot, at, give);
            }
        }
        for slot in self.by_age(due) {
            let Some(ages) = ages(self, slot) else {
                continue;
            };
            match ages.fate(at, &timeouts) {
                Fate::Ended(why) => {
                    self.close(slot, why, at, give)?;
                    continue;
                }
                Fate::Cut => {
                    let entry = self.entries.get_mut(slot);
                    if entry.reported == 0 {
                        entry.reported = 1;
                        self.totals.flows += 1;
                        give.give(entry, EndReason::Active, at)?;
                    }
                }
                Fate::Living => {}
            }
            self.timers.arm(slot, ages.next_change(at, &timeouts));
        }
        Ok(())
    }

    /// Slots in order of their flows' beginnings, so that the output does not depend on the tables' order.
    fn by_age(&self, slots: Vec<u32>) -> impl Iterator<Item = u32> + use<> {
        // The beginning in halves, or padding would make a third more of it: at the end all flows are in here.
        let mut aged: Vec<([u32; 2], u32)> = Vec::with_capacity(slots.len());
        aged.extend(slots.into_iter().map(|slot| {
            let first = self.entries.get(slot).state.first();
            ([(first >> 32) as u32, first as u32], slot)
        }));
        aged.sort_unstable();
        aged.into_iter().map(|(_, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use flowmeter_common::packet::{Packet, protocol};
    use flowmeter_common::time::SECOND;

    use super::*;

    #[test]
    fn memory_is_that_of_the_flows_that_live_at_once() {
        let datagram = |port| {
            let key = FlowKey { a_port: port, protocol: protocol::UDP, ..FlowKey::default() };
            Packet { header: 8, size: 28, ..Packet::of(key) }
        };
        let mut flows = Flows::new(Timeouts::default());
        let mut given = 0;
        let mut give = |_: &Entry, _| {
            given += 1;
            Ok(())
        };
        // 50,000 flows, of which at most two live at any time.
        for i in 0..50_000 {
            flows
                .packets(&[(Ok(datagram(i as u16)), i * 100 * SECOND)], &mut give)
                .expect("giving out never fails");
        }
        assert!(flows.totals.most_living <= 2, "{} flows at once", flows.totals.most_living);
        assert_eq!(flows.entries.blocks.len(), 1, "ended flows make room");
        assert!(flows.free.len() <= 2 && flows.index.len() <= 2);
        flows.finish(&mut give).expect("giving out never fails");
        assert_eq!(given, 50_000);
    }
}
