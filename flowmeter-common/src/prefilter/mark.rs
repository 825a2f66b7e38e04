//! What the agent leaves in a flow's slot: a verdict, when it was given, and whether the flow is in the audit lane.
//!
//! Every word that [`of`] does not make counts as no mark at all.

/// No verdict.
pub const NONE: u32 = 0;
/// The verdict benign.
pub const BENIGN: u32 = 1;
/// The verdict unknown.
pub const UNKNOWN: u32 = 2;
/// The verdict malicious.
pub const MALICIOUS: u32 = 3;
/// Bits of the verdict.
pub const VERDICT: u32 = 0xff;
/// The verdict was given after the flow's first checkpoint.
pub const LATER: u32 = 1 << 8;
/// Cleared as benign, and chosen at random to go to the inspector all the same.
pub const AUDITED: u32 = 1 << 9;
/// Bits of the mark in a flow's word. The bits above count how often the entry has been opened, so that a late mark does not
/// meet the next flow in the entry. The count comes round after 2^16 flows, each of which a grace period follows; no mark
/// is that late.
pub const BITS: u32 = 0xffff;

/// The mark of a verdict with this number.
pub const fn of(verdict: u32, later: bool, audited: bool) -> u32 {
    let verdict = verdict & VERDICT;
    let mut mark = verdict;
    if verdict != NONE && later {
        mark |= LATER;
    }
    if verdict == BENIGN && audited {
        mark |= AUDITED;
    }
    mark
}

/// The number of a mark's verdict.
pub const fn verdict(mark: u32) -> u32 {
    mark & VERDICT
}

/// The word of the next flow in an entry whose word this is: without a verdict.
#[inline(always)]
pub const fn reopened(word: u32) -> u32 {
    (word & !BITS).wrapping_add(BITS + 1)
}

/// The mark that a flow begins with which a packet has opened by ending the one with this word: once malicious, a
/// conversation stays so until it is judged anew, however often it seems to begin again.
#[inline(always)]
pub const fn inherited(word: u32) -> u32 {
    if verdict(word) == MALICIOUS { word & BITS } else { NONE }
}

/// The word of the same flow with another mark.
pub const fn changed(word: u32, mark: u32) -> u32 {
    word & !BITS | mark & BITS
}

/// A flow's word in shared memory. Who opens the entry writes it; from then on only the agent does.
pub trait MarkWord {
    /// Reads it.
    fn load(&self) -> u32;
    /// Replaces `current` by `new`; false if the word was something else.
    fn compare_exchange(&self, current: u32, new: u32) -> bool;
}

/// Marks the flow whose word was `seen` some time ago, if that flow is still in the entry; false if it is not.
pub fn give<W: MarkWord>(word: &W, seen: u32, mark: u32) -> bool {
    loop {
        let present = word.load();
        if (present ^ seen) & !BITS != 0 {
            return false;
        }
        if word.compare_exchange(present, changed(present, mark)) {
            return true;
        }
    }
}
