//! What becomes of a packet after it has been counted.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_clone_redirect;
use aya_ebpf::programs::TcContext;
use flowmeter_common::config::{MAX_INTERFACES, counter_slot};
use flowmeter_common::prefilter::{Action, Cause, Outcome, PrefilterConfig, Seen, fresh};

use crate::frame::SkbFacts;
use crate::maps::{CONTROL, INSPECTOR, PARSED, PREFILTER_COUNTERS, config};

/// TCX: go on with the next program. The same number tells a classic TC filter to go on.
pub const TCX_NEXT: i32 = -1;
/// TC: drop (linux/pkt_cls.h, TC_ACT_SHOT). TCX has the same number for it.
const TC_DROP: i32 = 2;

/// The table of actions, written by the agent before loading, constant afterwards.
#[unsafe(no_mangle)]
static PREFILTER: PrefilterConfig = PrefilterConfig::WATCH;

/// Direction of a packet as [`PREFILTER_COUNTERS`] has it.
pub mod way {
    /// It arrived.
    pub const IN: u32 = 0;
    /// It leaves.
    pub const OUT: u32 = 1;
}

/// Decides about a packet that arrived on `interface`, and does it: XDP's verdict.
#[inline(always)]
pub fn decide_arrived(interface: u32, seen: Seen) -> u32 {
    let cause = cause_of(seen);
    let (outcome, verdict) = match prefilter().action(cause) {
        Action::Drop => (Outcome::Dropped, XDP_DROP),
        // The packet passes if the inspector's interface has gone.
        Action::Redirect => match INSPECTOR.redirect(0, u64::from(XDP_PASS)) {
            Ok(verdict) => (Outcome::Diverted, verdict),
            Err(verdict) => (Outcome::Failed, verdict),
        },
        Action::Pass | Action::Clone => (Outcome::Passed, XDP_PASS),
    };
    count(interface, way::IN, 1, seen, cause, outcome);
    verdict
}

/// Decides about a packet that has a socket buffer, and does it: TC's verdict.
#[inline(always)]
pub fn decide_buffer(ctx: &TcContext, way: u32, seen: Seen) -> i32 {
    let facts = SkbFacts::of(ctx);
    let cause = cause_of(seen);
    let (outcome, verdict) = match prefilter().action(cause) {
        Action::Drop => (Outcome::Dropped, TC_DROP),
        Action::Clone => {
            // The copy may leave through a watched interface, while the helper runs: this program is run for it, too.
            set_copying(1);
            // SAFETY: the context is the program's; the helper copies the packet, and touches no pointer of ours.
            let sent = unsafe { bpf_clone_redirect(ctx.skb.skb, prefilter().inspector, 0) };
            set_copying(0);
            (if sent == 0 { Outcome::Cloned } else { Outcome::Failed }, TCX_NEXT)
        }
        Action::Pass | Action::Redirect => (Outcome::Passed, TCX_NEXT),
    };
    count(facts.interface, way, facts.segments, seen, cause, outcome);
    verdict
}

/// True if what this program was given is a copy that the one before it on this CPU is sending.
#[inline(always)]
pub fn is_own_copy() -> bool {
    PARSED.get_ptr(0).is_some_and(|parsed| {
        // SAFETY: a field of a value of a per-CPU map. Volatile, since another run has written it.
        unsafe { (&raw const (*parsed).copying).read_volatile() != 0 }
    })
}

/// Says whether a copy is being sent.
#[inline(always)]
fn set_copying(copying: u32) {
    if let Some(parsed) = PARSED.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (&raw mut (*parsed).copying).write_volatile(copying) };
    }
}

/// Lets a copy go on, and counts it.
#[inline(always)]
pub fn pass_copy(facts: SkbFacts, way: u32) -> i32 {
    count(facts.interface, way, facts.segments, Seen::SKIPPED, Cause::Skipped, Outcome::Passed);
    TCX_NEXT
}

/// What decides about the packet in [`PARSED`].
#[inline(always)]
fn cause_of(seen: Seen) -> Cause {
    let (Some(control), Some(parsed)) = (CONTROL.get_ptr(0), PARSED.get_ptr(0)) else {
        return Cause::Stale;
    };
    // SAFETY: values of maps; the agent writes the heartbeat in whole words.
    let (beat, now, listed) =
        unsafe { ((&raw const (*control).beat).read_volatile(), (*parsed).now, (*parsed).listed) };
    seen.cause(fresh(beat, now), listed)
}

#[inline(always)]
fn count(interface: u32, way: u32, packets: u16, seen: Seen, cause: Cause, outcome: Outcome) {
    let slot = counter_slot(interface, config().interface_multiplier) + way * MAX_INTERFACES;
    let (Some(counters), Some(parsed)) = (PREFILTER_COUNTERS.get_ptr_mut(slot), PARSED.get_ptr(0)) else {
        return;
    };
    // SAFETY: values of per-CPU maps. The packet that was folded has kept its size.
    let (counters, packet) = unsafe { (&mut *counters, &(*parsed).packet) };
    let bytes = if seen.is_skipped() { 0 } else { packet.wire_bytes() };
    counters.count(cause, outcome, u64::from(packets), bytes);
}

/// The table as loaded.
#[inline(always)]
fn prefilter() -> &'static PrefilterConfig {
    // SAFETY: as for the settings in maps.rs.
    unsafe { &*core::hint::black_box(&raw const PREFILTER) }
}
