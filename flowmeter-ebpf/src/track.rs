//! From a parsed packet to an updated flow.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use flowmeter_common::aggregate;
use flowmeter_common::counter::Skip;
use flowmeter_common::event::reason;
use flowmeter_common::flow::{Entry, Opening};
use flowmeter_common::key::{KEY_WORDS, hash_words};
use flowmeter_common::lifecycle::Timeouts;
#[cfg(feature = "test-programs")]
use flowmeter_common::packet::Packet;
use flowmeter_common::parse::{ParseOptions, parse_ethernet};
use flowmeter_common::prefilter::Seen;
use flowmeter_common::table::{Hit, Memory, NoSlot, Place, find, find_living, find_or_open, slot_of, tag};

use crate::clock;
use crate::count::Counters;
use crate::emit::emit;
use crate::frame::{KernelFrame, SkbFacts};
use crate::log;
use crate::maps::{AGGREGATES, FLOWS, PARSED, Parsed, Table, config};
use crate::prefilter;

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
    meter_arrived::<false>(ctx, interface, wire_len, now);
}

/// [`arrived`]; where `FILTER` is set also notes what the pre-filter needs, and returns what it decides about.
#[inline(always)]
pub fn meter_arrived<const FILTER: bool>(
    ctx: &XdpContext,
    interface: u32,
    wire_len: usize,
    now: impl FnOnce() -> u64,
) -> Seen {
    let Some(counters) = Counters::seen(interface, 1) else {
        return Seen::SKIPPED;
    };
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return Seen::SKIPPED;
    };
    match parse_arrived(ctx.ctx, interface, wire_len, parsed) {
        0 => {
            let now = now();
            if FILTER {
                prefilter::note(parsed, now);
            }
            let entry = track(&counters, parsed, now);
            if entry.is_null() {
                report_full(ctx, &counters, 1);
                return Seen::FOLDED;
            }
            if FILTER { prefilter::mark_of(entry) } else { Seen::SKIPPED }
        }
        failed => {
            if FILTER {
                prefilter::note_time(parsed, now());
            }
            counters.skipped(failed as u32 - 1, 1);
            Seen::SKIPPED
        }
    }
}

/// Counts a packet that is about to leave.
#[inline(always)]
pub fn egress(ctx: &TcContext) {
    meter_leaving::<false>(ctx);
}

/// [`egress`], as [`meter_arrived`] is [`arrived`].
#[inline(always)]
pub fn meter_leaving<const FILTER: bool>(ctx: &TcContext) -> Seen {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return Seen::SKIPPED;
    };
    let facts = SkbFacts::of(ctx);
    let Some(counters) = Counters::seen(facts.interface, facts.segments) else {
        return Seen::SKIPPED;
    };
    match parse_buffer(ctx, parsed, facts) {
        0 => {
            let now = clock::now();
            if FILTER {
                prefilter::note(parsed, now);
            }
            let entry = track(&counters, parsed, now);
            if entry.is_null() {
                report_full(ctx, &counters, facts.segments);
                return Seen::FOLDED;
            }
            if FILTER { prefilter::mark_of(entry) } else { Seen::SKIPPED }
        }
        failed => {
            if FILTER {
                prefilter::note_time(parsed, clock::now());
            }
            counters.skipped(failed as u32 - 1, facts.segments);
            Seen::SKIPPED
        }
    }
}

/// Looks up, and does not count, a packet that has been counted before on its way in.
#[inline(always)]
pub fn look_up(ctx: &TcContext) -> Seen {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return Seen::SKIPPED;
    };
    let now = clock::now();
    if parse_buffer(ctx, parsed, SkbFacts::of(ctx)) != 0 {
        prefilter::note_time(parsed, now);
        return Seen::SKIPPED;
    }
    prefilter::note(parsed, now);
    // SAFETY: a value of a per-CPU map.
    let Parsed { packet, hash, .. } = unsafe { &*parsed };
    let entry = find(&FLOWS, &Place::of(*hash, config().buckets), packet).entry;
    if entry.is_null() { Seen::FOLDED } else { prefilter::mark_of(entry) }
}

