//! From a parsed packet to an updated flow.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use aya_log_ebpf::warn;
use flowmeter_common::aggregate;
use flowmeter_common::counter::Skip;
use flowmeter_common::event::reason;
use flowmeter_common::flow::Opening;
use flowmeter_common::key::{KEY_WORDS, hash_words};
#[cfg(feature = "laboratory")]
use flowmeter_common::packet::Packet;
use flowmeter_common::parse::{Look, parse_ethernet};
use flowmeter_common::table::{Place, WAYS, find_or_open};

use crate::clock;
use crate::count::Counters;
use crate::emit::emit;
use crate::frame::{KernelFrame, SkbFacts};
use crate::maps::{AGGREGATES, FLOWS, PARSED, Parsed, config};

/// Bytes of headers that are made linear where a packet's are not: Ethernet, two tags, IPv6, six extension headers,
/// TCP without options.
const HEADERS: u32 = 256;

/// Counts a packet that arrived.
#[inline(always)]
pub fn ingress(ctx: &XdpContext) {
    arrived(ctx, ctx.ingress_ifindex() as u32, 0, clock::now);
}

/// Counts a packet that arrived on `interface`, with `wire_len` bytes, or 0 if the kernel knows how many. `now` is asked
/// for the time, if it is a packet of a flow.
#[inline(always)]
pub fn arrived(ctx: &XdpContext, interface: u32, wire_len: usize, now: impl FnOnce() -> u64) {
    let Some(counters) = Counters::seen(interface, 1) else {
        return;
    };
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return;
    };
    match parse_arrived(ctx.ctx, interface, wire_len, parsed) {
        0 => {
            if !track(&counters, parsed, now()) {
                report_full(ctx, &counters, 1);
            }
        }
        failed => counters.skipped(failed as u32 - 1, 1),
    }
}

/// Counts a packet that is about to leave.
#[inline(always)]
pub fn egress(ctx: &TcContext) {
    let facts = SkbFacts::of(ctx);
    let Some(counters) = Counters::seen(facts.interface, facts.segments) else {
        return;
    };
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return;
    };
    let partial = KernelFrame::of_tc(ctx, core::ptr::null_mut()).is_partial();
    let mut outcome = parse_leaving(ctx.skb.skb, parsed);
    if is_truncated(outcome) && partial {
        // The headers lie in fragments of the buffer. Pulling them together changes no byte of the packet.
        let length = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        if ctx.pull_data(length).is_ok() {
            outcome = parse_leaving(ctx.skb.skb, parsed);
        }
    }
    match outcome {
        0 => {
            if !track(&counters, parsed, clock::now()) {
                report_full(ctx, &counters, facts.segments);
            }
        }
        failed => counters.skipped(failed as u32 - 1, facts.segments),
    }
}

/// The packet, parsed and nothing else; `None` if it cannot be.
#[cfg(feature = "laboratory")]
#[inline(always)]
pub fn parsed(ctx: &XdpContext) -> Option<*const Packet> {
    let parsed = PARSED.get_ptr_mut(0)?;
    // SAFETY: a field of a map's value.
    (parse_arrived(ctx.ctx, 0, 0, parsed) == 0).then(|| unsafe { &raw const (*parsed).packet })
}

/// [`parse`] of a packet that arrived. A BPF function of its own: its thousands of ways end here, in a packet about which
/// the verifier knows nothing any more, see [`PARSED`].
#[inline(never)]
fn parse_arrived(ctx: *mut xdp_md, interface: u32, wire_len: usize, parsed: *mut Parsed) -> u64 {
    let mut frame = KernelFrame::of_xdp(&XdpContext::new(ctx), scratch(parsed));
    if wire_len != 0 {
        frame = frame.with_wire_len(wire_len);
    }
    parse(frame, &SkbFacts::none(interface), parsed)
}

/// [`parse`] of a packet that leaves, likewise.
#[inline(never)]
fn parse_leaving(ctx: *mut __sk_buff, parsed: *mut Parsed) -> u64 {
    let ctx = TcContext::new(ctx);
    parse(KernelFrame::of_tc(&ctx, scratch(parsed)), &SkbFacts::of(&ctx), parsed)
}

/// A word of the packet's memory, free until the packet is written as a whole.
#[inline(always)]
fn scratch(parsed: *mut Parsed) -> *mut u32 {
    // SAFETY: a field of a map's value.
    unsafe { &raw mut (*parsed).packet.sequence }
}

