//! The host's flow table: what the kernel's does for an interface, for the packets of a capture, by the same functions.

use anyhow::Result;
use flowmeter_common::config::Timeouts;
use flowmeter_common::counter::{InterfaceCounters, Skip};
use flowmeter_common::flow::{Entry, Opening};
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::{Ages, EndReason, Fate, ended_before};
use flowmeter_common::packet::Packet;
use hashbrown::HashTable;

use super::timers::Timers;
use crate::record::{FlowRecord, Stage};

/// Hash seed: flows of a capture need no protection from whoever sent them beyond bounded memory.
const SEED: u64 = 0x243f_6a88_85a3_08d3;

/// The hash under which the table keeps a key.
pub fn hash(key: &FlowKey) -> u64 {
    key.hash(SEED)
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
    index: HashTable<u32>,
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
            index: HashTable::new(),
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

    /// Takes one packet, or the reason why it is none, seen at `timestamp` (ns since the Unix epoch). Flows that end
    /// go to `give`.
    ///
    /// # Errors
    /// `give` fails.
    #[inline]
    pub fn packet(
        &mut self,
        parsed: &Result<Packet, Skip>,
        timestamp: u64,
        give: &mut impl FnMut(FlowRecord) -> Result<()>,
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
            Ok(packet) => self.count(packet, give),
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
    pub fn finish(mut self, give: &mut impl FnMut(FlowRecord) -> Result<()>) -> Result<Totals> {
        let slots = self.index.iter().copied().collect();
        for slot in self.by_age(slots) {
            // SAFETY: a reference points to a readable flow.
            let ages = unsafe { Ages::read(&self.entries.get(slot).state) };
            let by_clock = ages.and_then(|ages| ages.expired(self.now, &self.timeouts));
            self.close(slot, by_clock.unwrap_or(EndReason::EndOfCapture), give)?;
        }
        Ok(self.totals)
    }

    #[inline]
    fn count(&mut self, packet: &Packet, give: &mut impl FnMut(FlowRecord) -> Result<()>) -> Result<()> {
        let hash = hash(&packet.key);
        let entries = &self.entries;
        let found = self.index.find(hash, |&slot| entries.get(slot).key.same(&packet.key)).copied();
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
                        self.close(slot, ending.reason, give)?;
                        self.open(packet, hash, opening)
                    }
                }
            }
        };
        let updated = self.entries.get_mut(slot).state.update(packet, self.now);
        if updated.closed {
            self.timers.arm(slot, self.now + self.timeouts.linger);
        }
        self.totals.counters.counted += 1;
        self.totals.counters.counted_bytes += packet.wire_bytes();
        Ok(())
    }

    fn open(&mut self, packet: &Packet, hash: u64, opening: Opening) -> u32 {
        let entry = Entry::opened_by(packet, opening);
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.entries.get_mut(slot) = entry;
                slot
            }
            None => self.entries.push(entry),
        };
        let entries = &self.entries;
        self.index.insert_unique(hash, slot, |&slot| self::hash(&entries.get(slot).key));
        self.timers.arm(slot, self.now + self.timeouts.idle.min(self.timeouts.active));
        self.totals.counters.opened += 1;
        self.totals.most_living = self.totals.most_living.max(self.index.len());
        slot
    }

    /// Takes a flow out; its record is given out unless that has been done.
    fn close(
        &mut self,
        slot: u32,
        why: EndReason,
        give: &mut impl FnMut(FlowRecord) -> Result<()>,
    ) -> Result<()> {
        let entry = self.entries.get(slot);
        if let Ok(found) = self.index.find_entry(hash(&entry.key), |&other| other == slot) {
            found.remove();
        }
        self.timers.disarm(slot);
        self.free.push(slot);
        if entry.reported != 0 {
            return Ok(());
        }
        self.totals.flows += 1;
        give(FlowRecord { entry: *entry, stage: Stage::End(why), clock_offset: 0 })
    }

    /// Looks at the flows whose time has come.
    fn expire(&mut self, give: &mut impl FnMut(FlowRecord) -> Result<()>) -> Result<()> {
        let (now, timeouts) = (self.now, self.timeouts);
        let due = self.timers.due(now);
        for slot in self.by_age(due) {
            // SAFETY: a reference points to a readable flow.
            let Some(ages) = (unsafe { Ages::read(&self.entries.get(slot).state) }) else {
                continue;
            };
            match ages.fate(now, &timeouts) {
                Fate::Ended(why) => {
                    self.close(slot, why, give)?;
                    continue;
                }
                Fate::Cut => {
                    let entry = self.entries.get_mut(slot);
                    if entry.reported == 0 {
                        entry.reported = 1;
                        self.totals.flows += 1;
                        let entry = *entry;
                        give(FlowRecord { entry, stage: Stage::End(EndReason::Active), clock_offset: 0 })?;
                    }
                }
                Fate::Living => {}
            }
            self.timers.arm(slot, ages.next_change(now, &timeouts));
        }
        Ok(())
    }

    /// In the order in which the flows began, so that the output does not depend on the tables' order.
    fn by_age(&self, mut slots: Vec<u32>) -> Vec<u32> {
        slots.sort_unstable_by_key(|&slot| (self.entries.get(slot).state.first(), slot));
        slots
    }
}
