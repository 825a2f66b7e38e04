//! The kernel's side of FlowMeter: XDP for what comes in, TC for what goes out. Both only watch. Other programs, loaded only
//! in the modes that need them, do the same and then what the flow's verdict says.
//!
//! Here are the entry points only. [`hooks`] tells what happens to a packet; its stations are [`parse`] (with [`frame`], the
//! only raw packet pointers), [`lists`], [`track`] (the flow's slot and its update; [`emit`] tells the agent, [`count`] keeps
//! the account) and [`prefilter`]; [`turn`] keeps programs from interrupting each other. All maps are in [`maps`].
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the entry points' macros wrap each in a second function, without its words")]
#![allow(internal_features, reason = "BPF compare-exchange is reached through the intrinsic: see maps.rs")]
#![feature(core_intrinsics)]

mod clock;
mod count;
mod emit;
mod frame;
mod hooks;
mod lists;
mod log;
mod maps;
mod parse;
mod prefilter;
#[cfg(feature = "test-programs")]
mod test_programs;
mod track;
mod turn;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::prefilter::TCX_NEXT;

/// Packets that arrive. Native mode sees them as they were on the wire.
#[xdp(frags)]
#[inline(always)]
pub fn flowmeter_ingress(ctx: XdpContext) -> u32 {
    hooks::watch_arrived(&ctx);
    xdp_action::XDP_PASS
}

/// Packets that leave. Large sends have not been cut into segments yet.
#[classifier]
#[inline(always)]
pub fn flowmeter_egress(ctx: TcContext) -> i32 {
    hooks::watch_leaving(&ctx);
    TCX_NEXT
}

/// Packets that arrive, in `divert` and `block`: counted, and then passed, dropped, or redirected to the inspector.
#[xdp(frags)]
#[inline(always)]
pub fn filter_ingress(ctx: XdpContext) -> u32 {
    hooks::filter_arrived(&ctx, ctx.ingress_ifindex() as u32)
}

/// Packets that leave, in `mirror` and `block`: counted, and then passed, dropped, or copied to the inspector.
#[classifier]
#[inline(always)]
pub fn filter_egress(ctx: TcContext) -> i32 {
    hooks::filter_leaving(&ctx)
}

/// Packets that arrive, in `mirror`. XDP has counted them but cannot copy a packet; here they are looked up, and copied to the
/// inspector.
#[classifier]
#[inline(always)]
pub fn mirror_ingress(ctx: TcContext) -> i32 {
    hooks::filter_counted(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: nothing here can panic, or the verifier would refuse the endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
