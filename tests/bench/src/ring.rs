//! The reader of an event per packet, which does in userspace what FlowMeter does in the kernel.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, RingBuf};
use flowmeter::source::pcap::flow_table::{Flows, Parsed, TOGETHER};
use flowmeter_common::flow::Entry;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::packet::Packet;

/// What the programs send; as they have it.
#[repr(C)]
struct Event {
    packet: Packet,
    now: u64,
}

/// The ring's reading end, and the flows.
pub struct Reader {
    ring: RingBuf<MapData>,
    flows: Flows,
    batch: Vec<Parsed>,
}

impl Reader {
    /// A reader of the programs' map of events.
    ///
    /// # Errors
    /// The map is no ring.
    pub fn new(map: Map) -> Result<Self> {
        Ok(Self {
            ring: map.try_into().context("the packets' events are no ring")?,
            flows: Flows::new(Timeouts::default()),
            batch: Vec::with_capacity(TOGETHER),
        })
    }

    /// Waits for packets' events, asleep until it is woken, and adds them to their flows. Returns how many.
    ///
    /// # Errors
    /// Adding fails, which it does not.
    pub fn read(&mut self) -> Result<u64> {
        let mut wanted = libc::pollfd { fd: self.ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut wanted, 1, 2) };
        let mut taken = 0;
        while ready > 0
            && let Some(item) = self.ring.next()
        {
            let bytes: &[u8] = &item;
            if bytes.len() == size_of::<Event>() {
                // SAFETY: the length is an event's, which is made of integers.
                let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
                self.batch.push((Ok(event.packet), event.now));
            }
            taken += 1;
            if self.batch.len() == TOGETHER {
                self.flows.packets(&self.batch, &mut |_: &Entry, _| Ok(()))?;
                self.batch.clear();
            }
        }
        self.flows.packets(&self.batch, &mut |_: &Entry, _| Ok(()))?;
        self.batch.clear();
        Ok(taken)
    }
}
