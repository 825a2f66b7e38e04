//! Flows of a capture: the shared parser, update and lifecycle over a host hash map, with the capture's own clock.

use std::path::Path;

use anyhow::Result;
use flowmeter_common::config::{SECOND, Timeouts};
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::flow::Entry;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::lifecycle::{Ages, EndReason, ended_before};
use flowmeter_common::packet::Packet;
use flowmeter_common::parse::parse_link;
use hashbrown::HashTable;

use super::capture::CaptureReader;
use crate::record::{FlowRecord, Stage};

/// How often, in capture time, flows are looked through for those that have ended.
const SWEEP_PERIOD: u64 = SECOND / 4;

/// Frames between two reports of progress.
const PROGRESS_PERIOD: u64 = 65_536;

/// Hash seed: flows of a capture need no protection from whoever sent them beyond bounded memory.
const SEED: u64 = 0x243f_6a88_85a3_08d3;

/// What was not right about a capture, beside packets skipped.
#[derive(Debug, Default)]
pub struct Irregular {
    /// Packets stamped earlier than one before them; their time was taken as that one's.
    pub time_stepped_back: u64,
    /// True if the file ends within a packet.
    pub cut_short: bool,
    /// Why it could not be read, or not to its end.
    pub problem: Option<anyhow::Error>,
}

/// Result of reading a capture.
#[derive(Debug, Default)]
pub struct Summary {
    /// Accounting.
    pub counters: InterfaceCounters,
    /// Flows given out.
    pub flows: u64,
    /// Most flows that lived at once.
    pub most_living: usize,
    /// What was not right.
    pub irregular: Irregular,
}

/// Reads a capture to its end; flows go to `give` as they end, in order of their ends as a sweep finds them.
///
/// `progress` is told the bytes of the file read so far, now and then. A capture that cannot be read, or not to its
/// end, gives the flows that could be read; [`Irregular::problem`] says what is wrong.
///
/// # Errors
/// `give` fails.
pub fn read(
    path: &Path,
    timeouts: &Timeouts,
    mut give: impl FnMut(FlowRecord) -> Result<()>,
    mut progress: impl FnMut(u64),
) -> Result<Summary> {
    let mut flows = Flows::new(*timeouts);
    let mut reader = match CaptureReader::open(path) {
        Ok(reader) => reader,
        Err(problem) => {
            flows.summary.irregular.problem = Some(problem);
            return flows.finish(&mut give);
        }
    };
    let mut frames = 0_u64;
    loop {
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(problem) => {
                flows.summary.irregular.problem = Some(problem);
                break;
            }
        };
        let parsed = parse_link(&SliceFrame::new(frame.data, frame.wire_len as usize), frame.link_type);
        flows.packet(parsed.as_ref(), frame.timestamp_ns, &mut give)?;
        frames += 1;
        if frames.is_multiple_of(PROGRESS_PERIOD) {
            progress(reader.position());
        }
    }
    flows.summary.irregular.cut_short = reader.truncated();
    flows.finish(&mut give)
}

/// The flows of a capture that live at present.
pub struct Flows {
    timeouts: Timeouts,
    /// Slots by key; the keys lie in the entries.
    index: HashTable<u32>,
    entries: Vec<Entry>,
    /// Slots that hold no flow.
    free: Vec<u32>,
    /// Latest time seen, ns since the Unix epoch.
    now: u64,
    swept_at: u64,
    summary: Summary,
}

