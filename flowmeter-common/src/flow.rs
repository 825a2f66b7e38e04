//! What a flow remembers, and the one function that adds a packet to it.
//!
//! A flow is two [`Direction`]s that share no written word: each is written by packets going its way, so that kernel
//! programs on two CPUs need no lock. What belongs to the flow as a whole (gaps between successive packets of either
//! direction, active periods) is recorded by the direction whose packet ends it; the flow's value is the merge of both.
//!
//! State is integers. Times are nanoseconds, gaps exact in nanoseconds; active and idle periods are kept in whole
//! microseconds. Means, deviations and rates are finished once, in userspace.
//!
//! A direction fills seven cache lines, an entry with its key fifteen. A packet touches the key's, the first three of its
//! own direction (and the fifth if it has payload), and the first of the other, where all stands that both directions read
//! of each packet.

use crate::atomic::add_exact;
use crate::config::SECOND;
use crate::key::FlowKey;
use crate::packet::{Packet, protocol, tcp_flags};
use core::mem::MaybeUninit;
use core::sync::atomic::{Ordering, compiler_fence};

/// Packets of each direction whose size and time are kept singly.
pub const HEAD: usize = 8;
/// A gap longer than this begins a new subflow (CICFlowMeter's definition).
pub const SUBFLOW_GAP: u64 = SECOND;
/// A gap longer than this ends an active period (CICFlowMeter's activity timeout).
pub const IDLE_GAP: u64 = 5 * SECOND;
/// Longest gap within a bulk (CICFlowMeter's definition).
pub const BULK_GAP: u64 = SECOND;
/// Packets with payload that make a bulk (CICFlowMeter's definition).
pub const BULK_PACKETS: u32 = 4;

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
}

/// Gaps between packets, in nanoseconds. Count and sum are those of the packets around them, and not kept twice.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// Sum of squares in ns², low half. A gap is at most the active timeout g = 3.6e12 ns and the gaps of a flow
    /// add up to no more, so the sum of squares is at most g² = 1.3e25 < 2^128 = 3.4e38.
    pub squares_low: u64,
    /// Sum of squares, high half.
    pub squares_high: u64,
    /// Shortest; `u64::MAX` if there is none.
    pub min: u64,
    /// Longest.
    pub max: u64,
}

impl Gaps {
    const EMPTY: Self = Self { squares_low: 0, squares_high: 0, min: u64::MAX, max: 0 };

    #[inline(always)]
    fn add(&mut self, gap: u64) {
        // Gaps below 4.3 s are squared in one multiplication; longer ones by halves: (h·2^32 + l)².
        let (low, high) = (gap & 0xffff_ffff, gap >> 32);
        let mut carry = 0;
        let mut square = low.wrapping_mul(low);
        if high != 0 {
            // high < 2^10 for an hour in ns, so that the cross term cannot overflow.
            let cross = (high.wrapping_mul(low)) << 1;
            carry = high.wrapping_mul(high).wrapping_add(cross >> 32);
            let (sum, over) = square.overflowing_add(cross << 32);
            square = sum;
            carry = carry.wrapping_add(over as u64);
        }
        let (sum, over) = self.squares_low.overflowing_add(square);
        self.squares_low = sum;
        self.squares_high = self.squares_high.wrapping_add(carry).wrapping_add(over as u64);
        if gap < self.min {
            self.min = gap;
        }
        if gap > self.max {
            self.max = gap;
        }
    }

    /// Sum of squares in ns².
    pub fn squares(&self) -> u128 {
        u128::from(self.squares_high) << 64 | u128::from(self.squares_low)
    }
}

/// Periods (of activity or of silence), in whole microseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// Sum. The periods of a flow are disjoint, so it is at most the active timeout, 3.6e9 µs.
    pub sum: u64,
    /// Sum of squares: at most (3.6e9)² = 1.3e19 < 2^64 = 1.8e19.
    pub squares: u64,
    /// Number.
    pub count: u32,
    /// Shortest: 3.6e9 < 2^32 = 4.3e9. `u32::MAX` if there is none.
    pub min: u32,
    /// Longest.
    pub max: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Periods {
    const EMPTY: Self = Self { sum: 0, squares: 0, count: 0, min: u32::MAX, max: 0, reserved: 0 };

    #[inline(always)]
    fn add(&mut self, nanoseconds: u64) {
        let period = microseconds(nanoseconds);
        self.sum = self.sum.wrapping_add(u64::from(period));
        self.squares = self.squares.wrapping_add(u64::from(period).wrapping_mul(u64::from(period)));
        self.count = self.count.wrapping_add(1);
        if period < self.min {
            self.min = period;
        }
        if period > self.max {
            self.max = period;
        }
    }
}

