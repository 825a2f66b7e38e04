//! How kernel and agent share the memory that flows live in.
//!
//! The table is set-associative: a flow may sit in one of two buckets, a near one of eight slots or a far one of sixteen.
//! Eight tags fill a cache line; a tag is 35 bits of the key's hash, a state, and the number of the flow's entry, which
//! lies in another array.
//!
//! There are so few near buckets that they stay in a cache, and a flow is in its near one unless that was full. As long as
//! flows are few, which is most of the time, a packet waits for memory once, for its flow's entry, and not before that
//! for the tag. Of far ones there are so many that, with all entries taken, fewer than one flow in a million finds both
//! buckets full.
//!
//! Entries are handed out from a stack: what was given back last is taken first. Thus however large the table is, the flows
//! that live lie close together, on as few pages as they need; were they strewn over all of it, most packets would wait for
//! the translation of an address.
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
//! - Free entries are linked, last in first out; the word that says which is the first counts every change, so that who
//!   has followed links that have changed since fails to exchange it (Treiber's stack). A CPU takes several at once and keeps
//!   them for itself: the word is exchanged once for many flows, and CPUs seldom meet at it.
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
//!   number in the tag instead, and no processor that Linux runs on loads from an address before it knows it. The agent's
//!   loads are acquiring ones.
//! - *A free entry's link is read after the word that leads to it.* Its address is computed from the word, or from the link
//!   before, and it was written before either.
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
use crate::prefilter::mark;

/// Slots of a line: eight tags fill a cache line.
pub const WAYS: usize = 8;
/// Lines that a flow may sit in: its near bucket is one, its far bucket two.
pub const LINES: usize = 3;

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

/// What the parts of a tag are.
pub mod tag {
    use super::state;

    /// Bits of an entry's number, the upper ones.
    const ENTRY_BITS: u32 = 27;
    /// Entries that can be told apart; one number more is left, which is none's.
    pub const MAX_ENTRIES: u32 = (1 << ENTRY_BITS) - 1;
    const SHIFT: u32 = u64::BITS - ENTRY_BITS;
    /// Bits of hash and state: all but the entry's number.
    pub const IDENTITY: u64 = (1 << SHIFT) - 1;
    /// Bits of the hash.
    pub const HASH: u64 = IDENTITY & !state::MASK;

    /// The number of the flow's entry.
    #[inline(always)]
    pub const fn entry(tag: u64) -> u32 {
        (tag >> SHIFT) as u32
    }

    /// The tag of a living flow.
    #[inline(always)]
    pub const fn live(hash: u64, entry: u32) -> u64 {
        (entry as u64) << SHIFT | hash | state::LIVE
    }

    /// The tag when the flow has ended.
    #[inline(always)]
    pub const fn retired(tag: u64) -> u64 {
        tag | state::RETIRED
    }
}

/// The arrays.
pub trait Memory {
    /// How tags are accessed.
    type Word: Word;
    /// The tags of a bucket's line; `None` only if there is no such line.
    fn line(&self, index: u32) -> Option<&[Self::Word; WAYS]>;
    /// The entry with this number; `None` only if there is none.
    fn entry(&self, number: u32) -> Option<*mut Entry>;
    /// Word 0 leads to the first free entry, word 1 + n from entry n to the next; `None` only if there is no such entry.
    fn free_word(&self, index: u32) -> Option<&Self::Word>;
    /// Told that this packet will most likely be added to the entry, so that its cache lines can be
    /// fetched at once, and not one after the other as they are come upon.
    #[inline(always)]
    fn prefetch(&self, _entry: *mut Entry, _packet: &Packet) {}
}

/// A table as those see it who open flows: each with free entries of its own.
pub trait Opens: Memory {
    /// Nobody else touches them. `None` never.
    fn magazine(&self) -> Option<*mut Magazine>;
}

/// Free entries that a CPU has taken for itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Magazine {
    /// How many there are.
    pub count: u64,
    /// Their numbers.
    pub entries: [u32; Self::MAX as usize],
    /// A word through which numbers go of which the kernel's verifier is to know nothing.
    pub scratch: u64,
}

