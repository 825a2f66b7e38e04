//! One direction of a flow: all counters that packets going one way write.
//!
//! A direction fills seven cache lines, and an entry with its key fifteen. A packet touches the key's line, the first three
//! of its own direction (with payload also the fifth), and the first of the other direction. That first line holds all
//! that packets of both directions read.

use super::moments::{Gaps, Periods};
use crate::atomic::add_exact;
use crate::packet::{Packet, protocol};

/// Packets of each direction whose size and time are kept singly.
pub const HEAD: usize = 8;

/// One direction of a flow. See each field for its unit.
///
/// Counters of 32 bits stay at their largest value when they reach it. That takes an hour of 1.2 million packets a second
/// with that flag, in one direction of one flow. Counters that every packet adds to have 64 bits.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    // Line 1: what the other direction's packets read, too, and what every packet of TCP changes.
    /// Packets. Exact under any concurrency; the first word that a packet changes.
    pub packets: u64,
    /// Time of the first packet, ns; `u64::MAX` before it, so that the earlier of two is the lesser.
    pub first: u64,
    /// Time of the last packet, ns; 0 before it.
    pub last: u64,
    /// Time of the last packet of the present (possible) bulk, ns; 0 before the first packet with payload.
    pub bulk_last: u64,
    /// Bits of [`tcp_seen`](super::tcp_seen).
    pub tcp_seen: u32,
    /// Highest acknowledgement sent.
    pub highest_ack: u32,
    /// Sequence number expected next.
    pub next_sequence: u32,
    /// [`completion`] of `packets` after the last update that came to its end; 0 before the first did. A reader that
    /// finds the two in agreement, and again after copying, has a copy that no update tore.
    pub complete: u32,
    /// Packets with PSH.
    pub psh: u64,
    /// Window of the first packet, not scaled; of ICMP the first message's type and code, see [`Packet::window`].
    pub window_first: u16,
    /// Smallest window, not scaled; `u16::MAX` if there is none.
    pub window_min: u16,
    /// Largest window, not scaled.
    pub window_max: u16,
    /// Shortest transport header in bytes; `u16::MAX` if there is none.
    pub header_min: u16,

    // Line 2: sizes.
    /// Bytes of IP packets. Exact under any concurrency.
    pub bytes: u64,
    /// Sum of squared IP lengths. At most the largest length times `bytes`: 65,575 x 1.8e14 B (an hour at 400 Gbit/s)
    /// = 1.2e19 < 2^64 = 1.8e19.
    pub bytes_squares: u64,
    /// Bytes after the transport header.
    pub payload_bytes: u64,
    /// Sum of squared payload lengths, bounded like `bytes_squares`.
    pub payload_squares: u64,
    /// Packets with payload.
    pub data_packets: u64,
    /// Bytes of transport headers.
    pub header_bytes: u64,
    /// Smallest IP length; `u32::MAX` if there is none.
    pub size_min: u32,
    /// Largest IP length.
    pub size_max: u32,
    /// Smallest payload length; `u32::MAX` if there is none.
    pub payload_min: u32,
    /// Largest payload length.
    pub payload_max: u32,

    // Line 3: gaps.
    /// Gaps between successive packets of this direction.
    pub gaps: Gaps,
    /// Gaps between successive packets of the flow that a packet of this direction ended.
    pub flow_gaps: Gaps,

    // Line 4: what few packets change.
    /// Time at which a packet of this direction closed the connection, ns; valid with [`tcp_seen::CLOSED`](super::tcp_seen::CLOSED).
    pub closed_at: u64,
    /// Start of the present active period, if a packet of this direction began it, ns.
    pub run_start: u64,
    /// Packets of TCP without ACK, see [`acks`](Self::acks).
    pub no_ack: u64,
    /// Sequence number after the FIN.
    pub fin_end: u32,
    /// Packets with a window of zero, RST excepted.
    pub zero_windows: u32,
    /// Packets with FIN.
    pub fin: u32,
    /// Packets with SYN.
    pub syn: u32,
    /// Packets with RST.
    pub rst: u32,
    /// Packets with URG.
    pub urg: u32,
    /// Packets with ECE.
    pub ece: u32,
    /// Packets with CWR.
    pub cwr: u32,
    /// Gaps longer than [`SUBFLOW_GAP`](super::SUBFLOW_GAP) that a packet of this direction ended.
    pub subflow_gaps: u32,
    /// Segments that begin before the expected sequence number and fill no hole.
    pub retransmissions: u32,

    // Line 5: bulks.
    /// Time of the first packet of the present (possible) bulk, ns; valid if `bulk_count` is not 0.
    pub bulk_start: u64,
    /// Packets in bulks.
    pub bulk_packets: u64,
    /// Payload bytes in bulks.
    pub bulk_bytes: u64,
    /// Time in bulks, ns.
    pub bulk_time: u64,
    /// Packets of the present (possible) bulk; stays at its largest value.
    pub bulk_count: u32,
    /// Payload bytes of the present bulk while it is only possible: fewer than four packets' worth.
    pub bulk_pending: u32,
    /// Bulks.
    pub bulks: u32,
    /// Sequence number of the (latest) SYN.
    pub initial_sequence: u32,
    /// Time of the first ACK without SYN, ns; valid with [`tcp_seen::ESTABLISHED`](super::tcp_seen::ESTABLISHED).
    pub established_at: u64,
    /// Time in the flows that this one continues after an active timeout, ns; kept in direction 0. At most the time
    /// since the first packet of the first: 2^64 ns are 584 years.
    pub earlier: u64,

    // Line 6: activity.
    /// Active periods (runs without a gap over [`IDLE_GAP`](super::IDLE_GAP), of more than 0 ns) that a packet of this direction ended.
    pub active: Periods,
    /// Gaps over [`IDLE_GAP`](super::IDLE_GAP) that a packet of this direction ended.
    pub idle: Periods,

    // Line 7: the first packets, and what is rare of TCP.
    /// Time of the first packets since the flow's first, µs, at most `u32::MAX`.
    pub head_offsets: [u32; HEAD],
    /// IP length of the first packets, at most `u16::MAX`.
    pub head_sizes: [u16; HEAD],
    /// Start of the latest hole in the sequence numbers.
    pub hole_start: u32,
    /// End of that hole.
    pub hole_end: u32,
    /// Segments that fill a hole: late, or sent again after a loss before this point.
    pub out_of_order: u32,
    /// Updates that began while another CPU was in the middle of one of this direction, and those right after. Packets and
    /// bytes are exact all the same; other sums may lack some of these updates.
    pub overlaps: u32,
}

