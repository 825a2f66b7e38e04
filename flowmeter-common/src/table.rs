//! How kernel and agent share the memory that flows live in.
//!
//! The table is set-associative: a flow may sit in one of two buckets of eight slots. A bucket is one cache line of
//! tags; a tag is 62 bits of the key's hash and a state. A slot's entry lies at the same number in another array.
//!
//! ```text
//!            kernel: claim (compare-exchange)        kernel: publish
//!   EMPTY ------------------------------> CLAIMING -----------------> LIVE
//!     ^                                      |                          |
//!     |  agent: free, after a grace period   | kernel: yield            | agent or kernel: retire
//!     +------------------- RETIRED <---------|--------------------------+     (compare-exchange)
//!     +--------------------------------------+
//! ```
//!
//! - Only who moved a tag from EMPTY to CLAIMING writes the entry's key, and only before publishing.
//! - A kernel program that found a LIVE tag may update the entry until the program returns, even if the tag is retired
//!   meanwhile. Therefore the agent lets every program that was running when it saw the tag retired come to its end
//!   (a grace period), before it copies the entry and frees the slot.
//! - After retirement nobody finds the entry any more: a late packet opens a new flow.
//! - Two CPUs that open one flow at once both claim, then look whether the other did. With compare-exchange a full
//!   barrier between a claim and that look, at least one sees the other; who sees another gives its claim up and
//!   tries again. If both do so, time and again, the packet is folded and counted: never two flows for one key.
//!
//! # Processors that reorder
//!
//! x86 keeps loads in order, and stores; ARM64 keeps neither. What the protocol needs of order, and what gives it:
//!
//! - *Key and state are read after the tag that says they are there.* The kernel has no load with acquire ordering
//!   before Linux 6.15. A branch on the tag would not do: processors guess it. The entry's address is computed from the
//!   tag instead (`entry_of`), and no processor that Linux runs on loads from an address before it knows it. The agent's
//!   loads are acquiring ones.
//! - *The entry is written before its tag is published.* Publishing is an exchange, before which all stores are done.
//! - *A claim comes before the look for rivals.* A compare-exchange is a full barrier.
//! - *A slot is freed after its entry was copied.* A store with release ordering; and who then claims it does so by a
//!   compare-exchange, before the first store into the entry.
//! - *An entry is copied after the last store into it.* The grace period is a full barrier on every processor.
//! - *A living flow is read while it is written.* Nothing orders that: the agent may see a packet's stores in any order,
//!   though none older than the few microseconds that a store takes to be seen. When it decides whether the flow has
//!   ended, it takes times that cannot be for times that it cannot see yet (`Ages::read`). The copy that a living flow's
//!   verdict is made of may lack a part of the latest packet; what is accounted for is copied when nobody writes.

use crate::config::Timeouts;
use crate::flow::{Entry, Opening};
use crate::key::FlowKey;
use crate::lifecycle::ended_before;
use crate::packet::Packet;
use crate::reaction::mark;

/// Slots of a bucket: eight tags fill a cache line.
pub const WAYS: usize = 8;

/// State of a tag, its two low bits.
pub mod state {
    /// Nobody's. The whole tag is zero.
    pub const EMPTY: u64 = 0;
    /// A kernel program is writing the entry.
    pub const CLAIMING: u64 = 1;
    /// The entry holds a living flow.
    pub const LIVE: u64 = 2;
    /// The flow has ended; the agent will take it out.
    pub const RETIRED: u64 = 3;
    /// Bits of the state.
    pub const MASK: u64 = 3;
}

/// One tag in shared memory.
pub trait Word {
    /// Reads the tag. What was written before it was published can be read after, at an address that depends on it.
    fn load(&self) -> u64;
    /// Replaces `current` by `new`; false if the tag was something else. A full barrier.
    fn compare_exchange(&self, current: u64, new: u64) -> bool;
    /// Writes the tag after everything that was written before.
    fn publish(&self, new: u64);
}

/// The two arrays.
pub trait Memory {
    /// How tags are accessed.
    type Word: Word;
    /// The tags of a bucket; `None` only if there is no such bucket.
    fn bucket(&self, index: u32) -> Option<&[Self::Word; WAYS]>;
    /// The entry of a slot; `None` only if there is no such slot.
    fn entry(&self, slot: u32) -> Option<*mut Entry>;
    /// Told that a packet of this direction will most likely be added to the entry, so that its cache lines can be
    /// fetched at once, and not one after the other as they are come upon.
    #[inline(always)]
    fn prefetch(&self, _entry: *mut Entry, _direction: u8) {}
}

