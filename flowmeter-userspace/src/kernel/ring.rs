//! Events from the kernel programs.

use std::os::fd::AsRawFd as _;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use flowmeter_common::event::Event;

/// The ring buffer's reading end.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    /// The reading end of the programs' map of events.
    pub fn new(map: RingBuf<MapData>) -> Self {
        Self(map)
    }

    /// Sleeps for `longest`, or until the programs wake the reader: they do when the ring fills.
    pub fn wait(&self, longest: Duration) {
        let mut wanted = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = longest.as_millis().min(1000) as libc::c_int;
        // SAFETY: one pollfd, which outlives the call. An interruption is as good as a time that is over.
        unsafe { libc::poll(&raw mut wanted, 1, milliseconds) };
    }

    /// Takes the next event, if there is one.
    pub fn take(&mut self) -> Option<Event> {
        let item = self.0.next()?;
        let bytes: &[u8] = &item;
        if bytes.len() != size_of::<Event>() {
            return None;
        }
        // SAFETY: the length is an event's, and every bit pattern is one.
        Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
    }
}
