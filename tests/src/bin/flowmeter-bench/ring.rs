//! The reader of an event per packet.

use std::os::fd::AsRawFd as _;

use aya::maps::{MapData, RingBuf};

/// Waits for packets' events as their reader does, asleep until it is woken, and takes them. Returns how many.
pub fn take_packets(ring: &mut RingBuf<MapData>) -> u64 {
    let mut wanted = libc::pollfd { fd: ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    let ready = unsafe { libc::poll(&raw mut wanted, 1, 2) };
    let mut taken = 0;
    while ready > 0 && ring.next().is_some() {
        taken += 1;
    }
    taken
}
