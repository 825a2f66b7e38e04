//! Events for the agent: rare, 16 bytes, never waking it.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use flowmeter_common::event::Event;

use crate::count::Counters;
use crate::maps::EVENTS;

/// Sends an event. The agent polls: waking it costs the sender microseconds.
#[inline(always)]
pub fn emit(counters: &Counters, slot: u32, reason: u32, tag: u64) {
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(Event { slot, reason, tag });
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => counters.event_lost(),
    }
}
