//! A flow as the features see it: by who began it, with counts and sums finished into means and deviations.

use flowmeter_common::flow::{Direction, FIRST_CHECKPOINT, Gaps, HEAD, Periods, tcp_seen};
use flowmeter_common::key::kind;
use flowmeter_common::packet::protocol;

use crate::context::Surroundings;
use crate::record::FlowRecord;

/// Nanoseconds in a second.
const NS: f64 = 1e9;
/// Shortest time that a rate is taken over, in seconds: rates of flows without duration stay finite.
const SHORTEST: f64 = 1e-6;

const _: () =
    assert!(HEAD as u64 <= FIRST_CHECKPOINT, "the first packets are complete at the first checkpoint");

/// Mean, deviation and extremes of a finite set of values; all 0 if it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Number of values.
    pub count: f64,
    /// Sum.
    pub sum: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// Sum, least, greatest and `n·Σx² - (Σx)²` in the unit that was counted in, to be exact in any other.
    counted: [f64; 4],
    /// The unit of the other fields, in that one.
    unit: f64,
}

impl Moments {
    /// Finishes integer sums. `n·Σx² - (Σx)²` is computed exactly: for an hour in nanoseconds and 2^32 gaps it is
    /// below 2^112.
    fn finish(count: u64, sum: u128, squares: u128, min: u64, max: u64, unit: f64) -> Self {
        if count == 0 {
            return Self::default();
        }
        let n = u128::from(count);
        let spread = n.saturating_mul(squares).saturating_sub(sum.saturating_mul(sum));
        let counted = [sum as f64, min as f64, max as f64, spread as f64];
        Self { count: count as f64, counted, ..Self::default() }.in_unit(unit)
    }

    /// The same in another unit, given in the one that was counted in (gaps: nanoseconds; periods: microseconds).
    #[inline(always)]
    pub fn in_unit(&self, unit: f64) -> Self {
        if self.count == 0.0 {
            return *self;
        }
        let [sum, min, max, _] = self.counted;
        Self {
            count: self.count,
            sum: sum / unit,
            mean: sum / self.count / unit,
            min: min / unit,
            max: max / unit,
            counted: self.counted,
            unit,
        }
    }

    /// Deviation of the population: over n. 0 if it is empty.
    pub fn population_std(&self) -> f64 {
        if self.count == 0.0 { 0.0 } else { self.counted[3].sqrt() / self.count / self.unit }
    }

    /// Variance of the sample: over n - 1. 0 for fewer than two values.
    pub fn sample_variance(&self) -> f64 {
        if self.count < 2.0 {
            return 0.0;
        }
        self.counted[3] / (self.count * (self.count - 1.0)) / (self.unit * self.unit)
    }

    /// Deviation of the sample: the root of its variance.
    pub fn sample_std(&self) -> f64 {
        self.sample_variance().sqrt()
    }

    fn of_periods(periods: &[&Periods], extra: Option<u64>) -> Self {
        let (mut count, mut sum, mut squares, mut min, mut max) = (0_u64, 0_u128, 0_u128, u64::MAX, 0_u64);
        for p in periods {
            count += u64::from(p.count);
            sum += u128::from(p.sum);
            squares += u128::from(p.squares);
            min = min.min(u64::from(p.min));
            max = max.max(u64::from(p.max));
        }
        if let Some(last) = extra {
            count += 1;
            sum += u128::from(last);
            squares += u128::from(last) * u128::from(last);
            min = min.min(last);
            max = max.max(last);
        }
        Self::finish(count, sum, squares, min, max, 1e6)
    }
}

/// `a / b`, or 0 where b is 0.
pub fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// One of the flow's first packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadPacket {
    /// IP length in bytes, negative if it went backward.
    pub size: f64,
    /// Time since the packet before, in seconds.
    pub gap: f64,
}

/// One direction.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The counters.
    pub raw: &'a Direction,
    /// Packets with ACK.
    pub acks: u64,
    /// IP lengths, bytes.
    pub size: Moments,
    /// Payload lengths, bytes.
    pub payload: Moments,
    /// Gaps between successive packets of this direction, seconds.
    pub gap: Moments,
}

