//! Accounting: every packet that is seen leaves by exactly one of these.

use flowmeter_common::config::counter_slot;
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::packet::Packet;

use crate::maps::{COUNTERS, config};

/// This CPU's counters of one interface. Programs run with bottom halves off, so that nothing interrupts an addition.
pub struct Counters(*mut InterfaceCounters);

impl Counters {
    /// Counts `packets` as seen on `interface`.
    #[inline(always)]
    pub fn seen(interface: u32, packets: u16) -> Option<Self> {
        let own = COUNTERS.get_ptr_mut(counter_slot(interface, config().interface_multiplier))?;
        let counters = Self(own);
        counters.with(|c| c.seen += u64::from(packets));
        Some(counters)
    }

    /// The packets could not be parsed, for the reason with this number of [`Skip`](flowmeter_common::counter::Skip).
    #[inline(always)]
    pub fn skipped(&self, reason: u32, packets: u16) {
        // The compiler knows which reasons there are; the kernel's verifier wants a check.
        let reason = core::hint::black_box(reason as usize);
        self.with(|c| {
            if let Some(counter) = c.skipped.get_mut(reason) {
                *counter += u64::from(packets);
            }
        });
    }

    /// The packet was counted in a flow, which it opened or not.
    #[inline(always)]
    pub fn counted(&self, packet: &Packet, opened: bool) {
        self.with(|c| {
            c.counted += u64::from(packet.segments);
            c.counted_bytes += packet.wire_bytes();
            c.opened += opened as u64;
        });
    }

    /// The table had no slot for the packet: if `contended`, because other CPUs claimed the same flow. `aggregated` says
    /// whether the aggregates had one.
    #[inline(always)]
    pub fn folded(&self, packet: &Packet, contended: bool, aggregated: bool) {
        let packets = u64::from(packet.segments);
        self.with(|c| {
            c.folded += packets;
            c.folded_bytes += packet.wire_bytes();
            if contended {
                c.contended += packets;
            }
            if !aggregated {
                c.unaggregated += packets;
            }
        });
    }

    /// Packets that found the table full on this CPU.
    #[inline(always)]
    pub fn full_so_far(&self) -> u64 {
        self.with(|c| c.folded.wrapping_sub(c.contended))
    }

    /// The ring buffer had no room for an event.
    #[inline(always)]
    pub fn event_lost(&self) {
        self.with(|c| c.events_lost += 1);
    }

    #[inline(always)]
    fn with<R>(&self, change: impl FnOnce(&mut InterfaceCounters) -> R) -> R {
        // SAFETY: a per-CPU map value, checked when it was looked up, touched by this CPU's running program only.
        change(unsafe { &mut *self.0 })
    }
}
