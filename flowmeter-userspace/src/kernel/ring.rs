//! Events from the kernel programs.

use aya::maps::{MapData, RingBuf};
use flowmeter_common::event::Event;

/// The ring buffer's reading end.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    /// The reading end of the programs' map of events.
    pub fn new(map: RingBuf<MapData>) -> Self {
        Self(map)
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
