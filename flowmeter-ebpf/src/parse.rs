//! A frame becomes a packet in [`PARSED`].

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use flowmeter_common::counter::Skip;
use flowmeter_common::key::KEY_WORDS;
#[cfg(feature = "test-programs")]
use flowmeter_common::packet::Packet;
use flowmeter_common::parse::{ParseOptions, parse_ethernet};

use crate::frame::{KernelFrame, SkbFacts};
use crate::maps::{PARSED, Parsed, config};

/// Bytes of headers that are made linear where a packet's are not: Ethernet, two tags, IPv6, six extension headers,
/// TCP without options.
const HEADERS: u32 = 256;

/// [`parse`] of what a socket buffer holds: a packet that leaves, or one that has arrived and been counted.
#[inline(always)]
pub fn leaving(ctx: &TcContext, parsed: *mut Parsed, facts: SkbFacts) -> u64 {
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
    (arrived(ctx.ctx, 0, 0, parsed) == WHOLE).then(|| unsafe { &raw const (*parsed).packet })
}

/// [`parse`] of a packet that arrived. This is not a BPF function of its own: on kernels that mitigate speculation, a return
/// takes as long as a quarter of the parser. Its thousands of ways still meet at its end. All that is left then is a packet in
/// [`PARSED`], about which the verifier knows nothing.
#[inline(always)]
pub fn arrived(ctx: *mut xdp_md, interface: u32, wire_len: usize, parsed: *mut Parsed) -> u64 {
    let mut frame = KernelFrame::of_xdp(&XdpContext::new(ctx), scratch(parsed));
    if wire_len != 0 {
        frame = frame.with_wire_len(wire_len);
    }
    parse(frame, &SkbFacts::none(interface), parsed)
}

/// [`parse`] of a packet that leaves, likewise; what the socket buffer says of it is in [`PARSED`], so that the verifier
/// need not go through the parser for each thing that it may say. Global, so that the verifier
/// looks at it once, and not for each of the two places that call it.
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

/// What parsing returns of a packet that is whole. Otherwise it is [`reason`]'s number plus one.
pub const WHOLE: u64 = 0;

/// The number of the [`Skip`] that an outcome other than [`WHOLE`] stands for.
#[inline(always)]
pub const fn reason(outcome: u64) -> u32 {
    outcome as u32 - 1
}

/// Parses the frame into `parsed` with its key's hash, and returns an outcome.
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
            // The key leaves the registers as whole words. If it were written in small pieces and then read in large ones,
            // the processor would wait until all pieces have reached the cache.
            let words = packet.key.to_words();
            // SAFETY: this CPU's own copy; nothing else runs on it until the program returns.
            unsafe {
                (*parsed).hash = config.hash_keys.hash(&words);
                (&raw mut (*parsed).packet.key).cast::<[u64; KEY_WORDS]>().write(words);
                packet.write_facts(&raw mut (*parsed).packet);
            }
            WHOLE
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
