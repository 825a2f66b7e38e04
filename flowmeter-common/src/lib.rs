//! What the kernel and userspace share: one parser, one flow update, one lifecycle, one table protocol.
//!
//! Reading order is the way of the data:
//!
//! 1. [`frame`]: the one door through which packet bytes enter, checked.
//! 2. [`parse`]: a frame becomes a [`packet::Packet`], or a named reason why it is not counted.
//! 3. [`key`]: which flow a packet belongs to, and in which direction it goes; [`hash`]: where it is looked for.
//! 4. [`flow`]: what a flow remembers; integers only, one update function.
//! 5. [`lifecycle`]: when a flow ends, by packets and by the clock.
//! 6. [`table`]: how kernel and agent share the memory that flows live in.
//! 7. [`aggregate`]: what a full table does with a packet.
//! 8. [`counter`] and [`event`]: every way not to be counted, and what the kernel tells the agent.
//! 9. [`prefilter`]: what becomes of a packet, if the agent does more than watch.
//!
//! Nothing here allocates, panics, reads a clock or uses floating point: the same code runs as eBPF.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", allow(internal_features))]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]

pub mod aggregate;
pub mod atomic;
pub mod config;
pub mod counter;
pub mod event;
pub mod flow;
pub mod frame;
pub mod hash;
pub mod key;
pub mod lifecycle;
pub mod packet;
pub mod parse;
pub mod prefilter;
pub mod table;
pub mod time;

/// Types that go between kernel and userspace as bytes.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for crate::config::KernelConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::counter::InterfaceCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::prefilter::PrefilterConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::prefilter::PrefilterCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::prefilter::Control {}
}
