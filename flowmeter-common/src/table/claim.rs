//! Opens flows: claims a slot, and settles who does if several CPUs want to.

use super::buckets::{LINES, Place, WAYS};
use super::free_list::{NoSlot, refill};
use super::lookup::{Hit, find};
use super::magazine::Magazine;
use super::memory::{Memory, Opens};
use super::retire::retire;
use super::tag::{self, Word, state};
use crate::flow::{Entry, Opening};
use crate::key::FlowKey;
use crate::lifecycle::{Timeouts, ended_before};
use crate::packet::Packet;
use crate::prefilter::mark;

/// A flow ended by the packet that came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its slot, retired.
    pub slot: u32,
    /// Its tag when it lived.
    pub tag: u64,
}

/// Where a packet's flow is.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The slot.
    pub slot: u32,
    /// Its tag, live.
    pub tag: u64,
    /// Its entry.
    pub entry: *mut Entry,
    /// True if the packet opened the flow.
    pub opened: bool,
    /// The flow with the same key that the packet ended.
    pub ended: Option<Ended>,
}

/// Finds the packet's flow, or opens one as `opening` says; ends the one found if the packet cannot belong to it.
///
/// # Errors
/// No slot could be had. The caller counts the packet as folded.
#[inline(always)]
pub fn find_or_open<M: Opens>(
    memory: &M,
    place: &Place,
    packet: &Packet,
    mut opening: Opening,
    now: u64,
    timeouts: &Timeouts,
) -> Result<Found, NoSlot> {
    let Some(magazine) = memory.magazine() else {
        return Err(NoSlot::Full);
    };
    // SAFETY: nobody else touches them.
    let magazine = unsafe { &mut *magazine };
    let mut inherited = mark::NONE;
    // No tag is zero.
    let mut ended = Ended { slot: 0, tag: 0 };
    let Hit { slot, tag, entry } = find(memory, place, packet);
    if !entry.is_null() {
        let slot = magazine.forget(slot.into()) as u32;
        // SAFETY: the tag was live when it was found and this program has not returned, so that the agent's grace
        // period has not passed: the entry is this flow's. Words that other CPUs write meanwhile are integers.
        let flow = unsafe { &mut *entry };
        match ended_before(&flow.state, packet, now, timeouts) {
            None => {
                return Ok(Found { slot, tag, entry, opened: false, ended: None });
            }
            Some(ending) => {
                if ending.continued {
                    opening = Opening::continuing(flow);
                }
                flow.end_reason = ending.reason as u8;
                // SAFETY: a field of the flow, which the agent writes in one store.
                inherited = mark::inherited(unsafe { (&raw const flow.verdict).read_volatile() });
                if retire(memory, slot, tag) {
                    ended = Ended { slot, tag };
                }
            }
        }
    }
    if magazine.count == 0 {
        refill(memory, magazine)?;
    }
    // Whatever was before, what follows is one way.
    let ended = Ended { slot: magazine.forget(ended.slot as u64) as u32, tag: magazine.forget(ended.tag) };
    let ended = (ended.tag != 0).then_some(ended);
    let opening = Opening {
        initiator: magazine.forget(opening.initiator.into()) as u8,
        earlier: magazine.forget(opening.earlier),
    };
    let inherited = magazine.forget(inherited.into()) as u32;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        match open(memory, magazine, place, packet, opening, inherited) {
            Open::Opened(Hit { slot, tag, entry }) => {
                return Ok(Found { slot, tag, entry, opened: true, ended });
            }
            Open::Full => return Err(NoSlot::Full),
            Open::Lost { slot } => {
                await_rival(memory, place, slot);
                let Hit { slot, tag, entry } = find(memory, place, packet);
                if !entry.is_null() {
                    return Ok(Found { slot, tag, entry, opened: false, ended });
                }
            }
        }
        attempt += 1;
    }
    Err(NoSlot::Contended)
}

/// How often a claim that met a rival is tried again. A rival is done after a few hundred instructions.
const ATTEMPTS: u32 = 3;

enum Open {
    Opened(Hit),
    /// Another CPU was faster, in this slot.
    Lost {
        slot: u32,
    },
    Full,
}