const _: () = assert!(size_of::<Direction>() == 448, "a direction fills seven cache lines");

impl Direction {
    /// No packet yet.
    pub const EMPTY: Self = Self {
        packets: 0,
        bytes: 0,
        bytes_squares: 0,
        payload_bytes: 0,
        payload_squares: 0,
        data_packets: 0,
        size_min: u32::MAX,
        size_max: 0,
        payload_min: u32::MAX,
        payload_max: 0,
        first: u64::MAX,
        last: 0,
        gaps: Gaps::EMPTY,
        header_bytes: 0,
        complete: 0,
        subflow_gaps: 0,
        flow_gaps: Gaps::EMPTY,
        no_ack: 0,
        psh: 0,
        fin: 0,
        syn: 0,
        rst: 0,
        urg: 0,
        ece: 0,
        cwr: 0,
        next_sequence: 0,
        highest_ack: 0,
        fin_end: 0,
        initial_sequence: 0,
        hole_start: 0,
        hole_end: 0,
        zero_windows: 0,
        retransmissions: 0,
        out_of_order: 0,
        tcp_seen: 0,
        window_first: 0,
        window_min: u16::MAX,
        window_max: 0,
        header_min: u16::MAX,
        closed_at: 0,
        bulk_start: 0,
        bulk_last: 0,
        bulk_packets: 0,
        bulk_bytes: 0,
        bulk_time: 0,
        bulk_count: 0,
        bulk_pending: 0,
        bulks: 0,
        established_at: 0,
        active: Periods::EMPTY,
        idle: Periods::EMPTY,
        head_offsets: [0; HEAD],
        head_sizes: [0; HEAD],
        run_start: 0,
        earlier: 0,
        overlaps: 0,
    };

    /// Time of the first packet, ns; 0 if there is none.
    pub fn first_seen(&self) -> u64 {
        if self.packets == 0 { 0 } else { self.first }
    }

    /// Packets with ACK, in a flow of this protocol. Nearly all TCP packets have it, so those without are counted.
    pub fn acks(&self, protocol: u8) -> u64 {
        if protocol == protocol::TCP { self.packets.saturating_sub(self.no_ack) } else { 0 }
    }

    /// Packets that have been counted, but whose update has not come to its end.
    #[inline(always)]
    pub(super) const fn in_flight(&self) -> u64 {
        (self.packets as u32).wrapping_sub(self.complete) as u64
    }