/// Where a key may sit, and its tag less the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The two buckets, in the order in which they are looked at. They may be the same.
    pub buckets: [u32; 2],
    /// The hash's upper 62 bits, state bits zero. Never zero.
    pub hash: u64,
}

impl Place {
    /// Derives both buckets from the hash; `bucket_mask` is the number of buckets less one.
    #[inline(always)]
    pub fn of(hash: u64, bucket_mask: u32) -> Self {
        let first = (hash >> 32) as u32 & bucket_mask;
        // Another 24 bits, spread by an odd multiplier, so that flows that share one bucket do not share the other.
        let second = first ^ ((hash as u32 >> 8).wrapping_mul(0x9e37_79b1) >> 3);
        // A hash of zero would look empty.
        let hash = if hash & !state::MASK == 0 { state::MASK + 1 } else { hash & !state::MASK };
        Self { buckets: [first, second & bucket_mask], hash }
    }
}

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

/// Why a packet has no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// Both buckets are full.
    Full,
    /// Other CPUs kept claiming the same flow.
    Contended,
}

/// How often a claim that met a rival is tried again. A rival is done after a few hundred instructions.
const ATTEMPTS: u32 = 3;

/// The packet's flow, if it lives and the packet belongs to it: all that most packets need. Otherwise null, and
/// [`find_or_open`] says what becomes of the packet.
#[inline(always)]
pub fn find_living<M: Memory>(
    memory: &M,
    place: &Place,
    packet: &Packet,
    now: u64,
    timeouts: &Timeouts,
) -> Hit {
    let hit = find(memory, place, packet);
    // SAFETY: as in `find_or_open`.
    if !hit.entry.is_null() && ended_before(unsafe { &(*hit.entry).state }, packet, now, timeouts).is_some() {
        return Hit::NONE;
    }
    hit
}

/// Finds the packet's flow, or opens one as `opening` says; ends the one found if the packet cannot belong to it.
///
/// # Errors
/// No slot could be had. The caller counts the packet as folded.
#[inline(always)]
pub fn find_or_open<M: Memory>(
    memory: &M,
    place: &Place,
    packet: &Packet,
    mut opening: Opening,
    now: u64,
    timeouts: &Timeouts,
) -> Result<Found, NoSlot> {
    let mut ended = None;
    let Hit { slot, entry } = find(memory, place, packet);
    if !entry.is_null() {
        let tag = place.hash | state::LIVE;
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
                if retire(memory, slot, tag) {
                    ended = Some(Ended { slot, tag });
                }
            }
        }
    }
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        match open(memory, place, packet, opening) {
            Open::Opened(Hit { slot, entry }) => {
                return Ok(Found { slot, tag: place.hash | state::LIVE, entry, opened: true, ended });
            }
            Open::Full => return Err(NoSlot::Full),
            Open::Rival => {
                let Hit { slot, entry } = find(memory, place, packet);
                if !entry.is_null() {
                    return Ok(Found { slot, tag: place.hash | state::LIVE, entry, opened: false, ended });
                }
            }
        }
        attempt += 1;
    }
    Err(NoSlot::Contended)
}

/// A slot and its entry; null if there is none. Not an `Option`: where that is none the compiler leaves its content
/// undefined, and the kernel's verifier refuses a program that copies what was never written.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// The slot.
    pub slot: u32,
    /// Its entry.
    pub entry: *mut Entry,
}

impl Hit {
    const NONE: Self = Self { slot: 0, entry: core::ptr::null_mut() };
}

/// Looks for the packet's flow among the live ones, whether it has ended by the clock or not.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, place: &Place, packet: &Packet) -> Hit {
    let wanted = place.hash | state::LIVE;
    let mut which = 0;
    while which < 2 {
        let index = place.buckets[which];
        let Some(bucket) = memory.bucket(index) else {
            return Hit::NONE;
        };
        let mut way = 0;
        while way < WAYS {
            let tag = bucket[way].load();
            if tag == wanted {
                let slot = index * WAYS as u32 + way as u32;
                let Some(entry) = entry_of(memory, slot, tag, wanted) else {
                    return Hit::NONE;
                };
                memory.prefetch(entry, packet.direction);
                // SAFETY: the entry of a live tag has been written, and its key does not change while the tag lives.
                if unsafe { (*entry).key.same(&packet.key) } {
                    return Hit { slot, entry };
                }
            }
            way += 1;
        }
        which += 1;
    }
    Hit::NONE
}

