//! The list of free entries: a stack that kernel and agent share (Treiber's), from which each CPU takes several at once.
//!
//! Memory that is all zero, as it is at first, is the list of all entries in their order.

use super::magazine::Magazine;
use super::memory::Memory;
use super::tag::{self, Word};

/// Why a packet has no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// There is no free entry, or both buckets are full.
    Full,
    /// Other CPUs kept claiming the same flow, or free entries.
    Contended,
}

/// Bits of an entry's number; above them the word counts its changes: it would take 2^37 of them between a look and
/// an exchange to mistake one word for another.
const NUMBER: u64 = tag::MAX_ENTRIES as u64;

/// The entry that the word leads to. If the list is empty, this is the number of no entry.
#[inline(always)]
const fn first(word: u64) -> u32 {
    (word & NUMBER) as u32
}

/// The word after this one, leading elsewhere.
#[inline(always)]
const fn leading_to(word: u64, entry: u32) -> u64 {
    (word & !NUMBER).wrapping_add(NUMBER + 1) | entry as u64 & NUMBER
}

/// The entry after `entry`, whose link this is.
#[inline(always)]
const fn next(entry: u32, link: u64) -> u32 {
    ((entry as u64).wrapping_add(1).wrapping_add(link) & NUMBER) as u32
}

/// The link from `entry` to `next`.
const fn link(entry: u32, next: u32) -> u64 {
    (next as u64).wrapping_sub(entry as u64 + 1)
}

/// Fills the magazine from the top of the free list. Each lost race quarters the number of entries that it asks for, down to
/// one. One entry needs one link only, so a CPU that gives many entries back cannot starve the others.
///
/// # Errors
/// There are no free entries, or other CPUs kept taking them.
#[inline(always)]
pub(super) fn refill<M: Memory>(memory: &M, magazine: &mut Magazine) -> Result<(), NoSlot> {
    let Some(head) = memory.free_word(0) else {
        return Err(NoSlot::Full);
    };
    let mut attempt = 0;
    let mut most = Magazine::MAX;
    while attempt < M::LOOKS {
        let word = head.load();
        let (mut entry, mut taken) = (first(word), 0);
        // The second bound is for the compiler, which sees no other.
        while taken < most && taken < Magazine::MAX {
            // Links that change meanwhile may lead anywhere; then the exchange fails.
            let Some(link) = memory.free_word(entry + 1) else {
                break;
            };
            magazine.entries[taken as usize] = entry;
            entry = next(entry, link.load());
            taken += 1;
        }
        if taken == 0 {
            return Err(NoSlot::Full);
        }
        if head.compare_exchange(word, leading_to(word, entry)) {
            magazine.count = taken.into();
            return Ok(());
        }
        if most > 1 {
            most /= 4;
        }
        attempt += 1;
    }
    Err(NoSlot::Contended)
}

/// Puts an entry back that nobody uses any more.
pub(super) fn give_back<M: Memory>(memory: &M, entry: u32) {
    let (Some(head), Some(onward)) = (memory.free_word(0), memory.free_word(entry + 1)) else {
        return;
    };
    loop {
        let word = head.load();
        onward.publish(link(entry, first(word)));
        if head.compare_exchange(word, leading_to(word, entry)) {
            return;
        }
    }
}
