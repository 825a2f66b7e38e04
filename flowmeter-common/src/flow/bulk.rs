//! Bulks: runs of packets with payload that go one way (CICFlowMeter's definition).

use super::direction::Direction;
use super::moments::add_bit;
use crate::packet::Packet;
use crate::time::SECOND;

/// Longest gap within a bulk (CICFlowMeter's definition).
pub const BULK_GAP: u64 = SECOND;
/// Packets with payload that make a bulk (CICFlowMeter's definition).
pub const BULK_PACKETS: u32 = 4;

impl Direction {
    /// CICFlowMeter's bulk, mended (the peer's packets break it): packets with payload, no gap over [`BULK_GAP`]
    /// within, no payload of the peer between, at least [`BULK_PACKETS`].
    #[inline(always)]
    pub(super) fn add_bulk(&mut self, other: &Self, packet: &Packet, now: u64) {
        let payload = packet.payload;
        let broken = other.bulk_last > self.bulk_start;
        if self.bulk_count == 0 || broken || now.saturating_sub(self.bulk_last) > BULK_GAP {
            self.bulk_start = now;
            self.bulk_count = 0;
            self.bulk_pending = 0;
        }
        let before = self.bulk_count;
        self.bulk_count = before.saturating_add(u32::from(packet.segments));
        if before >= BULK_PACKETS {
            self.bulk_packets = self.bulk_packets.wrapping_add(u64::from(packet.segments));
            self.bulk_bytes = self.bulk_bytes.wrapping_add(u64::from(payload));
            self.bulk_time = self.bulk_time.wrapping_add(now.saturating_sub(self.bulk_last));
        } else {
            self.bulk_pending = self.bulk_pending.wrapping_add(payload);
            if self.bulk_count >= BULK_PACKETS {
                self.bulks = add_bit(self.bulks, 1);
                self.bulk_packets = self.bulk_packets.wrapping_add(u64::from(self.bulk_count));
                self.bulk_bytes = self.bulk_bytes.wrapping_add(u64::from(self.bulk_pending));
                self.bulk_time = self.bulk_time.wrapping_add(now.saturating_sub(self.bulk_start));
            }
        }
        self.bulk_last = now;
    }
}