/// Adds 0 or 1 to a counter that stays at its largest value. Without a branch: the kernel's verifier follows both ways
/// of each, and six in a row make 64.
#[inline(always)]
const fn add_bit(counter: u32, bit: u32) -> u32 {
    let sum = counter as u64 + bit as u64;
    (sum - (sum >> 32)) as u32
}

/// As much of a length as 16 bits hold.
#[inline(always)]
fn capped(length: u32) -> u16 {
    if length > u32::from(u16::MAX) { u16::MAX } else { length as u16 }
}

/// Whole microseconds, at most `u32::MAX` (71 minutes).
#[inline(always)]
fn microseconds(nanoseconds: u64) -> u32 {
    let us = nanoseconds / 1000;
    if us > u64::from(u32::MAX) { u32::MAX } else { us as u32 }
}

/// One direction of a flow. See each field for its unit.
///
/// Counters of 32 bits stay at their largest value when they reach it; that takes an hour of 1.2 million packets a
/// second with that flag in one direction of one flow. What every packet adds to has 64 bits.
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
    /// Bits of [`tcp_seen`].
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
    /// Time at which a packet of this direction closed the connection, ns; valid with [`tcp_seen::CLOSED`].
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
    /// Gaps longer than [`SUBFLOW_GAP`] that a packet of this direction ended.
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
    /// Time of the first ACK without SYN, ns; valid with [`tcp_seen::ESTABLISHED`].
    pub established_at: u64,
    /// Time in the flows that this one continues after an active timeout, ns; kept in direction 0. At most the time
    /// since the first packet of the first: 2^64 ns are 584 years.
    pub earlier: u64,

    // Line 6: activity.
    /// Active periods (runs without a gap over [`IDLE_GAP`], of more than 0 ns) that a packet of this direction ended.
    pub active: Periods,
    /// Gaps over [`IDLE_GAP`] that a packet of this direction ended.
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
    /// Always zero.
    pub reserved: u32,
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
        reserved: 0,
    };

    /// Time of the first packet, ns; 0 if there is none.
    pub fn first_seen(&self) -> u64 {
        if self.packets == 0 { 0 } else { self.first }
    }

    /// Packets with ACK, of a flow of this protocol: nearly all of TCP, so that the others are counted.
    pub fn acks(&self, protocol: u8) -> u64 {
        if protocol == protocol::TCP { self.packets.saturating_sub(self.no_ack) } else { 0 }
    }

    /// True if it has shown all of these [`tcp_seen`] bits.
    #[inline(always)]
    pub fn has(&self, bits: u32) -> bool {
        self.tcp_seen & bits == bits
    }

    /// Sizes of `n` equal-header segments that add up to the packet: all but the last carry `segment` payload bytes.
    #[inline(always)]
    fn add_sizes(&mut self, packet: &Packet) {
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

    /// CICFlowMeter's bulk, mended (the peer's packets break it): packets with payload, no gap over [`BULK_GAP`]
    /// within, no payload of the peer between, at least [`BULK_PACKETS`].
    #[inline(always)]
    fn add_bulk(&mut self, other: &Self, packet: &Packet, now: u64) {
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

    #[inline(always)]
    fn add_tcp(&mut self, other: &Self, packet: &Packet, now: u64) {
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
            if finished || packet.has(tcp_flags::RST) {
                self.closed_at = now;
                // A reader that sees the bit must find the time.
                compiler_fence(Ordering::Release);
                self.tcp_seen |=
                    if finished { tcp_seen::CLOSED } else { tcp_seen::CLOSED | tcp_seen::CLOSED_BY_RESET };
            }
        }
    }

    #[inline(always)]
    fn add_flags(&mut self, packet: &Packet) {
        let n = packet.segments;
        let bit = |flag: u8| u32::from(packet.flags & flag != 0);
        self.psh = self.psh.wrapping_add(u64::from(bit(tcp_flags::PSH)));
        if packet.flags & !tcp_flags::PSH != tcp_flags::ACK {
            // Of a super-packet every segment carries ACK or none; the others are set on one segment only.
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
    fn add_window(&mut self, packet: &Packet, first: bool) {
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

/// What [`Direction::complete`] holds after the packet with this number: 31 bits of it, never 0.
#[inline(always)]
pub const fn completion(packets: u64) -> u32 {
    (packets as u32) << 1 | 1
}

/// What one update changed, for those who have to tell others.
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

    /// Adds a packet of one of an aggregate's many flows: what makes sense within one connection only, sequence numbers
    /// and its close, is left out.
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
        let flow_seen = !first || other.packets != 0;
        let flow_first = if own.first < other.first { own.first } else { other.first };
        let own_last = own.last;
        let flow_last = if own_last > other.last { own_last } else { other.last };
        let now = if now < flow_last { flow_last } else { now };

        own.add_sizes(packet);
        if packet.header < own.header_min {
            own.header_min = packet.header;
        }

        if first {
            own.first = now;
        } else {
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
        let previous = total.wrapping_sub(segments);
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

impl Direction {
    #[inline(always)]
    fn add_head(&mut self, packet: &Packet, at: usize, offset: u32) {
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

/// A flow in the table: who, and what it has done. Fifteen cache lines.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The flow's key.
    pub key: FlowKey,
    /// The latest verdict, written by the agent at once, and how often the entry has been opened; see
    /// [`crate::prefilter::mark`].
    pub verdict: u32,
    /// Direction (0 or 1) of the initiator's packets.
    pub initiator: u8,
    /// Why the flow was ended, written by who ended it; see [`crate::lifecycle::EndReason`].
    pub end_reason: u8,
    /// Not 0 once the flow's record has been given out although the slot is kept; written by the agent only, see
    /// [`crate::lifecycle::Fate::Cut`].
    pub reported: u16,
    /// Its counters.
    pub state: FlowState,
}

const _: () = assert!(size_of::<Entry>() == 960, "an entry fills fifteen cache lines");

impl Entry {
    /// A flow of which `packet` is the first, not yet counted.
    pub fn opened_by(packet: &Packet, opening: Opening) -> Self {
        let mut entry = MaybeUninit::uninit();
        // SAFETY: the entry is ours, and every word of it is written.
        unsafe {
            Self::write_opened(entry.as_mut_ptr(), packet, opening);
            entry.assume_init()
        }
    }

    /// Becomes what [`opened_by`](Self::opened_by) gives, whatever it was.
    pub fn open(&mut self, packet: &Packet, opening: Opening) {
        // SAFETY: nobody else can reach what is borrowed.
        unsafe { Self::write_opened(self, packet, opening) }
    }

    /// Writes what [`opened_by`](Self::opened_by) gives, word by word: an entry is larger than a BPF program's stack,
    /// so that it cannot be made there and moved.
    ///
    /// # Safety
    /// `entry` points to a writable entry that nobody else reads or writes.
    #[inline(always)]
    pub unsafe fn write_opened(entry: *mut Self, packet: &Packet, opening: Opening) {
        static EMPTY: Direction = Direction::EMPTY;
        const WORDS: usize = size_of::<Direction>() / 8;
        let source = core::ptr::from_ref(&EMPTY).cast::<u64>();
        // SAFETY: the caller owns the entry; both offsets stay within one direction of 8-byte words. Volatile, or the
        // compiler makes a call to memcpy of it, which the kernel's verifier walks through byte by byte.
        unsafe {
            (*entry).key = packet.key;
            (*entry).verdict = 0;
            (*entry).initiator = opening.initiator;
            (*entry).end_reason = 0;
            (*entry).reported = 0;
            let target = (&raw mut (*entry).state).cast::<u64>();
            let mut i = 0;
            while i < WORDS {
                let word = source.add(i).read();
                target.add(i).write_volatile(word);
                target.add(WORDS + i).write_volatile(word);
                i += 1;
            }
            (*entry).state.directions[0].earlier = opening.earlier;
        }
    }
}

/// What a new flow takes from outside of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Direction of the initiator's packets.
    pub initiator: u8,
    /// See [`Direction::earlier`].
    pub earlier: u64,
}

impl Opening {
    /// Of a flow that begins with `packet`: its sender is the initiator, unless it is a SYN+ACK, which only answers are.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        Self { initiator: packet.direction ^ packet.has(tcp_flags::SYN | tcp_flags::ACK) as u8, earlier: 0 }
    }

    /// Of a flow that goes on where the active timeout has cut `flow`: who opened that is still the initiator.
    #[inline(always)]
    pub fn continuing(flow: &Entry) -> Self {
        Self { initiator: flow.initiator, earlier: flow.state.earlier().wrapping_add(flow.state.duration()) }
    }
}
