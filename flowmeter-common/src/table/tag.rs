//! A tag: the state of a slot, the hash of its flow, and the number of the flow's entry, in one word.

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
