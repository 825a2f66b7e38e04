//! What a direction shows of a TCP connection: flags, windows, sequence numbers, its end.

use core::sync::atomic::{Ordering, compiler_fence};

use super::direction::Direction;
use super::moments::add_bit;
use crate::packet::{Packet, tcp_flags};

/// What a direction of a TCP connection has shown.
pub mod tcp_seen {
    /// A SYN.
    pub const SYN: u32 = 1;
    /// A FIN; [`Direction::fin_end`](super::Direction::fin_end) is valid.
    pub const FIN: u32 = 2;
    /// An RST.
    pub const RST: u32 = 4;
    /// [`Direction::next_sequence`](super::Direction::next_sequence) is valid.
    pub const SEQUENCE: u32 = 8;
    /// [`Direction::highest_ack`](super::Direction::highest_ack) is valid.
    pub const ACK: u32 = 16;
    /// There is a hole in the sequence numbers seen.
    pub const HOLE: u32 = 32;
    /// A packet of this direction closed the connection, at [`Direction::closed_at`](super::Direction::closed_at).
    pub const CLOSED: u32 = 64;
    /// [`Direction::established_at`](super::Direction::established_at) is valid.
    pub const ESTABLISHED: u32 = 128;
    /// It was an RST of this direction that closed the connection.
    pub const CLOSED_BY_RESET: u32 = 256;
    /// Data lies before the flow's SYN: the SYN was not the stream's own, and no RST of this direction can be believed.
    pub const DOUBTFUL: u32 = 512;
}

/// Payload bytes up to which a sequence number before the SYN's can only be another stream's.
const DOUBT_BELOW: u64 = 1 << 30;

impl Direction {
    #[inline(always)]
    pub(super) fn add_tcp(&mut self, other: &Self, packet: &Packet, now: u64) {
        let reset = packet.has(tcp_flags::RST) && self.accepts_reset(other, packet);
        self.add_sequence(packet);
        if packet.has(tcp_flags::ACK) {
            let ack = packet.acknowledgement;
            if !self.has(tcp_seen::ACK) || after(ack, self.highest_ack) {
                self.highest_ack = ack;
            }
            self.tcp_seen |= tcp_seen::ACK;
            if !packet.has(tcp_flags::SYN) && !self.has(tcp_seen::ESTABLISHED) {
                self.tcp_seen |= tcp_seen::ESTABLISHED;
                self.established_at = now;
            }
        }
        if !self.has(tcp_seen::CLOSED) && !other.has(tcp_seen::CLOSED) {
            let finished = self.has(tcp_seen::FIN | tcp_seen::ACK)
                && other.has(tcp_seen::FIN | tcp_seen::ACK)
                && !after(other.fin_end, self.highest_ack)
                && !after(self.fin_end, other.highest_ack);
            if finished || reset {
                self.closed_at = now;
                // A reader that sees the bit must find the time.
                compiler_fence(Ordering::Release);
                self.tcp_seen |=
                    if finished { tcp_seen::CLOSED } else { tcp_seen::CLOSED | tcp_seen::CLOSED_BY_RESET };
            }
        }
    }

    #[inline(always)]
    pub(super) fn add_flags(&mut self, packet: &Packet) {
        let n = packet.segments;
        let bit = |flag: u8| u32::from(packet.flags & flag != 0);
        self.psh = self.psh.wrapping_add(u64::from(bit(tcp_flags::PSH)));
        if packet.flags & !tcp_flags::PSH != tcp_flags::ACK {
            // In a super-packet every segment carries ACK or none does. The other flags are set on one segment only.
            self.no_ack = self.no_ack.wrapping_add(u64::from(bit(tcp_flags::ACK) ^ 1) * u64::from(n));
            self.fin = add_bit(self.fin, bit(tcp_flags::FIN));
            self.syn = add_bit(self.syn, bit(tcp_flags::SYN));
            self.rst = add_bit(self.rst, bit(tcp_flags::RST));
            self.urg = add_bit(self.urg, bit(tcp_flags::URG));
            self.ece = add_bit(self.ece, bit(tcp_flags::ECE));
            self.cwr = add_bit(self.cwr, bit(tcp_flags::CWR));
        }
    }