/// [`parse`] of what a socket buffer holds.
#[inline(always)]
fn parse_buffer(ctx: &TcContext, parsed: *mut Parsed, facts: SkbFacts) -> u64 {
    // SAFETY: a field of a map's value.
    unsafe { (&raw mut (*parsed).facts).write_volatile(facts) };
    let partial = KernelFrame::of_tc(ctx, core::ptr::null_mut()).is_partial();
    let mut outcome = flowmeter_parse_leaving(ctx.skb.skb);
    if is_truncated(outcome) && partial {
        // The headers lie in fragments of the buffer. Pulling them together changes no byte of the packet.
        let length = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        if ctx.pull_data(length).is_ok() {
            outcome = flowmeter_parse_leaving(ctx.skb.skb);
        }
    }
    outcome
}

/// The packet, parsed and nothing else; `None` if it cannot be.
#[cfg(feature = "test-programs")]
#[inline(always)]
pub fn parsed(ctx: &XdpContext) -> Option<*const Packet> {
    let parsed = PARSED.get_ptr_mut(0)?;
    // SAFETY: a field of a map's value.
    (parse_arrived(ctx.ctx, 0, 0, parsed) == 0).then(|| unsafe { &raw const (*parsed).packet })
}

/// [`parse`] of a packet that arrived. Not a BPF function of its own: a return, on kernels that mitigate speculation,
/// takes as long as a quarter of the parser. Its thousands of ways meet at its end all the same, with nothing left but a
/// packet in [`PARSED`], about which the verifier knows nothing.
#[inline(always)]
fn parse_arrived(ctx: *mut xdp_md, interface: u32, wire_len: usize, parsed: *mut Parsed) -> u64 {
    let mut frame = KernelFrame::of_xdp(&XdpContext::new(ctx), scratch(parsed));
    if wire_len != 0 {
        frame = frame.with_wire_len(wire_len);
    }
    parse(frame, &SkbFacts::none(interface), parsed)
}

/// [`parse`] of a packet that leaves, likewise; what the socket buffer says of it is in [`PARSED`], so that the verifier
/// need not go through the parser for each thing that it may say. Global for the same reason as [`flowmeter_open`]: it
/// is called from two places.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_parse_leaving(ctx: *mut __sk_buff) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return 1 + Skip::TruncatedLink as u64;
    };
    // SAFETY: a field of a map's value. Volatile, so that it really comes from there.
    let facts = unsafe { (&raw const (*parsed).facts).read_volatile() };
    parse(KernelFrame::of_tc(&TcContext::new(ctx), scratch(parsed)), &facts, parsed)
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
    match parse_ethernet(&frame, facts.interface, ParseOptions { tunnels: config.tunnels != 0 }) {
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

/// Adds the packet to its flow, and returns its entry; null if there is no slot for it.
#[inline(always)]
fn track(counters: &Counters, parsed: *mut Parsed, now: u64) -> *mut Entry {
    // SAFETY: a value of a per-CPU map, looked up by the caller.
    let Parsed { packet, hash, .. } = unsafe { &*parsed };
    let config = config();
    let place = Place::of(*hash, config.buckets);
    let mut opened = false;
    let Hit { mut tag, mut entry, .. } = find_living(&FLOWS, &place, packet, now, &config.timeouts);
    if entry.is_null() {
        let outcome = flowmeter_open(now);
        if outcome & outcome::ENDED != 0 {
            // SAFETY: as above; read after they have been written.
            let (ended_slot, ended_tag) = unsafe {
                (
                    (&raw const (*parsed).ended_slot).read_volatile(),
                    (&raw const (*parsed).ended_tag).read_volatile(),
                )
            };
            emit(counters, ended_slot, reason::CLOSING, ended_tag);
        }
        if outcome & outcome::NO_SLOT == 0 {
            // SAFETY: as above.
            tag = unsafe { (&raw const (*parsed).tag).read_volatile() };
            opened = outcome & outcome::OPENED != 0;
            entry = FLOWS.entry(tag::entry(tag)).unwrap_or(core::ptr::null_mut());
        }
        if entry.is_null() {
            let aggregated = flowmeter_fold(now) == 0;
            // SAFETY: as above; read again, since it has been written.
            counters.folded(unsafe { &(*parsed).packet }, outcome & outcome::CONTENDED != 0, aggregated);
            return core::ptr::null_mut();
        }
    }
    // SAFETY: the slot's tag is live, or was when it was found: until this program returns the entry is this flow's.
    let updated = unsafe { (*entry).state.update(packet, now) };
    counters.counted(packet, opened);
    let told = opened && config.events_opened != 0;
    if told || updated.checkpoint || updated.closed {
        // Looked for once more: while it was kept, the verifier walked through the update for each slot that it may be.
        let slot = flowmeter_slot(tag);
        // A flow that has been retired meanwhile has been seen by the agent.
        if slot != NO_SLOT {
            let tell = |reason| emit(counters, slot as u32, reason, tag);
            if told {
                tell(reason::OPENED);
            }
            if updated.checkpoint {
                tell(reason::CHECKPOINT);
            }
            if updated.closed {
                tell(reason::CLOSING);
            }
        }
    }
    entry
}

/// What [`flowmeter_slot`] returns if there is none.
const NO_SLOT: u64 = u64::MAX;

/// The slot of the flow with this tag, which is that of the packet in [`PARSED`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_slot(tag: u64) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return NO_SLOT;
    };
    // SAFETY: a value of a per-CPU map.
    let place = Place::of(unsafe { (*parsed).hash }, config().buckets);
    slot_of(&FLOWS, &place, tag).map_or(NO_SLOT, u64::from)
}