/// The entry of a slot whose tag was read as `tag`, which is `wanted`: at an address that depends on the tag, see the
/// page of this module. The difference is zero; only the compiler must not know it.
#[inline(always)]
fn entry_of<M: Memory>(memory: &M, slot: u32, tag: u64, wanted: u64) -> Option<*mut Entry> {
    memory.entry(slot.wrapping_add(core::hint::black_box(tag ^ wanted) as u32))
}

enum Open {
    Opened(Hit),
    Rival,
    Full,
}

/// Claims an empty slot, in the bucket that has more of them, and publishes a flow without packets in it.
#[inline(always)]
fn open<M: Memory>(memory: &M, place: &Place, packet: &Packet, opening: Opening) -> Open {
    let (first, second) = (occupied(memory, place.buckets[0]), occupied(memory, place.buckets[1]));
    let (index, mask) = if second.count_ones() < first.count_ones() {
        (place.buckets[1], second)
    } else {
        (place.buckets[0], first)
    };
    if mask == (1 << WAYS) - 1 {
        return Open::Full;
    }
    // The compiler sees that a mask with a zero bit has fewer than eight trailing ones, and would drop the remainder;
    // the kernel's verifier does not see it.
    let way = core::hint::black_box(mask.trailing_ones()) as usize % WAYS;
    let Some(bucket) = memory.bucket(index) else {
        return Open::Full;
    };
    let word = &bucket[way];
    if !word.compare_exchange(state::EMPTY, place.hash | state::CLAIMING) {
        return Open::Rival;
    }
    let slot = index * WAYS as u32 + way as u32;
    if rival(memory, place, &packet.key, slot) {
        word.publish(state::EMPTY);
        return Open::Rival;
    }
    let Some(entry) = memory.entry(slot) else {
        return Open::Full;
    };
    // SAFETY: this program alone moved the tag from EMPTY to CLAIMING; nobody else touches the entry, but for an agent that
    // is late with a verdict for the flow before, and takes notice of the word that is written last.
    unsafe {
        let before = (&raw const (*entry).verdict).read_volatile();
        Entry::write_opened(entry, packet, opening);
        (&raw mut (*entry).verdict).write_volatile(mark::reopened(before));
    }
    word.publish(place.hash | state::LIVE);
    Open::Opened(Hit { slot, entry })
}

/// The slots of a bucket that are not empty, a bit for each.
///
/// Read off the tags' state bits, of which one is set in every state but EMPTY: comparing would make a branch of
/// each, and the kernel's verifier walk all 2^16 ways through two buckets.
#[inline(always)]
fn occupied<M: Memory>(memory: &M, index: u32) -> u32 {
    let Some(bucket) = memory.bucket(index) else {
        return (1 << WAYS) - 1;
    };
    let mut mask = 0;
    let mut way = 0;
    while way < WAYS {
        let tag = bucket[way].load();
        mask |= ((tag | tag >> 1) as u32 & 1) << way;
        way += 1;
    }
    mask
}

/// True if another CPU holds the same flow, or is claiming a slot for it.
#[inline(always)]
fn rival<M: Memory>(memory: &M, place: &Place, key: &FlowKey, own: u32) -> bool {
    let mut which = 0;
    while which < 2 {
        let index = place.buckets[which];
        let Some(bucket) = memory.bucket(index) else {
            return false;
        };
        let mut way = 0;
        while way < WAYS {
            let slot = index * WAYS as u32 + way as u32;
            let tag = bucket[way].load();
            if slot != own {
                if tag == place.hash | state::CLAIMING {
                    return true;
                }
                let live = place.hash | state::LIVE;
                if tag == live
                    && let Some(entry) = entry_of(memory, slot, tag, live)
                    // SAFETY: as in `find`.
                    && unsafe { (*entry).key.same(key) }
                {
                    return true;
                }
            }
            way += 1;
        }
        which += 1;
    }
    false
}

/// Turns a live tag into a retired one; false if somebody else did.
#[inline(always)]
pub fn retire<M: Memory>(memory: &M, slot: u32, live_tag: u64) -> bool {
    match memory.bucket(slot / WAYS as u32) {
        Some(bucket) => {
            let word = &bucket[slot as usize % WAYS];
            word.compare_exchange(live_tag, live_tag & !state::MASK | state::RETIRED)
        }
        None => false,
    }
}

/// Gives a retired slot back, after the grace period and after its entry has been copied. Agent only.
pub fn free<M: Memory>(memory: &M, slot: u32) {
    if let Some(bucket) = memory.bucket(slot / WAYS as u32) {
        bucket[slot as usize % WAYS].publish(state::EMPTY);
    }
}