    #[inline(always)]
    pub(super) fn add_window(&mut self, packet: &Packet, first: bool) {
        let window = packet.window;
        if first {
            self.window_first = window;
        }
        if window < self.window_min {
            self.window_min = window;
        }
        if window > self.window_max {
            self.window_max = window;
        }
        if window == 0 && !packet.has(tcp_flags::RST) {
            self.zero_windows = add_bit(self.zero_windows, 1);
        }
    }

    /// True if the receiver of this direction's packets takes the RST for one of the connection's (RFC 9293 section
    /// 3.5.2, RFC 5961 section 3.2): its number is exactly the next that is expected, as this direction's packets or the
    /// other's acknowledgements say; or it acknowledges the SYN that it refuses. Any other is answered with a challenge, and
    /// closes nothing: whoever forges one does not end the flow. Where nothing is known nothing speaks against it.
    #[inline(always)]
    fn accepts_reset(&self, other: &Self, packet: &Packet) -> bool {
        if self.has(tcp_seen::DOUBTFUL) {
            return false;
        }
        if self.has(tcp_seen::SEQUENCE) && packet.sequence == self.next_sequence {
            return true;
        }
        if other.has(tcp_seen::ACK) && packet.sequence == other.highest_ack {
            return true;
        }
        if self.has(tcp_seen::SEQUENCE) || other.has(tcp_seen::ACK) {
            return false;
        }
        !other.has(tcp_seen::SEQUENCE)
            || packet.has(tcp_flags::ACK) && packet.acknowledgement == other.next_sequence
    }

    /// Follows the sequence numbers (RFC 9293 section 3.4). One hole is remembered, the latest.
    #[inline(always)]
    fn add_sequence(&mut self, packet: &Packet) {
        let syn = u32::from(packet.has(tcp_flags::SYN));
        let fin = u32::from(packet.has(tcp_flags::FIN));
        let start = packet.sequence;
        let length = packet.payload.wrapping_add(syn).wrapping_add(fin);
        let end = start.wrapping_add(length);
        if syn != 0 {
            self.tcp_seen |= tcp_seen::SYN;
            self.initial_sequence = start;
        }
        if fin != 0 {
            self.tcp_seen |= tcp_seen::FIN;
            self.fin_end = end;
        }
        if packet.has(tcp_flags::RST) {
            self.tcp_seen |= tcp_seen::RST;
            // The sequence number of a reset need not be the stream's.
            return;
        }
        if !self.has(tcp_seen::SEQUENCE) {
            self.tcp_seen |= tcp_seen::SEQUENCE;
            self.next_sequence = end;
            return;
        }
        if length == 0 {
            return;
        }
        // A stream of up to a gibibyte lies after its SYN, whatever the numbers wrap around.
        if self.has(tcp_seen::SYN)
            && syn == 0
            && after(self.initial_sequence, start)
            && self.payload_bytes < DOUBT_BELOW
        {
            self.tcp_seen |= tcp_seen::DOUBTFUL;
        }
        let next = self.next_sequence;
        if !after(next, start) {
            if start != next {
                self.tcp_seen |= tcp_seen::HOLE;
                self.hole_start = next;
                self.hole_end = start;
            }
            self.next_sequence = end;
        } else {
            if self.has(tcp_seen::HOLE) && !after(self.hole_start, start) && after(self.hole_end, start) {
                self.out_of_order = add_bit(self.out_of_order, 1);
                self.hole_start = end;
                if !after(self.hole_end, end) {
                    self.tcp_seen &= !tcp_seen::HOLE;
                }
            } else {
                self.retransmissions = add_bit(self.retransmissions, 1);
            }
            if after(end, next) {
                self.next_sequence = end;
            }
        }
    }
}

/// True if sequence number `a` comes after `b`, modulo 2^32 (RFC 9293 section 3.4).
#[inline(always)]
pub const fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}
