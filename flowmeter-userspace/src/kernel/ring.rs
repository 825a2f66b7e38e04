//! Events from the kernel programs.

use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use flowmeter_common::event::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The ring buffer's reading end.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    /// The reading end of the programs' map of events.
    pub fn new(map: RingBuf<MapData>) -> Self {
        Self(map)
    }

    /// Sleeps for `longest`, or until the programs wake the reader: they do when the ring fills.
    pub fn wait(&self, longest: Duration) {
        let mut wanted = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let longest = longest.min(Duration::from_secs(1));
        let longest = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
        // An interruption is as good as a time that is over.
        let _ = poll(&mut wanted, Some(&longest));
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
