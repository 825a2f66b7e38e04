//! From a parsed packet to an updated flow.

use aya_ebpf::programs::{TcContext, XdpContext};
use aya_log_ebpf::warn;
use flowmeter_common::counter::{InterfaceCounters, Skip};
use flowmeter_common::event::reason;
use flowmeter_common::packet::Packet;
use flowmeter_common::parse::{Look, parse_ethernet};
use flowmeter_common::table::{Place, find_or_open};

use crate::clock;
use crate::count::Counters;
use crate::emit::emit;
use crate::frame::{KernelFrame, SkbFacts};
use crate::maps::{PACKET, Table, config};

/// Bytes of headers that are made linear where a packet's are not: Ethernet, two tags, IPv6, six extension headers,
/// TCP without options.
const HEADERS: u32 = 256;

/// Counts a packet that arrived.
#[inline(always)]
pub fn ingress(ctx: &XdpContext) {
    arrived(ctx, KernelFrame::of_xdp(ctx), ctx.ingress_ifindex() as u32, clock::now);
}

/// Counts a packet that arrived on `interface`; `now` is asked for the time, if it is a packet of a flow.
#[inline(always)]
pub fn arrived(ctx: &XdpContext, frame: KernelFrame, interface: u32, now: impl FnOnce() -> u64) {
    let Some(counters) = Counters::seen(interface, 1) else {
        return;
    };
    let Some(packet) = PACKET.get_ptr_mut(0) else {
        return;
    };
    match read(frame, interface, packet) {
        None => {
            if track(counters.as_ptr(), packet, now()) == NO_SLOT {
                report_full(ctx, &counters);
            }
        }
        Some(why) => counters.skipped(why, 1),
    }
}

/// Counts a packet that is about to leave.
#[inline(always)]
pub fn egress(ctx: &TcContext) {
    let facts = SkbFacts::of(ctx);
    let Some(counters) = Counters::seen(facts.interface, facts.segments) else {
        return;
    };
    let Some(packet) = PACKET.get_ptr_mut(0) else {
        return;
    };
    let frame = KernelFrame::of_tc(ctx);
    let partial = frame.is_partial();
    let mut failed = read(frame, facts.interface, packet);
    if failed.is_some_and(is_truncated) && partial {
        // The headers lie in fragments of the buffer. Pulling them together changes no byte of the packet.
        let length = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        if ctx.pull_data(length).is_ok() {
            failed = read(KernelFrame::of_tc(ctx), facts.interface, packet);
        }
    }
    match failed {
        None => {
            // SAFETY: this CPU's own copy; nothing else runs on it until the program returns.
            let parsed = unsafe { &mut *packet };
            if facts.vlan != 0 {
                parsed.key.inner_vlan = parsed.key.outer_vlan;
                parsed.key.outer_vlan = facts.vlan;
            }
            parsed.segments = facts.segments;
            parsed.segment_payload = facts.segment_payload;
            if track(counters.as_ptr(), packet, clock::now()) == NO_SLOT {
                report_full(ctx, &counters);
            }
        }
        Some(why) => counters.skipped(why, facts.segments),
    }
}

/// The packet, parsed and nothing else; `None` if it cannot be.
#[cfg(feature = "laboratory")]
#[inline(always)]
pub fn parsed(ctx: &XdpContext) -> Option<*const Packet> {
    let packet = PACKET.get_ptr_mut(0)?;
    match read(KernelFrame::of_xdp(ctx), 0, packet) {
        None => Some(packet),
        Some(_) => None,
    }
}

fn is_truncated(why: u32) -> bool {
    const TRUNCATED: u32 = 1 << Skip::TruncatedLink as u32
        | 1 << Skip::TruncatedIpv4 as u32
        | 1 << Skip::TruncatedIpv6 as u32
        | 1 << Skip::TruncatedTransport as u32;
    TRUNCATED >> (why & 31) & 1 == 1
}

/// Parses the frame into `packet`, or gives the number of the reason why not.
#[inline(always)]
fn read(frame: KernelFrame, interface: u32, packet: *mut Packet) -> Option<u32> {
    let (start, end, wire_len) = frame.into_parts();
    let outcome = parse(start, end, wire_len, interface, packet);
    if outcome == PARSED { None } else { Some(outcome as u32 - 1) }
}

/// What [`parse`] returns if there is a packet; otherwise it is the reason's number plus one.
const PARSED: u64 = 0;

/// The shared parser. A BPF function of its own: its thousands of ways end here, in a packet about which the verifier
/// knows nothing any more, see [`PACKET`].
#[inline(never)]
fn parse(start: usize, end: usize, wire_len: usize, interface: u32, packet: *mut Packet) -> u64 {
    // SAFETY: the caller took them from its context, and nothing has moved the packet since. The packet's own memory
    // is free until it is written as a whole.
    let frame = unsafe { KernelFrame::from_parts(start, end, wire_len, &raw mut (*packet).sequence) };
    match parse_ethernet(&frame, interface, Look { tunnels: config().tunnels != 0 }) {
        Ok(parsed) => {
            // SAFETY: this CPU's own copy; nothing else runs on it until the program returns.
            unsafe { *packet = parsed };
            PARSED
        }
        Err(why) => 1 + why as u64,
    }
}

/// What [`track`] returns; a number, since it is a BPF function of its own.
const TRACKED: u64 = 0;
const NO_SLOT: u64 = 1;

/// Adds the packet to its flow. A function of its own, so that the compiler cannot carry what the parser knew of the
/// packet into it; see [`PACKET`].
#[inline(never)]
fn track(counters: *mut InterfaceCounters, packet: *const Packet, now: u64) -> u64 {
    // SAFETY: both are values of per-CPU maps, looked up by the caller.
    let (counters, packet) = unsafe { (Counters::from_ptr(counters), &*packet) };
    let config = config();
    let place = Place::of(packet.key.hash(config.hash_seed), config.bucket_mask);
    let Ok(found) = find_or_open(&Table, &place, packet, now, &config.timeouts) else {
        counters.folded(packet);
        return NO_SLOT;
    };
    // SAFETY: the slot's tag is live, or was when it was found: until this program returns the entry is this flow's.
    let entry = unsafe { &mut *found.entry };
    let updated = entry.state.update(packet, now);
    counters.counted(packet, found.opened);
    if let Some(ended) = found.ended {
        emit(&counters, ended.slot, reason::CLOSING, ended.tag);
    }
    if found.opened && config.events_opened != 0 {
        emit(&counters, found.slot, reason::OPENED, found.tag);
    }
    if updated.checkpoint {
        emit(&counters, found.slot, reason::CHECKPOINT, found.tag);
    }
    if updated.closed {
        emit(&counters, found.slot, reason::CLOSING, found.tag);
    }
    TRACKED
}

/// Says in the log that packets found no slot, at each doubling of their number on this CPU.
#[inline(always)]
fn report_full<C: aya_ebpf::EbpfContext>(ctx: &C, counters: &Counters) {
    let folded = counters.folded_so_far();
    if folded & (folded - 1) == 0 {
        warn!(ctx, "no slot in the flow table: {} packets folded on this CPU so far", folded);
    }
}
