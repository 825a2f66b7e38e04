//! Which slots a flow may sit in.

use super::tag::{self, state};

/// Slots of a line: eight tags fill a cache line.
pub const WAYS: usize = 8;
/// Lines that a flow may sit in: its near bucket is one, its far bucket two.
pub const LINES: usize = 3;

/// How many lines of tags the near and the far buckets have: powers of two, each less one. The near ones come first.
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

    /// Buckets for a table of `flows` flows, a power of two and at least eight: a near slot for every eight flows, and four
    /// far slots for each.
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
    /// The bits of the hash that stand in the tag, all others zero. Never zero as a whole.
    pub hash: u64,
}

impl Place {
    /// Derives both buckets from the hash, from bits that do not stand in the tag. The two use different bits unless the
    /// table is very large.
    #[inline(always)]
    pub const fn of(hash: u64, buckets: Buckets) -> Self {
        let (near, far_begin) = ((hash >> 52) as u32 & buckets.near_mask, buckets.near_mask + 1);
        // The lowest bit says which of its two lines comes first.
        let far = (hash >> 37) as u32 & buckets.far_mask;
        // A hash of zero would look empty.
        let hash = if hash & tag::HASH == 0 { state::MASK + 1 } else { hash & tag::HASH };
        Self { lines: [near, far_begin + far, far_begin + (far ^ 1)], hash }
    }
}
