//! What a test says that time it is, and how long the packet was on the wire: in place of the clock, so that the same
//! packets can be put through the kernel programs and through the capture path at the same times.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

/// Time of the next packet (ns), and its length on the wire (bytes). Written by the test.
#[map]
static REPLAY: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// The time that the test has set.
#[inline(always)]
pub fn now() -> u64 {
    REPLAY.get(0).map_or(0, |[now, _]| *now)
}

/// The length that the test has set.
#[inline(always)]
pub fn wire_len() -> Option<usize> {
    REPLAY.get(0).map(|[_, wire_len]| *wire_len as usize)
}