impl Flows {
    /// No flow yet.
    pub fn new(timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            index: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            now: 0,
            swept_at: 0,
            summary: Summary::default(),
        }
    }

    /// Takes one packet, or the reason why it is none, seen at `timestamp` (ns since the Unix epoch).
    ///
    /// # Errors
    /// `give` fails.
    pub fn packet(
        &mut self,
        parsed: Result<&Packet, &flowmeter_common::counter::Skip>,
        timestamp: u64,
        give: &mut impl FnMut(FlowRecord) -> Result<()>,
    ) -> Result<()> {
        let counters = &mut self.summary.counters;
        counters.seen += 1;
        if timestamp < self.now {
            self.summary.irregular.time_stepped_back += 1;
        } else {
            self.now = timestamp;
        }
        if self.now.saturating_sub(self.swept_at) >= SWEEP_PERIOD {
            self.sweep(give)?;
        }
        let packet = match parsed {
            Ok(packet) => packet,
            Err(&why) => {
                self.summary.counters.skipped[why as usize] += 1;
                return Ok(());
            }
        };
        let hash = packet.key.hash(SEED);
        let found = self.index.find(hash, |&slot| self.entries[slot as usize].key.same(&packet.key)).copied();
        let slot = match found {
            None => self.open(packet, hash, None),
            Some(slot) => {
                let entry = &self.entries[slot as usize];
                match ended_before(&entry.state, packet, self.now, &self.timeouts) {
                    None => slot,
                    Some(why) => {
                        // A segment of a longer conversation keeps its initiator.
                        let initiator = (why == EndReason::Active).then_some(entry.initiator);
                        self.close(slot, why, give)?;
                        self.open(packet, hash, initiator)
                    }
                }
            }
        };
        self.entries[slot as usize].state.update(packet, self.now);
        self.summary.counters.counted += 1;
        self.summary.counters.counted_bytes += packet.wire_bytes();
        Ok(())
    }

    /// Ends all flows: the capture is over.
    ///
    /// # Errors
    /// `give` fails.
    pub fn finish(mut self, give: &mut impl FnMut(FlowRecord) -> Result<()>) -> Result<Summary> {
        self.end_where(give, |_| Some(EndReason::EndOfCapture))?;
        Ok(self.summary)
    }

    fn open(&mut self, packet: &Packet, hash: u64, initiator: Option<u8>) -> u32 {
        let mut entry = Entry::opened_by(packet);
        if let Some(initiator) = initiator {
            entry.initiator = initiator;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        let entries = &self.entries;
        self.index.insert_unique(hash, slot, |&slot| entries[slot as usize].key.hash(SEED));
        self.summary.counters.opened += 1;
        self.summary.most_living = self.summary.most_living.max(self.index.len());
        slot
    }

    fn close(
        &mut self,
        slot: u32,
        why: EndReason,
        give: &mut impl FnMut(FlowRecord) -> Result<()>,
    ) -> Result<()> {
        let entry = self.entries[slot as usize];
        if let Ok(found) = self.index.find_entry(entry.key.hash(SEED), |&other| other == slot) {
            found.remove();
        }
        self.free.push(slot);
        self.summary.flows += 1;
        give(FlowRecord { entry, stage: Stage::End(why), clock_offset: 0 })
    }

    fn sweep(&mut self, give: &mut impl FnMut(FlowRecord) -> Result<()>) -> Result<()> {
        self.swept_at = self.now;
        let (now, timeouts) = (self.now, self.timeouts);
        self.end_where(give, |entry| {
            // SAFETY: a reference points to a readable flow.
            unsafe { Ages::read(&entry.state) }?.expired(now, &timeouts)
        })
    }

    fn end_where(
        &mut self,
        give: &mut impl FnMut(FlowRecord) -> Result<()>,
        ended: impl Fn(&Entry) -> Option<EndReason>,
    ) -> Result<()> {
        let mut leaving: Vec<(u32, EndReason)> = self
            .index
            .iter()
            .filter_map(|&slot| ended(&self.entries[slot as usize]).map(|why| (slot, why)))
            .collect();
        // In the order in which they began, so that the output does not depend on the hash map's.
        leaving.sort_by_key(|(slot, _)| {
            let entry = &self.entries[*slot as usize];
            (entry.state.first(), *slot)
        });
        for (slot, why) in leaving {
            self.close(slot, why, give)?;
        }
        Ok(())
    }
}