impl<'a> Side<'a> {
    fn new(raw: &'a Direction, protocol: u8) -> Self {
        let n = raw.packets;
        Self {
            raw,
            acks: raw.acks(protocol),
            size: Moments::finish(
                n,
                raw.bytes.into(),
                raw.bytes_squares.into(),
                raw.size_min.into(),
                raw.size_max.into(),
                1.0,
            ),
            payload: Moments::finish(
                n,
                raw.payload_bytes.into(),
                raw.payload_squares.into(),
                raw.payload_min.into(),
                raw.payload_max.into(),
                1.0,
            ),
            gap: gaps(n.saturating_sub(1), raw.last.saturating_sub(raw.first), &[&raw.gaps]),
        }
    }

    /// Time between the first and the last packet, ns.
    pub fn span(&self) -> u64 {
        self.raw.last.saturating_sub(self.raw.first)
    }

    /// Shortest transport header in bytes; 0 without packets.
    pub fn shortest_header(&self) -> f64 {
        if self.raw.packets == 0 { 0.0 } else { f64::from(self.raw.header_min) }
    }

    /// Packets, as a number to calculate with.
    pub fn packets(&self) -> f64 {
        self.raw.packets as f64
    }
}

/// Of `count` gaps that add up to `sum` ns, squares and extremes being kept in parts.
fn gaps(count: u64, sum: u64, parts: &[&Gaps]) -> Moments {
    let squares = parts.iter().map(|g| g.squares()).sum();
    let min = parts.iter().map(|g| g.min).min().unwrap_or(0);
    let max = parts.iter().map(|g| g.max).max().unwrap_or(0);
    Moments::finish(count, sum.into(), squares, min, max, NS)
}

/// A flow, ready for the features.
#[derive(Clone, Copy, Debug)]
pub struct FlowView<'a> {
    /// The record it was made of.
    pub record: &'a FlowRecord,
    /// What surrounds it.
    pub context: &'a Surroundings,
    /// From the initiator.
    pub forward: Side<'a>,
    /// To the initiator.
    pub backward: Side<'a>,
    /// Time between first and last packet, seconds.
    pub duration: f64,
    /// IP lengths of both directions, bytes.
    pub size: Moments,
    /// Payload lengths of both directions, bytes.
    pub payload: Moments,
    /// Gaps between successive packets of either direction, seconds.
    pub gap: Moments,
    /// Active periods, the last one included, seconds.
    pub active: Moments,
    /// Gaps over five seconds, seconds.
    pub idle: Moments,
    /// The first packets of either direction, in order of time.
    pub head: [HeadPacket; HEAD],
}

impl<'a> FlowView<'a> {
    /// Finishes a record's counters.
    pub fn new(record: &'a FlowRecord) -> Self {
        let side = |direction| Side::new(direction, record.entry.key.protocol);
        let (forward, backward) = (side(record.forward()), side(record.backward()));
        let (f, b) = (forward.raw, backward.raw);
        let packets = f.packets + b.packets;
        let both = |sum: [u64; 2], squares: [u64; 2], min: [u32; 2], max: [u32; 2]| {
            Moments::finish(
                packets,
                sum.iter().map(|&x| u128::from(x)).sum(),
                squares.iter().map(|&x| u128::from(x)).sum(),
                min[0].min(min[1]).into(),
                max[0].max(max[1]).into(),
                1.0,
            )
        };
        let run_start = f.run_start.max(b.run_start);
        let last_run = record.entry.state.last().saturating_sub(run_start) / 1000;
        Self {
            record,
            context: record.context.as_deref().unwrap_or(&Surroundings::NONE),
            duration: record.duration() as f64 / NS,
            size: both(
                [f.bytes, b.bytes],
                [f.bytes_squares, b.bytes_squares],
                [f.size_min, b.size_min],
                [f.size_max, b.size_max],
            ),
            payload: both(
                [f.payload_bytes, b.payload_bytes],
                [f.payload_squares, b.payload_squares],
                [f.payload_min, b.payload_min],
                [f.payload_max, b.payload_max],
            ),
            gap: gaps(packets.saturating_sub(1), record.duration(), &[&f.flow_gaps, &b.flow_gaps]),
            active: Moments::of_periods(&[&f.active, &b.active], (last_run != 0).then_some(last_run)),
            idle: Moments::of_periods(&[&f.idle, &b.idle], None),
            head: head(f, b),
            forward,
            backward,
        }
    }

