//! Events of the kernel programs, and copies of the living flows that reached a checkpoint.

use std::cmp::Reverse;
use std::collections::HashMap;

use anyhow::Result;
use flowmeter_common::event::reason;
use flowmeter_common::flow::Entry;
use flowmeter_common::table::tag;

use super::{BATCH, Drain, GRACE_SLEEP, Known, RecordSink, SWEEP_LEAST};
use crate::context::Context;
use crate::kernel::clock;
use crate::record::{FlowRecord, Stage};

/// Most events taken in one poll: a flood of them must not keep the sweep from its work.
const EVENTS_AT_ONCE: u32 = 65_536;

impl Drain {
    /// Takes what the programs have told since the last time, and gives out the flows that reached a checkpoint. Returns
    /// how many events there were.
    pub(super) fn take_events(&mut self, now: u64, sink: &mut impl RecordSink) -> Result<u32> {
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
    pub(super) fn give_ended(
        &mut self,
        now: u64,
        flows: Vec<FlowRecord>,
        sink: &mut impl RecordSink,
    ) -> Result<()> {
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
        self.counts.torn += u64::from(!whole);
        notice(&mut self.context, &mut self.known[tag::entry(tag) as usize], tag, now, &entry);
        let stage = Stage::Checkpoint { entry: tag::entry(tag) };
        Some(FlowRecord { entry, stage, clock_offset, context: None })
    }
}

/// Tells the context of a flow that it has not been told of.
pub(super) fn notice(context: &mut Option<Context>, known: &mut Known, tag: u64, now: u64, entry: &Entry) {
    if known.tag != tag
        && let Some(context) = context
    {
        context.opened(entry, now);
        *known = Known { tag, until: 0 };
    }
}
