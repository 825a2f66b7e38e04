//! Both directions of a flow, and the one function that adds a packet to them.

use core::sync::atomic::{Ordering, compiler_fence};

use super::direction::{Direction, HEAD, completion};
use super::moments::{add_bit, microseconds};
use super::tcp::tcp_seen;
use crate::atomic::add_exact;
use crate::packet::{Packet, protocol};
use crate::time::SECOND;

/// A gap longer than this begins a new subflow (CICFlowMeter's definition).
pub const SUBFLOW_GAP: u64 = SECOND;
/// A gap longer than this ends an active period (CICFlowMeter's activity timeout).
pub const IDLE_GAP: u64 = 5 * SECOND;

/// What one update changed that the agent is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// The flow's packets reached a power of two, [`FIRST_CHECKPOINT`] or more.
    pub checkpoint: bool,
    /// The packet closed the connection.
    pub closed: bool,
}

/// Packets at which a living flow is scored for the first time; then at each doubling.
pub const FIRST_CHECKPOINT: u64 = 8;

/// Both directions of a flow, indexed by [`Packet::direction`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// From the key's endpoint a to b, and from b to a.
    pub directions: [Direction; 2],
}

impl FlowState {
    /// No packet yet.
    pub const EMPTY: Self = Self { directions: [Direction::EMPTY; 2] };

    /// Time of the first packet, ns; 0 if there is none.
    #[inline(always)]
    pub fn first(&self) -> u64 {
        let [a, b] = &self.directions;
        match if a.first < b.first { a.first } else { b.first } {
            u64::MAX => 0,
            first => first,
        }
    }

    /// Time of the last packet, ns; 0 if there is none.
    #[inline(always)]
    pub fn last(&self) -> u64 {
        let [a, b] = &self.directions;
        if a.last > b.last { a.last } else { b.last }
    }

    /// Time between the first and the last packet, ns.
    #[inline(always)]
    pub fn duration(&self) -> u64 {
        self.last().saturating_sub(self.first())
    }

    /// Time in the flows that this one continues after an active timeout, ns.
    #[inline(always)]
    pub fn earlier(&self) -> u64 {
        self.directions[0].earlier
    }

    /// Packets of both directions.
    #[inline(always)]
    pub fn packets(&self) -> u64 {
        self.directions[0].packets.wrapping_add(self.directions[1].packets)
    }

    /// Bytes of both directions.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.directions[0].bytes.wrapping_add(self.directions[1].bytes)
    }

    /// Adds a packet seen at `now` (ns). Time that steps back counts as standing still.
    #[inline(always)]
    pub fn update(&mut self, packet: &Packet, now: u64) -> Updated {
        self.add::<true>(packet, now)
    }

    /// Adds a packet to an aggregate of many flows. Sequence numbers and the close are left out: they make sense within one
    /// connection only.
    #[inline(always)]
    pub fn fold(&mut self, packet: &Packet, now: u64) -> Updated {
        self.add::<false>(packet, now)
    }

    #[inline(always)]
    fn add<const CONNECTION: bool>(&mut self, packet: &Packet, now: u64) -> Updated {
        let [a, b] = &mut self.directions;
        let (own, other) = if packet.direction & 1 == 0 { (a, &*b) } else { (b, &*a) };

        let segments = u64::from(packet.segments);
        let before = add_exact(&mut own.packets, segments);
        let first = before == 0;
        // Not complete: another CPU is adding a packet of this direction (a socket that several threads send through), or
        // one that was has lost against a third.
        if own.complete != completion(before) {
            own.overlaps = add_bit(own.overlaps, 1);
        }
        // Times are there once the first is no later than the last. A packet that another CPU is counting may have none yet.
        let own_seen = own.first <= own.last;
        let flow_first = if own.first < other.first { own.first } else { other.first };
        let own_last = own.last;
        let flow_last = if own_last > other.last { own_last } else { other.last };
        let flow_seen = flow_first <= flow_last;
        let now = if now < flow_last { flow_last } else { now };

        own.add_sizes(packet);
        if packet.header < own.header_min {
            own.header_min = packet.header;
        }

        if first {
            own.first = now;
        } else if own_seen {
            own.gaps.add(now.wrapping_sub(own_last));
        }
        if flow_seen {
            let gap = now.wrapping_sub(flow_last);
            own.flow_gaps.add(gap);
            if gap > SUBFLOW_GAP {
                own.subflow_gaps = add_bit(own.subflow_gaps, 1);
                if gap > IDLE_GAP {
                    let run_start =
                        if own.run_start > other.run_start { own.run_start } else { other.run_start };
                    let active = flow_last.saturating_sub(run_start);
                    if active != 0 {
                        own.active.add(active);
                    }
                    own.idle.add(gap);
                    own.run_start = now;
                }
            }
        } else {
            own.run_start = now;
        }
        own.last = now;

        if before < HEAD as u64 {
            let offset = microseconds(now.saturating_sub(flow_first));
            own.add_head(packet, before as usize, offset);
        }
        if segments > 1 {
            // The segments of a super-packet leave at one time.
            own.gaps.min = 0;
            own.flow_gaps.min = 0;
        }
        if packet.payload != 0 {
            own.add_bulk(other, packet, now);
        }
        let was_closed = own.has(tcp_seen::CLOSED);
        if packet.key.protocol == protocol::TCP && packet.header != 0 {
            own.add_flags(packet);
            own.add_window(packet, first);
            if CONNECTION {
                own.add_tcp(other, packet, now);
            }
        } else {
            if first {
                own.window_first = packet.window;
            }
            if packet.key.protocol == protocol::TCP {
                // A fragment without its header.
                own.no_ack = own.no_ack.wrapping_add(segments);
            }
        }

        let count = before.wrapping_add(segments);
        let total = count.wrapping_add(other.packets);
        // What another CPU is adding to the other direction right now counts as not yet there: it sees this packet
        // likewise, so that if both pass a checkpoint at once, it is told twice rather than never.
        let previous = total.wrapping_sub(segments).wrapping_sub(other.in_flight());
        let updated = Updated {
            // The highest bit of `total` is above that of `previous` exactly if their difference in bits exceeds it.
            checkpoint: total >= FIRST_CHECKPOINT && total ^ previous > previous,
            closed: !was_closed && own.has(tcp_seen::CLOSED),
        };
        // Everything above is written before this says so.
        compiler_fence(Ordering::Release);
        own.complete = completion(count);
        updated
    }
}