    /// True if it has shown all of these [`tcp_seen`](super::tcp_seen) bits.
    #[inline(always)]
    pub fn has(&self, bits: u32) -> bool {
        self.tcp_seen & bits == bits
    }

    /// Sizes of `n` equal-header segments that add up to the packet: all but the last carry `segment` payload bytes.
    #[inline(always)]
    pub(super) fn add_sizes(&mut self, packet: &Packet) {
        let n = u64::from(packet.segments);
        if n <= 1 {
            let (size, payload) = (u64::from(packet.size), u64::from(packet.payload));
            add_exact(&mut self.bytes, size);
            self.bytes_squares = self.bytes_squares.wrapping_add(size.wrapping_mul(size));
            self.payload_bytes = self.payload_bytes.wrapping_add(payload);
            self.payload_squares = self.payload_squares.wrapping_add(payload.wrapping_mul(payload));
            self.data_packets = self.data_packets.wrapping_add((payload != 0) as u64);
            self.header_bytes = self.header_bytes.wrapping_add(u64::from(packet.header));
            self.extremes(packet.size, packet.payload);
        } else {
            self.add_segments(packet, n);
        }
    }

    /// A segmentation super-packet: `n` wire packets, each with all headers, of which the first n - 1 carry the same
    /// payload and the last the rest.
    #[inline(always)]
    fn add_segments(&mut self, packet: &Packet, n: u64) {
        let headers = u64::from(packet.headers());
        let payload = u64::from(packet.payload);
        let segment = u64::from(packet.segment_payload);
        let rest = payload.saturating_sub(segment.wrapping_mul(n - 1));
        let (full_size, rest_size) = (segment + headers, rest + headers);
        add_exact(&mut self.bytes, packet.wire_bytes());
        self.bytes_squares = self
            .bytes_squares
            .wrapping_add(full_size.wrapping_mul(full_size).wrapping_mul(n - 1))
            .wrapping_add(rest_size.wrapping_mul(rest_size));
        self.payload_bytes = self.payload_bytes.wrapping_add(payload);
        self.payload_squares = self
            .payload_squares
            .wrapping_add(segment.wrapping_mul(segment).wrapping_mul(n - 1))
            .wrapping_add(rest.wrapping_mul(rest));
        self.data_packets = self.data_packets.wrapping_add(n);
        self.header_bytes = self.header_bytes.wrapping_add(u64::from(packet.header).wrapping_mul(n));
        self.extremes(full_size as u32, segment as u32);
        self.extremes(rest_size as u32, rest as u32);
    }

    #[inline(always)]
    fn extremes(&mut self, size: u32, payload: u32) {
        if size < self.size_min {
            self.size_min = size;
        }
        if size > self.size_max {
            self.size_max = size;
        }
        if payload < self.payload_min {
            self.payload_min = payload;
        }
        if payload > self.payload_max {
            self.payload_max = payload;
        }
    }

    #[inline(always)]
    pub(super) fn add_head(&mut self, packet: &Packet, at: usize, offset: u32) {
        let n = if packet.segments == 0 { 1 } else { u32::from(packet.segments) };
        let headers = packet.headers();
        let rest = packet.payload.saturating_sub(packet.segment_payload.wrapping_mul(n - 1));
        let full = capped(headers.wrapping_add(packet.segment_payload));
        let last = capped(headers.wrapping_add(rest));
        // All but the last segment are full. Counted up to a constant, which bounds the loop for the kernel's verifier.
        let full_segments = n as usize - 1;
        let mut i = 0;
        while i < HEAD && i != full_segments && at + i < HEAD {
            self.set_head(at + i, full, offset);
            i += 1;
        }
        if at + i < HEAD {
            self.set_head(at + i, last, offset);
        }
    }

    #[inline(always)]
    fn set_head(&mut self, place: usize, size: u16, offset: u32) {
        // The compiler sees that the place is one of these, and would drop the remainder; the kernel's verifier may have
        // lost sight of it.
        let place = core::hint::black_box(place) % HEAD;
        self.head_sizes[place] = size;
        self.head_offsets[place] = offset;
    }
}

/// As much of a length as 16 bits hold.
#[inline(always)]
fn capped(length: u32) -> u16 {
    if length > u32::from(u16::MAX) { u16::MAX } else { length as u16 }
}

/// What [`Direction::complete`] holds after so many packets: as much of their number as 32 bits hold.
#[inline(always)]
pub const fn completion(packets: u64) -> u32 {
    packets as u32
}
