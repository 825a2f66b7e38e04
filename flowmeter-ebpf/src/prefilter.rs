//! What becomes of a packet after it has been counted: the pre-filter's programs, and their maps.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_clone_redirect;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, DevMap, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use flowmeter_common::config::{MAX_INTERFACES, counter_slot};
use flowmeter_common::flow::Entry;
use flowmeter_common::key::kind;
use flowmeter_common::packet::protocol;
use flowmeter_common::prefilter::{
    Action, Cause, Control, ListKey, MAX_RULES, Outcome, PrefilterConfig, PrefilterCounters, Seen, fresh,
    listed,
};

use crate::TCX_NEXT;
use crate::clock;
use crate::frame::SkbFacts;
use crate::maps::{MMAPABLE, PARSED, Parsed, config};
use crate::track;

/// TC: drop (linux/pkt_cls.h, TC_ACT_SHOT). TCX has the same number for it.
const TC_DROP: i32 = 2;

/// The table of actions, written by the agent before loading, constant afterwards.
#[unsafe(no_mangle)]
static PREFILTER: PrefilterConfig = PrefilterConfig::WATCH;

/// Heartbeat and which lists count; written by the agent at any time.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, MMAPABLE);

/// What became of packets: by interface slot those that arrived, and after them those that left. A copy for each CPU,
/// written by the kernel.
#[map]
static PREFILTER_COUNTERS: PerCpuArray<PrefilterCounters> =
    PerCpuArray::with_max_entries(2 * MAX_INTERFACES, 0);

/// Where redirected packets leave: one interface, put there by the agent, taken out by the kernel when it goes away.
#[map]
static INSPECTOR: DevMap = DevMap::with_max_entries(1, 0);

/// The allow and deny lists, one of [`listed`] by [`ListKey`]: one of two, so that the agent can fill the other and then
/// change over with one store. Full: the agent refuses the lists.
#[map]
static LISTS_1: LpmTrie<[u8; ListKey::BYTES], u32> = LpmTrie::with_max_entries(MAX_RULES, 0);
#[map]
static LISTS_2: LpmTrie<[u8; ListKey::BYTES], u32> = LpmTrie::with_max_entries(MAX_RULES, 0);

/// Direction of a packet as [`PREFILTER_COUNTERS`] has it.
mod way {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
}

/// Counts a packet that arrived on `interface`, and decides.
#[inline(always)]
pub fn arrived(ctx: &XdpContext, interface: u32) -> u32 {
    let seen = track::meter_arrived::<true>(ctx, interface, 0, clock::now);
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

/// Counts a packet that is about to leave, and decides.
#[inline(always)]
pub fn leaving(ctx: &TcContext) -> i32 {
    let seen = track::meter_leaving::<true>(ctx);
    act(ctx, way::OUT, seen)
}

/// Decides about a packet that arrived, and that has been counted.
#[inline(always)]
pub fn counted(ctx: &TcContext) -> i32 {
    let seen = track::look_up(ctx);
    act(ctx, way::IN, seen)
}

#[inline(always)]
fn act(ctx: &TcContext, way: u32, seen: Seen) -> i32 {
    let facts = SkbFacts::of(ctx);
    let cause = cause_of(seen);
    let (outcome, verdict) = match prefilter().action(cause) {
        Action::Drop => (Outcome::Dropped, TC_DROP),
        Action::Clone => {
            // SAFETY: the context is the program's; the helper copies the packet, and touches no pointer of ours.
            let sent = unsafe { bpf_clone_redirect(ctx.skb.skb, prefilter().inspector, 0) };
            (if sent == 0 { Outcome::Cloned } else { Outcome::Failed }, TCX_NEXT)
        }
        Action::Pass | Action::Redirect => (Outcome::Passed, TCX_NEXT),
    };
    count(facts.interface, way, facts.segments, seen, cause, outcome);
    verdict
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
    let bytes = if seen == Seen::SKIPPED { 0 } else { packet.wire_bytes() };
    counters.count(cause, outcome, u64::from(packets), bytes);
}

/// The table as loaded.
#[inline(always)]
fn prefilter() -> &'static PrefilterConfig {
    // SAFETY: as for the settings in maps.rs.
    unsafe { &*core::hint::black_box(&raw const PREFILTER) }
}

/// Notes of the packet in [`PARSED`] what is needed when it has been counted, and may have been made an aggregate's.
#[inline(always)]
pub fn note(parsed: *mut Parsed, now: u64) {
    let listed = flowmeter_listed() as u32;
    // SAFETY: fields of a value of a per-CPU map. Volatile, so that they really go there.
    unsafe {
        (&raw mut (*parsed).now).write_volatile(now);
        (&raw mut (*parsed).listed).write_volatile(listed);
    }
}

/// [`note`] of a packet that could not be parsed.
#[inline(always)]
pub fn note_time(parsed: *mut Parsed, now: u64) {
    // SAFETY: as above.
    unsafe {
        (&raw mut (*parsed).now).write_volatile(now);
        (&raw mut (*parsed).listed).write_volatile(listed::NONE);
    }
}

/// What is decided about a packet of the flow in this entry.
#[inline(always)]
pub fn mark_of(entry: *const Entry) -> Seen {
    // SAFETY: the entry is the packet's flow's; the agent writes the mark in one store.
    Seen::flow(unsafe { (&raw const (*entry).verdict).read_volatile() })
}

/// What the lists say of the packet in [`PARSED`]. A global function, which the verifier looks at once, see
/// [`track`](crate::track).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_listed() -> u64 {
    let Some(control) = CONTROL.get_ptr(0) else {
        return 0;
    };
    // SAFETY: a value of a map, which the agent writes in whole words.
    let which = unsafe { (&raw const (*control).lists).read_volatile() };
    u64::from(match which {
        1 => look_up(&LISTS_1),
        2 => look_up(&LISTS_2),
        _ => listed::NONE,
    })
}

#[inline(always)]
fn look_up(lists: &LpmTrie<[u8; ListKey::BYTES], u32>) -> u32 {
    let Some(parsed) = PARSED.get_ptr(0) else {
        return listed::NONE;
    };
    // SAFETY: a value of a per-CPU map.
    let key = unsafe { &(*parsed).packet.key };
    let ports =
        matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) && key.kind == kind::WHOLE;
    let of = |address: [u64; 2], scope: u16, port: u16| {
        let key = ListKey { bits: ListKey::ALL, scope, port, address };
        // SAFETY: both are 24 bytes without padding: the length, and what follows it.
        let key = unsafe { &*(&raw const key).cast::<Key<[u8; ListKey::BYTES]>>() };
        lists.get(key).map_or(listed::NONE, |found| *found)
    };
    let (mut a_port, mut b_port) = (listed::NONE, listed::NONE);
    if ports {
        a_port = of(key.a_address, 1, key.a_port);
        b_port = of(key.b_address, 1, key.b_port);
    }
    let (a, b) = (of(key.a_address, 0, 0), of(key.b_address, 0, 0));
    flowmeter_common::prefilter::which_list(a_port, a, b_port, b)
}