impl Magazine {
    /// Most that a CPU takes at once: a power of two.
    pub const MAX: u32 = 16;

    /// The number, as one of which the kernel's verifier knows nothing: otherwise it walks all that follows for each slot,
    /// or line, that it may be.
    #[inline(always)]
    fn forget(&mut self, number: u64) -> u64 {
        // SAFETY: a field that is borrowed. Volatile, so that the value really goes through memory.
        unsafe {
            (&raw mut self.scratch).write_volatile(number);
            (&raw const self.scratch).read_volatile()
        }
    }
}

/// The list of free entries. All zero, as memory is at first, it leads from the first entry to the last in their order.
mod free_list {
    /// Bits of an entry's number; above them the word counts its changes: it would take 2^37 of them between a look and
    /// an exchange to mistake one word for another.
    const NUMBER: u64 = super::tag::MAX_ENTRIES as u64;

    /// The entry that the word leads to; of an empty list a number that is no entry's.
    #[inline(always)]
    pub const fn first(word: u64) -> u32 {
        (word & NUMBER) as u32
    }

    /// The word after this one, leading elsewhere.
    #[inline(always)]
    pub const fn leading_to(word: u64, entry: u32) -> u64 {
        (word & !NUMBER).wrapping_add(NUMBER + 1) | entry as u64 & NUMBER
    }

    /// The entry after `entry`, whose link this is.
    #[inline(always)]
    pub const fn next(entry: u32, link: u64) -> u32 {
        ((entry as u64).wrapping_add(1).wrapping_add(link) & NUMBER) as u32
    }

    /// The link from `entry` to `next`.
    pub const fn link(entry: u32, next: u32) -> u64 {
        (next as u64).wrapping_sub(entry as u64 + 1)
    }
}

/// How many lines of tags there are in near and in far buckets, each less one; powers of two less one. The near ones come
/// first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// Lines of near buckets.
    pub near_mask: u32,
    /// Lines of far ones.
    pub far_mask: u32,
}

impl Buckets {
    /// Most lines of near buckets: 256 KiB, a part of any processor's second-level cache.
    const MAX_NEAR: u32 = 4096;

    /// Of a table for so many flows, a power of two and at least eight: near a slot for each eight of them, far four slots
    /// for each.
    pub const fn for_flows(flows: u32) -> Self {
        let (near, far) = (flows / 8 / WAYS as u32, flows / WAYS as u32 * 4);
        let near = if near > Self::MAX_NEAR { Self::MAX_NEAR } else { near };
        Self { near_mask: near.saturating_sub(1), far_mask: far - 1 }
    }

    /// Lines of all of them.
    pub const fn lines(&self) -> u32 {
        self.near_mask + 1 + self.far_mask + 1
    }
}

/// Where a key may sit, and its tag less the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The lines of the near bucket and of the far one, in the order in which they are looked at.
    pub lines: [u32; LINES],
    /// Those bits of the hash that stand in the tag, the others zero. Never zero.
    pub hash: u64,
}

