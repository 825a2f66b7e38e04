//! Events for the agent: rare, 16 bytes, waking it only when the ring fills.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use flowmeter_common::event::Event;

use crate::count::Counters;
use crate::maps::{EVENTS, EVENTS_BYTES};

/// Bytes waiting in the ring at which the agent is woken: a quarter.
const FULL: u64 = EVENTS_BYTES as u64 / 4;
/// Bytes that an event takes there, with the kernel's header. So the agent is woken within a few events of that mark, and not
/// with each event after it.
const AROUND: u64 = 4 * (size_of::<Event>() as u64 + 8);

/// Sends an event. The agent polls every few milliseconds by itself; waking it would cost the sender microseconds.
#[inline(always)]
pub fn emit(counters: &Counters, slot: u32, reason: u32, tag: u64) {
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(Event { slot, reason, tag });
            let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
            let filling = waiting.wrapping_sub(FULL) < AROUND;
            entry.submit(u64::from(if filling { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
        }
        None => counters.event_lost(),
    }
}