/// Parses the frame into `parsed` with its key's hash, and returns 0, or the number of the reason why not plus one.
#[inline(always)]
fn parse(frame: KernelFrame, facts: &SkbFacts, parsed: *mut Parsed) -> u64 {
    let config = config();
    match parse_ethernet(&frame, facts.interface, Look { tunnels: config.tunnels != 0 }) {
        Ok(mut packet) => {
            if facts.vlan != 0 {
                packet.key.inner_vlan = packet.key.outer_vlan;
                packet.key.outer_vlan = facts.vlan;
            }
            packet.segments = facts.segments;
            packet.segment_payload = facts.segment_payload;
            // The key leaves the registers as whole words: what is written in small pieces and then read in large ones
            // makes the processor wait until all pieces have reached the cache.
            let words = packet.key.to_words();
            // SAFETY: this CPU's own copy; nothing else runs on it until the program returns.
            unsafe {
                (*parsed).hash = hash_words(&words, config.hash_seed);
                (&raw mut (*parsed).packet.key).cast::<[u64; KEY_WORDS]>().write(words);
                packet.write_facts(&raw mut (*parsed).packet);
            }
            0
        }
        Err(why) => 1 + why as u64,
    }
}

/// Whether the parser's outcome says that the frame ended too early.
fn is_truncated(outcome: u64) -> bool {
    const fn bit(why: Skip) -> u64 {
        1 << (why as u64 + 1)
    }
    const TRUNCATED: u64 = bit(Skip::TruncatedLink)
        | bit(Skip::TruncatedIpv4)
        | bit(Skip::TruncatedIpv6)
        | bit(Skip::TruncatedTransport);
    TRUNCATED >> (outcome & 63) & 1 == 1
}

/// Adds the packet to its flow; false if there is no slot for it.
#[inline(always)]
fn track(counters: &Counters, parsed: *mut Parsed, now: u64) -> bool {
    // SAFETY: a value of a per-CPU map, looked up by the caller.
    let Parsed { packet, hash } = unsafe { &*parsed };
    let config = config();
    let place = Place::of(*hash, config.bucket_mask);
    let found = match find_or_open(&FLOWS, &place, packet, Opening::of(packet), now, &config.timeouts) {
        Ok(found) => found,
        Err(why) => {
            let aggregated = fold(parsed, now) == 0;
            // SAFETY: as above; read again, since it has been written.
            counters.folded(unsafe { &(*parsed).packet }, why, aggregated);
            return false;
        }
    };
    // SAFETY: the slot's tag is live, or was when it was found: until this program returns the entry is this flow's.
    let entry = unsafe { &mut *found.entry };
    let updated = entry.state.update(packet, now);
    counters.counted(packet, found.opened);
    if let Some(ended) = found.ended {
        emit(counters, ended.slot, reason::CLOSING, ended.tag);
    }
    if found.opened && config.events_opened != 0 {
        emit(counters, found.slot, reason::OPENED, found.tag);
    }
    if updated.checkpoint {
        emit(counters, found.slot, reason::CHECKPOINT, found.tag);
    }
    if updated.closed {
        emit(counters, found.slot, reason::CLOSING, found.tag);
    }
    true
}

/// Adds a packet whose flow has no slot to its aggregate, and returns 0; 1 if that has none either. A BPF function of its
/// own, since it is the whole way to a slot again. What was parsed is written over.
#[inline(never)]
fn fold(parsed: *mut Parsed, now: u64) -> u64 {
    // SAFETY: a value of a per-CPU map, looked up by the caller.
    let whole = unsafe { &mut (*parsed).packet };
    *whole = aggregate::of(whole);
    const BUCKETS: u32 = aggregate::SLOTS / WAYS as u32;
    let place = Place::of(whole.key.hash(config().hash_seed), BUCKETS - 1);
    match find_or_open(&AGGREGATES, &place, whole, aggregate::OPENING, now, &aggregate::TIMEOUTS) {
        Ok(found) => {
            // SAFETY: as in `track`.
            unsafe { (*found.entry).state.fold(whole, now) };
            0
        }
        Err(_) => 1,
    }
}

/// How often the agent is told again that packets find no slot.
const TELL_EVERY: u64 = 1 << 16;

/// Tells the agent that packets find no slot, and says so in the log at each doubling of their number on this CPU.
#[inline(always)]
fn report_full<C: aya_ebpf::EbpfContext>(ctx: &C, counters: &Counters, packets: u16) {
    let folded = counters.folded_so_far();
    let before = folded.wrapping_sub(u64::from(packets));
    let doubled = folded ^ before > before;
    if doubled || folded / TELL_EVERY != before / TELL_EVERY {
        emit(counters, 0, reason::NO_ROOM, 0);
    }
    if doubled {
        warn!(ctx, "no slot in the flow table: {} packets folded on this CPU so far", folded);
    }
}