impl Place {
    /// Derives both buckets from the hash: from bits that do not stand in the tag, and from different ones unless the table
    /// is very large.
    #[inline(always)]
    pub const fn of(hash: u64, buckets: Buckets) -> Self {
        let (near, far_begin) = ((hash >> 52) as u32 & buckets.near_mask, buckets.near_mask + 1);
        // Either line of it first, as the lowest bit says.
        let far = (hash >> 37) as u32 & buckets.far_mask;
        // A hash of zero would look empty.
        let hash = if hash & tag::HASH == 0 { state::MASK + 1 } else { hash & tag::HASH };
        Self { lines: [near, far_begin + far, far_begin + (far ^ 1)], hash }
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
    /// There is no free entry; or both buckets are full.
    Full,
    /// Other CPUs kept claiming the same flow, or free entries.
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
    // In the lines that nearly all flows are in. For the rest the other function looks everywhere.
    let hit = find_in(memory, place, packet, LINES - 1);
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
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        match open(memory, magazine, place, packet, opening) {
            Open::Opened(Hit { slot, tag, entry }) => {
                return Ok(Found { slot, tag, entry, opened: true, ended });
            }
            Open::Full => return Err(NoSlot::Full),
            Open::Rival => {
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

/// A slot and its flow's entry; null if there is none. Not an `Option`: where that is none the compiler leaves its content
/// undefined, and the kernel's verifier refuses a program that copies what was never written.
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

/// Looks for the packet's flow among the live ones, whether it has ended by the clock or not.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, place: &Place, packet: &Packet) -> Hit {
    find_in(memory, place, packet, LINES)
}

/// [`find`], in the first so many lines.
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

enum Open {
    Opened(Hit),
    Rival,
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
    if !word.compare_exchange(state::EMPTY, place.hash | state::CLAIMING) {
        return Open::Rival;
    }
    let slot = index * WAYS as u32 + way as u32;
    if rival(memory, place, &packet.key, slot) {
        word.publish(state::EMPTY);
        return Open::Rival;
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
        (&raw mut (*entry).verdict).write_volatile(mark::reopened(before));
    }
    let tag = tag::live(place.hash, number);
    word.publish(tag);
    Open::Opened(Hit { slot, tag, entry })
}

/// Takes the first of the free entries, as many as there is room for.
///
/// # Errors
/// There are none, or others kept taking them.
#[inline(always)]
fn refill<M: Memory>(memory: &M, magazine: &mut Magazine) -> Result<(), NoSlot> {
    let Some(head) = memory.free_word(0) else {
        return Err(NoSlot::Full);
    };
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let word = head.load();
        let (mut entry, mut taken) = (free_list::first(word), 0);
        while taken < Magazine::MAX {
            // Links that change meanwhile may lead anywhere; then the exchange fails.
            let Some(link) = memory.free_word(entry + 1) else {
                break;
            };
            magazine.entries[taken as usize] = entry;
            entry = free_list::next(entry, link.load());
            taken += 1;
        }
        if taken == 0 {
            return Err(NoSlot::Full);
        }
        if head.compare_exchange(word, free_list::leading_to(word, entry)) {
            magazine.count = taken.into();
            return Ok(());
        }
        attempt += 1;
    }
    Err(NoSlot::Contended)
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

/// True if another CPU holds the same flow, or is claiming a slot for it.
#[inline(always)]
fn rival<M: Memory>(memory: &M, place: &Place, key: &FlowKey, own: u32) -> bool {
    let mut which = 0;
    while which < LINES {
        let index = place.lines[which];
        let Some(line) = memory.line(index) else {
            return false;
        };
        let mut way = 0;
        while way < WAYS {
            let slot = index * WAYS as u32 + way as u32;
            let tag = line[way].load();
            if slot != own {
                if tag == place.hash | state::CLAIMING {
                    return true;
                }
                if tag & tag::IDENTITY == place.hash | state::LIVE
                    && let Some(entry) = memory.entry(tag::entry(tag))
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
    match memory.line(slot / WAYS as u32) {
        Some(line) => line[slot as usize % WAYS].compare_exchange(live_tag, tag::retired(live_tag)),
        None => false,
    }
}

/// Gives a retired slot back, and its flow's entry, after the grace period and after the entry has been copied. Agent
/// only. Who is killed between the two leaves an entry that nobody uses until the table is made anew.
pub fn free<M: Memory>(memory: &M, slot: u32, retired_tag: u64) {
    if let Some(line) = memory.line(slot / WAYS as u32) {
        line[slot as usize % WAYS].publish(state::EMPTY);
    }
    let entry = tag::entry(retired_tag);
    let (Some(head), Some(link)) = (memory.free_word(0), memory.free_word(entry + 1)) else {
        return;
    };
    loop {
        let word = head.load();
        link.publish(free_list::link(entry, free_list::first(word)));
        if head.compare_exchange(word, free_list::leading_to(word, entry)) {
            return;
        }
    }
}
