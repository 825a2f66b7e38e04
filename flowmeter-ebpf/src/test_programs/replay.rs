//! A recorded packet at its recorded time, so that the same packets can be put through the kernel programs and through
//! the capture path.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;

use crate::hooks;

/// Time of the next packet (ns), and its length on the wire (bytes). Written by the test.
#[map]
static REPLAY: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// Counts the packet as having come at the time, and with the length, that the test has set.
#[xdp(frags)]
#[inline(always)]
pub fn flowmeter_replay(ctx: XdpContext) -> u32 {
    if let Some(&[now, wire_len]) = REPLAY.get(0) {
        hooks::count_arrived::<false>(&ctx, 0, wire_len as usize, || now);
    }
    xdp_action::XDP_PASS
}
