//! What the protocol needs of the memory that it works on: the kernel programs, the agent and the tests each have their own.

use super::buckets::WAYS;
use super::magazine::Magazine;
use super::tag::Word;
use crate::flow::Entry;
use crate::packet::Packet;

/// The table's arrays.
pub trait Memory {
    /// How tags are accessed.
    type Word: Word;
    /// The tags of a bucket's line; `None` only if there is no such line.
    fn line(&self, index: u32) -> Option<&[Self::Word; WAYS]>;
    /// The entry with this number; `None` only if there is none.
    fn entry(&self, number: u32) -> Option<*mut Entry>;
    /// Word 0 leads to the first free entry, word 1 + n from entry n to the next; `None` only if there is no such entry.
    fn free_word(&self, index: u32) -> Option<&Self::Word>;
    /// How often the list of free entries is looked at when others have changed it meanwhile.
    const LOOKS: u32 = 8;
    /// How often a CPU looks whether another has settled its claim, before it gives up. Few, since the kernel's verifier walks
    /// through each look.
    const PATIENCE: u32 = 32;
    /// Told each time that it has not; lets some time pass.
    #[inline(always)]
    fn relax(&self) {
        core::hint::spin_loop();
    }
    /// A hint: this packet will most likely be added to the entry. So its cache lines can be fetched at once, and not one
    /// after the other as the update reaches them.
    #[inline(always)]
    fn prefetch(&self, _entry: *mut Entry, _packet: &Packet) {}
}

/// The table as one CPU sees it that opens flows: with free entries of its own.
pub trait Opens: Memory {
    /// This CPU's free entries; nobody else touches them. Never `None`.
    fn magazine(&self) -> Option<*mut Magazine>;
}
