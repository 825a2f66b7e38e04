//! What the allow and deny lists say of a packet.

use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use flowmeter_common::key::kind;
use flowmeter_common::packet::protocol;
use flowmeter_common::prefilter::{ListKey, listed, which_list};

use crate::maps::{CONTROL, LISTS_1, LISTS_2, PARSED};

/// What the lists say of the packet in [`PARSED`]. A global function, which the verifier looks at once
/// and for itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flowmeter_listed() -> u64 {
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
