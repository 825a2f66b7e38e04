//! A packet's story: it is parsed, the lists are asked, it is counted in its flow, and then it is decided what becomes of it.
//!
//! The only file that knows all stations. [`parse`], [`lists`], [`track`] and [`prefilter`] know nothing of each other: they
//! leave what the next one needs in [`PARSED`].

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::programs::{TcContext, XdpContext};
use flowmeter_common::counter::Skip;
use flowmeter_common::flow::Entry;
use flowmeter_common::prefilter::{Seen, mark};
use flowmeter_common::table::{NoSlot, Place, find};

use crate::clock;
use crate::count::Counters;
use crate::frame::SkbFacts;
use crate::maps::{FLOWS, PARSED, Parsed, config};
use crate::prefilter::{self, TCX_NEXT, way};
use crate::{lists, parse, track, turn};

/// Counts a packet that arrived.
#[inline(always)]
pub fn watch_arrived(ctx: &XdpContext) {
    let interface = ctx.ingress_ifindex() as u32;
    if turn::take(1) {
        count_arrived::<false>(ctx, interface, 0, clock::now);
        turn::end(interface);
    }
}

/// Counts a packet that arrived on `interface`, and decides.
#[inline(always)]
pub fn filter_arrived(ctx: &XdpContext, interface: u32) -> u32 {
    if !turn::take(1) {
        return XDP_PASS;
    }
    let seen = count_arrived::<true>(ctx, interface, 0, clock::now);
    let verdict = prefilter::decide_arrived(interface, seen);
    turn::end(interface);
    verdict
}

/// Counts a packet that is about to leave.
#[inline(always)]
pub fn watch_leaving(ctx: &TcContext) {
    let facts = SkbFacts::of(ctx);
    if turn::take(facts.segments) {
        count_leaving::<false>(ctx, facts);
        turn::end(facts.interface);
    }
}

/// Counts a packet that is about to leave, and decides.
#[inline(always)]
pub fn filter_leaving(ctx: &TcContext) -> i32 {
    let facts = SkbFacts::of(ctx);
    if prefilter::is_own_copy() {
        // What reaches the inspector through a watched interface is seen there again.
        if let Some(counters) = Counters::seen(facts.interface, facts.segments) {
            counters.skipped(Skip::OwnCopy as u32, facts.segments);
        }
        return prefilter::pass_copy(facts, way::OUT);
    }
    if !turn::take(facts.segments) {
        return TCX_NEXT;
    }
    let seen = count_leaving::<true>(ctx, facts);
    let verdict = prefilter::decide_buffer(ctx, way::OUT, seen);
    turn::end(facts.interface);
    verdict
}

/// Decides about a packet that arrived, and that has been counted.
#[inline(always)]
pub fn filter_counted(ctx: &TcContext) -> i32 {
    if prefilter::is_own_copy() {
        return TCX_NEXT;
    }
    let facts = SkbFacts::of(ctx);
    if !turn::take(0) {
        return TCX_NEXT;
    }
    let seen = look_up(ctx);
    let verdict = prefilter::decide_buffer(ctx, way::IN, seen);
    turn::end(facts.interface);
    verdict
}

/// Counts a packet that arrived on `interface`, with `wire_len` bytes, or 0 if the kernel knows how many. `now` is asked
/// for the time.
#[inline(always)]
pub fn count_arrived<const FILTER: bool>(
    ctx: &XdpContext,
    interface: u32,
    wire_len: usize,
    now: impl FnOnce() -> u64,
) -> Seen {
    let (Some(counters), Some(parsed)) = (Counters::seen(interface, 1), PARSED.get_ptr_mut(0)) else {
        return Seen::SKIPPED;
    };
    let outcome = parse::arrived(ctx.ctx, interface, wire_len, parsed);
    count::<FILTER, _>(ctx, &counters, parsed, outcome, 1, now, || lists::unparsed_arrived(ctx))
}

/// Counts a packet that is about to leave.
#[inline(always)]
fn count_leaving<const FILTER: bool>(ctx: &TcContext, facts: SkbFacts) -> Seen {
    let counters = Counters::seen(facts.interface, facts.segments);
    let (Some(counters), Some(parsed)) = (counters, PARSED.get_ptr_mut(0)) else {
        return Seen::SKIPPED;
    };
    let outcome = parse::leaving(ctx, parsed, facts);
    let unparsed = || lists::unparsed_buffer(ctx);
    count::<FILTER, _>(ctx, &counters, parsed, outcome, facts.segments, clock::now, unparsed)
}

/// Counts the packet in [`PARSED`], or the reason why there is none. Where `FILTER` is set also notes what the decision
/// needs, and returns what it is about: the lists are asked first, about packets that cannot be parsed by `unparsed`.
#[inline(always)]
fn count<const FILTER: bool, C: EbpfContext>(
    ctx: &C,
    counters: &Counters,
    parsed: *mut Parsed,
    outcome: u64,
    packets: u16,
    now: impl FnOnce() -> u64,
    unparsed: impl FnOnce() -> u32,
) -> Seen {
    if outcome != parse::WHOLE {
        if FILTER {
            note(parsed, now(), unparsed());
        }
        counters.skipped(parse::reason(outcome), packets);
        return Seen::skipped(parse::reason(outcome));
    }
    let now = now();
    if FILTER {
        note(parsed, now, lists::parsed());
    }
    match track::track(counters, parsed, now) {
        Ok(entry) if FILTER => mark_of(entry),
        Ok(_) => Seen::flow(mark::NONE),
        Err(why) => {
            if why == NoSlot::Full {
                track::report_full(ctx, counters, packets);
            }
            Seen::FOLDED
        }
    }
}

/// Looks up, and does not count, a packet that has been counted before on its way in.
#[inline(always)]
fn look_up(ctx: &TcContext) -> Seen {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return Seen::SKIPPED;
    };
    let now = clock::now();
    let outcome = parse::leaving(ctx, parsed, SkbFacts::of(ctx));
    if outcome != parse::WHOLE {
        note(parsed, now, lists::unparsed_buffer(ctx));
        return Seen::skipped(parse::reason(outcome));
    }
    note(parsed, now, lists::parsed());
    // SAFETY: a value of a per-CPU map.
    let Parsed { packet, hash, .. } = unsafe { &*parsed };
    let entry = find(&FLOWS, &Place::of(*hash, config().buckets), packet).entry;
    if entry.is_null() { Seen::FOLDED } else { mark_of(entry) }
}

/// Keeps what the decision needs until the packet has been counted; by then it may have been made an aggregate's.
#[inline(always)]
fn note(parsed: *mut Parsed, now: u64, listed: u32) {
    // SAFETY: fields of a value of a per-CPU map. Volatile, so that they really go there.
    unsafe {
        (&raw mut (*parsed).now).write_volatile(now);
        (&raw mut (*parsed).listed).write_volatile(listed);
    }
}

/// What is decided about a packet of the flow in this entry.
#[inline(always)]
fn mark_of(entry: *const Entry) -> Seen {
    // SAFETY: the entry is the packet's flow's; the agent writes the mark in one store.
    Seen::flow(unsafe { (&raw const (*entry).verdict).read_volatile() })
}