/// Claims an empty slot, near if there is one, and publishes a flow without packets in it.
#[inline(always)]
fn open<M: Memory>(
    memory: &M,
    magazine: &mut Magazine,
    place: &Place,
    packet: &Packet,
    opening: Opening,
    inherited: u32,
) -> Open {
    const FULL: u32 = (1 << WAYS) - 1;
    let [near, far, beside] = place.lines;
    let (mut index, mut mask) = (near, occupied(memory, near));
    if mask == FULL {
        (index, mask) = (far, occupied(memory, far));
        if mask == FULL {
            (index, mask) = (beside, occupied(memory, beside));
            if mask == FULL {
                return Open::Full;
            }
        }
    }
    let index = magazine.forget(index.into()) as u32;
    // The compiler sees that a mask with a zero bit has fewer than eight trailing ones, and would drop the remainder;
    // the kernel's verifier does not see it.
    let way = core::hint::black_box(mask.trailing_ones()) as usize % WAYS;
    let Some(line) = memory.line(index) else {
        return Open::Full;
    };
    let word = &line[way];
    let slot = index * WAYS as u32 + way as u32;
    if !word.compare_exchange(state::EMPTY, place.hash | state::CLAIMING) {
        return Open::Lost { slot };
    }
    let winner = settle(memory, magazine, place, &packet.key, slot);
    if winner != OWN {
        word.publish(state::EMPTY);
        return Open::Lost { slot: winner };
    }
    // The remainder changes nothing, but the kernel's verifier does not know.
    let last = core::hint::black_box(magazine.count.wrapping_sub(1)) % u64::from(Magazine::MAX);
    let number = magazine.entries[last as usize];
    let Some(entry) = memory.entry(number) else {
        word.publish(state::EMPTY);
        return Open::Full;
    };
    magazine.count = last;
    // SAFETY: this program alone moved the tag from EMPTY to CLAIMING, and has the entry; nobody else touches it, but for
    // an agent that is late with a verdict for the flow before, and takes notice of the word that is written last.
    unsafe {
        let before = (&raw const (*entry).verdict).read_volatile();
        Entry::write_opened(entry, packet, opening);
        (&raw mut (*entry).verdict).write_volatile(mark::changed(mark::reopened(before), inherited));
    }
    let tag = tag::live(place.hash, number);
    word.publish(tag);
    Open::Opened(Hit { slot, tag, entry })
}

/// The slots of a line that are not empty, a bit for each.
///
/// Read off the tags' state bits, of which one is set in every state but EMPTY: comparing would make a branch of
/// each, and the kernel's verifier walk all 2^24 ways through three lines.
#[inline(always)]
fn occupied<M: Memory>(memory: &M, index: u32) -> u32 {
    let Some(line) = memory.line(index) else {
        return (1 << WAYS) - 1;
    };
    let mut mask = 0;
    let mut way = 0;
    while way < WAYS {
        let tag = line[way].load();
        mask |= ((tag | tag >> 1) as u32 & 1) << way;
        way += 1;
    }
    mask
}

/// What [`settle`] returns if the claim stands, and [`scan`] if there is no other.
const OWN: u32 = u32::MAX;

/// How often the slots are looked through: once more each time that a claim in a higher slot had to be waited for.
const SCANS: u32 = 2;

/// Settles which of several claims for a flow stands: returns [`OWN`], or the slot of the claim or flow to which this one,
/// in slot `own`, has to give way.
///
/// Of two claims the one in the lower slot stands. It waits until the other has been withdrawn, or published by who had
/// looked before the lower claim was there: then it gives way after all. Who waits does so for higher slots only, so that
/// no two wait for each other, and one always gets through.
#[inline(always)]
fn settle<M: Memory>(memory: &M, magazine: &mut Magazine, place: &Place, key: &FlowKey, own: u32) -> u32 {
    let mut scans = 0;
    loop {
        let Scan { winner, waited_for } = scan(memory, place, key, own);
        scans += 1;
        let winner = magazine.forget(winner.into()) as u32;
        let waited_for = magazine.forget(waited_for.into()) as u32;
        if winner != OWN || waited_for == OWN {
            return winner;
        }
        // Others keep coming.
        if scans == SCANS || !await_rival(memory, place, waited_for) {
            return waited_for;
        }
    }
}

/// What other claims there are.
struct Scan {
    /// The slot of a flow with the same key, or of a claim to which this one has to give way.
    winner: u32,
    /// The slot of a claim that has to give way to this one, and may not have seen it.
    waited_for: u32,
}

/// Looks for other claims for the flow, and for the flow.
#[inline(always)]
fn scan<M: Memory>(memory: &M, place: &Place, key: &FlowKey, own: u32) -> Scan {
    let (mut winner, mut waited_for) = (OWN, OWN);
    let mut which = 0;
    while which < LINES {
        let index = place.lines[which];
        let Some(line) = memory.line(index) else {
            break;
        };
        let mut way = 0;
        while way < WAYS {
            let slot = index * WAYS as u32 + way as u32;
            let tag = line[way].load();
            if slot != own && tag == place.hash | state::CLAIMING {
                if slot < own {
                    winner = slot;
                } else {
                    waited_for = slot;
                }
            } else if tag & tag::IDENTITY == place.hash | state::LIVE
                && let Some(entry) = memory.entry(tag::entry(tag))
                // SAFETY: as in `find`.
                && unsafe { (*entry).key.same(key) }
            {
                winner = slot;
            }
            way += 1;
        }
        which += 1;
    }
    Scan { winner, waited_for }
}

/// Waits until the claim in this slot, if it is one for the same flow, has been withdrawn or published; false if it has
/// not been in the end. Who claims is done after a few hundred instructions; the wait has an end all the same, for where
/// a hypervisor has taken the other CPU away.
#[inline(always)]
fn await_rival<M: Memory>(memory: &M, place: &Place, slot: u32) -> bool {
    let Some(line) = memory.line(slot / WAYS as u32) else {
        return false;
    };
    let word = &line[slot as usize % WAYS];
    let mut waited = 0;
    while waited < M::PATIENCE {
        if word.load() != place.hash | state::CLAIMING {
            return true;
        }
        memory.relax();
        waited += 1;
    }
    false
}
