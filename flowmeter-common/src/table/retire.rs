//! Takes flows out of the table.

use super::buckets::WAYS;
use super::free_list::give_back;
use super::memory::Memory;
use super::tag::{self, Word, state};

/// Turns a live tag into a retired one; false if somebody else did.
#[inline(always)]
pub fn retire<M: Memory>(memory: &M, slot: u32, live_tag: u64) -> bool {
    match memory.line(slot / WAYS as u32) {
        Some(line) => line[slot as usize % WAYS].compare_exchange(live_tag, tag::retired(live_tag)),
        None => false,
    }
}

/// Gives a retired slot and its flow's entry back, after the grace period and after the entry has been copied. Agent only.
/// An agent that is killed between the two leaves an entry that nobody uses until the table is made anew.
pub fn free<M: Memory>(memory: &M, slot: u32, retired_tag: u64) {
    if let Some(line) = memory.line(slot / WAYS as u32) {
        line[slot as usize % WAYS].publish(state::EMPTY);
    }
    give_back(memory, tag::entry(retired_tag));
}
