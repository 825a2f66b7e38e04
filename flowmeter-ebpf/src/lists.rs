//! What the allow and deny lists say of a packet.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::programs::{TcContext, XdpContext};
use flowmeter_common::key::kind;
use flowmeter_common::packet::protocol;
use flowmeter_common::parse::address_pair;
use flowmeter_common::prefilter::{ListKey, listed, which_list};

use crate::frame::KernelFrame;
use crate::maps::{CONTROL, LISTS_1, LISTS_2, PARSED};

/// What the lists say of the packet in [`PARSED`].
#[inline(always)]
pub fn parsed() -> u32 {
    flowmeter_listed() as u32
}

/// What they say of a packet that arrived and could not be parsed, if it has an IP header.
#[inline(always)]
pub fn unparsed_arrived(ctx: &XdpContext) -> u32 {
    flowmeter_listed_arrived(ctx.ctx) as u32
}

/// The same of a packet in a socket buffer.
#[inline(always)]
pub fn unparsed_buffer(ctx: &TcContext) -> u32 {
    flowmeter_listed_buffer(ctx.skb.skb) as u32
}

/// Global, like all functions here that few packets need: the verifier looks at each once and for itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_listed_arrived(ctx: *mut xdp_md) -> u64 {
    listed_pair(|scratch| KernelFrame::of_xdp(&XdpContext::new(ctx), scratch))
}

/// As [`flowmeter_listed_arrived`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_listed_buffer(ctx: *mut __sk_buff) -> u64 {
    listed_pair(|scratch| KernelFrame::of_tc(&TcContext::new(ctx), scratch))
}

/// What the lists say of the frame's address pair.
#[inline(always)]
fn listed_pair(frame: impl FnOnce(*mut u32) -> KernelFrame) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return listed::NONE.into();
    };
    // SAFETY: fields of a value of a per-CPU map, which holds no packet now.
    let (scratch, target) = unsafe { (&raw mut (*parsed).packet.sequence, &raw mut (*parsed).packet.key) };
    match address_pair(&frame(scratch)) {
        Some(key) => {
            // SAFETY: as above.
            unsafe { target.write(key) };
            flowmeter_listed()
        }
        None => listed::NONE.into(),
    }
}

/// What the lists say of the packet in [`PARSED`]. A global function, which the verifier looks at once
/// and for itself.
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
    which_list(a_port, a, b_port, b)
}
