//! The programs that the benchmark compares. Each makes the packet one of many flows', and does no more than its name
//! says beyond that.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use super::{plain, traffic};
use crate::clock;
use crate::{hooks, parse};

/// Nothing.
#[xdp(frags)]
#[inline(always)]
pub fn bench_empty(ctx: XdpContext) -> u32 {
    traffic::next(&ctx);
    XDP_PASS
}

/// Parses.
#[xdp(frags)]
#[inline(always)]
pub fn bench_parse(ctx: XdpContext) -> u32 {
    traffic::next(&ctx);
    parse::parsed(&ctx);
    XDP_PASS
}

/// All that is shipped.
#[xdp(frags)]
#[inline(always)]
pub fn bench_flowmeter(ctx: XdpContext) -> u32 {
    traffic::next(&ctx);
    hooks::count_arrived::<false>(&ctx, 0, 0, clock::now);
    XDP_PASS
}

/// All that is shipped, and the pre-filter's decision.
#[xdp(frags)]
#[inline(always)]
pub fn bench_filter(ctx: XdpContext) -> u32 {
    traffic::next(&ctx);
    hooks::filter_arrived(&ctx, 0)
}

/// All that is shipped, but for reading the clock.
#[xdp(frags)]
#[inline(always)]
pub fn bench_no_clock(ctx: XdpContext) -> u32 {
    if let Some(now) = traffic::next(&ctx) {
        hooks::count_arrived::<false>(&ctx, 0, 0, || now);
    }
    XDP_PASS
}

/// Parses, and does the same update in a hash map under a spin lock.
#[xdp(frags)]
#[inline(always)]
pub fn bench_hash_spinlock(ctx: XdpContext) -> u32 {
    traffic::next(&ctx);
    plain::hash_spinlock(&ctx);
    XDP_PASS
}

/// Parses, and sends each packet's facts to userspace.
#[xdp(frags)]
#[inline(always)]
pub fn bench_event_per_packet(ctx: XdpContext) -> u32 {
    traffic::next(&ctx);
    plain::event_per_packet(&ctx);
    XDP_PASS
}
