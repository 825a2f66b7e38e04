//! Programs that the benchmark attaches in FlowMeter's place, on a cable with packets as they come.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use super::plain;

/// Nothing.
#[xdp(frags)]
#[inline(always)]
pub fn test_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Parses, and sends each packet's facts to userspace.
#[xdp(frags)]
#[inline(always)]
pub fn test_event(ctx: XdpContext) -> u32 {
    plain::event_per_packet(&ctx);
    XDP_PASS
}
