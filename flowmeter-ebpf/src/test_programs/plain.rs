//! The two plain ways to meter flows in the kernel, as a yardstick: with the same parser, and the same update.

use aya_ebpf::bindings::bpf_spin_lock;
use aya_ebpf::btf_maps::{HashMap, RingBuf};
use aya_ebpf::helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use flowmeter_common::flow::{FlowState, Opening};
use flowmeter_common::key::FlowKey;
use flowmeter_common::packet::Packet;

use crate::clock;
use crate::parse;

/// Words of a flow's state.
const WORDS: usize = size_of::<FlowState>() / 8;
/// `BPF_NOEXIST` (linux/bpf.h).
const NO_EXIST: u64 = 1;

/// A flow as a hash map holds it: the kernel gives values an alignment of eight bytes, and finds the lock by its type.
#[repr(C)]
#[derive(Clone, Copy)]
struct Locked {
    lock: bpf_spin_lock,
    initiator: u32,
    earlier: u64,
    state: [u64; WORDS],
}

/// Flows by key. Sized by the benchmark before loading.
#[btf_map]
static HASH: HashMap<FlowKey, Locked, 1> = HashMap::new();

/// A flow without packets, to be copied into the map. Written by the benchmark.
#[map]
static EMPTY_FLOW: PerCpuArray<[u64; size_of::<Locked>() / 8]> = PerCpuArray::with_max_entries(1, 0);

/// What userspace needs to do the update itself.
#[repr(C)]
struct Event {
    packet: Packet,
    now: u64,
}

/// One of each packet; the reader is woken as the kernel has it by default.
#[btf_map]
static PACKET_EVENTS: RingBuf<Event, { 1 << 22 }> = RingBuf::new();

/// Finds the packet's flow in the hash map, or puts it there; updates it under its lock.
#[inline(always)]
pub fn hash_spinlock(ctx: &XdpContext) {
    if let Some(packet) = parse::parsed(ctx) {
        update_locked(packet);
    }
}

/// A function of its own, as [`track`](crate::track) has one for the shipped table.
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a value would be copied onto the stack of 512 bytes first"
)]
#[inline(never)]
fn update_locked(packet: *const Packet) -> u64 {
    // SAFETY: a value of a per-CPU map, looked up by the caller.
    let packet = unsafe { &*packet };
    let now = clock::now();
    let found = match HASH.get_ptr_mut(&packet.key) {
        Some(flow) => flow,
        None => {
            let Some(empty) = EMPTY_FLOW.get_ptr_mut(0) else {
                return 1;
            };
            // SAFETY: this CPU's own copy, as large as a flow.
            let empty = unsafe { &mut *empty.cast::<Locked>() };
            let opening = Opening::of(packet);
            empty.initiator = u32::from(opening.initiator);
            empty.earlier = opening.earlier;
            // Another CPU may have been faster; its flow is as good.
            let _ = HASH.insert(&packet.key, &*empty, NO_EXIST);
            match HASH.get_ptr_mut(&packet.key) {
                Some(flow) => flow,
                None => return 1,
            }
        }
    };
    // SAFETY: a value of the map, which lives until the program returns, guarded by its lock. Its words are those of a
    // flow's state; BPF has no alignment beyond a word's.
    unsafe {
        lock(&raw mut (*found).lock);
        let state = &mut *(&raw mut (*found).state).cast::<FlowState>();
        state.update(packet, now);
        unlock(&raw mut (*found).lock);
    }
    0
}

/// Sends what was parsed.
#[inline(always)]
pub fn event_per_packet(ctx: &XdpContext) {
    let Some(packet) = parse::parsed(ctx) else {
        return;
    };
    if let Some(mut event) = PACKET_EVENTS.reserve(0) {
        // SAFETY: a value of a per-CPU map.
        let packet = unsafe { *packet };
        event.write(Event { packet, now: clock::now() });
        event.submit(0);
    }
}
