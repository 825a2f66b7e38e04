//! Finds the flow of a packet.

use super::buckets::{LINES, Place, WAYS};
use super::memory::Memory;
use super::tag::{self, Word, state};
use crate::flow::Entry;
use crate::lifecycle::{Timeouts, ended_before};
use crate::packet::Packet;

/// A slot and its flow's entry, which is null if there is none. This is not an `Option`: the compiler leaves the content of
/// `None` undefined, and the kernel's verifier refuses a program that copies what was never written.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// The slot.
    pub slot: u32,
    /// Its tag, live.
    pub tag: u64,
    /// The flow's entry.
    pub entry: *mut Entry,
}

impl Hit {
    const NONE: Self = Self { slot: 0, tag: 0, entry: core::ptr::null_mut() };
}

/// The packet's flow, if it lives and the packet belongs to it; most packets need no more. Otherwise null, and
/// [`find_or_open`](super::find_or_open) decides.
#[inline(always)]
pub fn find_living<M: Memory>(
    memory: &M,
    place: &Place,
    packet: &Packet,
    now: u64,
    timeouts: &Timeouts,
) -> Hit {
    // Looks only in the lines that nearly all flows are in. For the rest `find_or_open` looks everywhere.
    let hit = find_in(memory, place, packet, LINES - 1);
    // SAFETY: as in `find_or_open`.
    if !hit.entry.is_null() && ended_before(unsafe { &(*hit.entry).state }, packet, now, timeouts).is_some() {
        return Hit::NONE;
    }
    hit
}

/// Looks for the packet's flow among the live ones, whether it has ended by the clock or not.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, place: &Place, packet: &Packet) -> Hit {
    find_in(memory, place, packet, LINES)
}

/// [`find`], in the first `lines` lines.
#[inline(always)]
fn find_in<M: Memory>(memory: &M, place: &Place, packet: &Packet, lines: usize) -> Hit {
    let wanted = place.hash | state::LIVE;
    let mut which = 0;
    while which < lines {
        let index = place.lines[which];
        let Some(line) = memory.line(index) else {
            return Hit::NONE;
        };
        let mut way = 0;
        while way < WAYS {
            let tag = line[way].load();
            if tag & tag::IDENTITY == wanted {
                let slot = index * WAYS as u32 + way as u32;
                // At an address that depends on the tag, see the page of this module.
                let Some(entry) = memory.entry(tag::entry(tag)) else {
                    return Hit::NONE;
                };
                memory.prefetch(entry, packet);
                // SAFETY: the entry of a live tag has been written, and its key does not change while the tag lives.
                if unsafe { (*entry).key.same(&packet.key) } {
                    return Hit { slot, tag, entry };
                }
            }
            way += 1;
        }
        which += 1;
    }
    Hit::NONE
}

/// The slot with this very tag.
#[inline(always)]
pub fn slot_of<M: Memory>(memory: &M, place: &Place, tag: u64) -> Option<u32> {
    let mut which = 0;
    while which < LINES {
        let index = place.lines[which];
        let line = memory.line(index)?;
        let mut way = 0;
        while way < WAYS {
            if line[way].load() == tag {
                return Some(index * WAYS as u32 + way as u32);
            }
            way += 1;
        }
        which += 1;
    }
    None
}