/// What [`flowmeter_open`] returns: these bits. Tags are in [`Parsed`].
mod outcome {
    /// The packet opened the flow.
    pub const OPENED: u64 = 1;
    /// The packet ended a flow.
    pub const ENDED: u64 = 2;
    /// There is no slot.
    pub const NO_SLOT: u64 = 4;
    /// There is none because other CPUs kept claiming the same flow.
    pub const CONTENDED: u64 = 8;
}

/// [`find_or_open`] for the packet in [`PARSED`]. What few packets need, and what takes the verifier longest: a global
/// function, which it looks at once and for itself, and not again for each way that leads to it. With static ones
/// Linux 6.1 gives up. Therefore no pointers: it finds the packet by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_open(now: u64) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return outcome::NO_SLOT;
    };
    let config = config();
    // SAFETY: a value of a per-CPU map.
    let (hash, opening) = unsafe { ((*parsed).hash, Opening::of(&(*parsed).packet)) };
    open(&FLOWS, parsed, Place::of(hash, config.buckets), opening, now, &config.timeouts)
}

/// Adds the packet in [`PARSED`], whose flow has no slot, to its aggregate, and returns 0; 1 if that has none either.
/// What was parsed is written over. Global for the same reason as [`flowmeter_open`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_fold(now: u64) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: a value of a per-CPU map.
    let whole = unsafe { &mut (*parsed).packet };
    *whole = aggregate::of(whole);
    let hash = whole.key.hash(config().hash_seed);
    let place = Place::of(hash, aggregate::BUCKETS);
    let outcome = open(&AGGREGATES, parsed, place, aggregate::OPENING, now, &aggregate::TIMEOUTS);
    if outcome & outcome::NO_SLOT != 0 {
        return 1;
    }
    // SAFETY: a value of a per-CPU map; read after it has been written.
    let tag = unsafe { (&raw const (*parsed).tag).read_volatile() };
    let Some(entry) = AGGREGATES.entry(tag::entry(tag)) else {
        return 1;
    };
    // SAFETY: as in `track`.
    unsafe { (*entry).state.fold(&(*parsed).packet, now) };
    0
}

/// [`find_or_open`] with its result as bits, see [`outcome`].
#[inline(always)]
fn open(
    table: &Table,
    parsed: *mut Parsed,
    place: Place,
    opening: Opening,
    now: u64,
    timeouts: &Timeouts,
) -> u64 {
    // SAFETY: a value of a per-CPU map.
    let Parsed { packet, tag, ended_slot, ended_tag, .. } = unsafe { &mut *parsed };
    match find_or_open(table, &place, packet, opening, now, timeouts) {
        Ok(found) => {
            *tag = found.tag;
            let mut outcome = 0;
            if found.opened {
                outcome |= outcome::OPENED;
            }
            if let Some(ended) = found.ended {
                (*ended_slot, *ended_tag) = (ended.slot, ended.tag);
                outcome |= outcome::ENDED;
            }
            outcome
        }
        Err(NoSlot::Full) => outcome::NO_SLOT,
        Err(NoSlot::Contended) => outcome::NO_SLOT | outcome::CONTENDED,
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
        log::no_slot(ctx, folded);
    }
}