    /// Packets of both directions.
    pub fn packets(&self) -> f64 {
        self.forward.packets() + self.backward.packets()
    }

    /// Gaps between successive packets of each direction, of both directions together: not those between successive
    /// packets of the flow, which are [`gap`](Self::gap). Seconds.
    pub fn direction_gaps(&self) -> Moments {
        let (f, b) = (self.forward.raw, self.backward.raw);
        let count = f.packets.saturating_sub(1) + b.packets.saturating_sub(1);
        let sum = f.last.saturating_sub(f.first) + b.last.saturating_sub(b.first);
        gaps(count, sum, &[&f.gaps, &b.gaps])
    }

    /// Type and code of the first ICMP message; `None` for other protocols, and for fragments that do not show it.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let key = &self.record.entry.key;
        if !matches!(key.protocol, protocol::ICMP | protocol::ICMPV6) || key.kind == kind::FRAGMENT {
            return None;
        }
        let (f, b) = (self.forward.raw, self.backward.raw);
        let backward_first = b.first < f.first;
        let [message, code] = (if backward_first { b } else { f }).window_first.to_be_bytes();
        Some((message, code))
    }

    /// Per second, over the flow's duration but no less than a microsecond.
    pub fn rate(&self, amount: f64) -> f64 {
        amount / self.duration.max(SHORTEST)
    }

    /// 1 if the flow has this IANA protocol number, else 0.
    pub fn is(&self, numbers: &[u8]) -> f64 {
        f64::from(numbers.contains(&self.record.entry.key.protocol))
    }

    /// True if it is TCP with its header seen.
    pub fn is_tcp(&self) -> bool {
        self.record.entry.key.protocol == protocol::TCP
    }

    /// Time from the initiator's first packet, a SYN, to the answering side's first, in seconds.
    pub fn answer_time(&self) -> f64 {
        if self.backward.raw.packets == 0 || self.forward.raw.packets == 0 {
            return 0.0;
        }
        self.backward.raw.first.saturating_sub(self.forward.raw.first) as f64 / NS
    }

    /// Time from the first SYN to the initiator's first ACK after it, in seconds, if both directions sent a SYN.
    pub fn handshake_time(&self) -> Option<f64> {
        let (f, b) = (self.forward.raw, self.backward.raw);
        let complete = f.has(tcp_seen::SYN | tcp_seen::ESTABLISHED) && b.has(tcp_seen::SYN);
        complete.then(|| f.established_at.saturating_sub(f.first) as f64 / NS)
    }
}

/// Merges the first packets of both directions by time; at equal times forward goes first.
fn head(forward: &Direction, backward: &Direction) -> [HeadPacket; HEAD] {
    let mut merged = [HeadPacket::default(); HEAD];
    let (mut f, mut b) = (0_usize, 0_usize);
    let (f_count, b_count) =
        (forward.packets.min(HEAD as u64) as usize, backward.packets.min(HEAD as u64) as usize);
    let mut before = 0;
    for place in &mut merged {
        let take_forward = match (f < f_count, b < b_count) {
            (true, true) => forward.head_offsets[f] <= backward.head_offsets[b],
            (true, false) => true,
            (false, true) => false,
            (false, false) => break,
        };
        let (size, offset) = if take_forward {
            f += 1;
            (f64::from(forward.head_sizes[f - 1]), forward.head_offsets[f - 1])
        } else {
            b += 1;
            (-f64::from(backward.head_sizes[b - 1]), backward.head_offsets[b - 1])
        };
        *place = HeadPacket { size, gap: f64::from(offset.saturating_sub(before)) / 1e6 };
        before = offset;
    }
    merged
}
