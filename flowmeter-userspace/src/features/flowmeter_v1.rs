//! `flowmeter/v1`: the project's own features.
//!
//! No address, port, TTL or first window is among them: these name the place of a capture, not what happens in it.

use flowmeter_common::flow::tcp_seen;
use flowmeter_common::packet::protocol;

use super::view::{FlowView, Side, ratio};
use super::{Feature, FeatureSet, identity, row};

/// The set.
pub const SET: FeatureSet = FeatureSet {
    id: "flowmeter/v1",
    identity: &identity::OWN,
    context: false,
    description: "FlowMeter's own statistics of a flow. Sizes are IP lengths, payload is what follows the transport \
                  header; deviations are of the population; forward is from the initiator.",
    parts: &[&FLOW, &FORWARD, &BACKWARD, &TCP, &HEAD_PACKETS],
};

/// Rows of one direction, from one definition for both.
macro_rules! direction {
    ($prefix:literal, $words:literal, $side:ident) => {
        direction!(@rows $prefix, $words, $side,
            ("packets", "packets", "Packets", "never", |side, flow| side.packets());
            (int "bytes", "B", "Bytes of IP packets", "never", |side, flow| side.size.sum);
            (int "payload_bytes", "B", "Bytes after the transport header", "never", |side, flow| side.payload.sum);
            ("data_packets", "packets", "Packets with payload", "never", |side, flow| side.raw.data_packets as f64);
            ("size_mean", "B", "Mean IP length", "0 without packets", |side, flow| side.size.mean);
            ("size_pstd", "B", "Deviation of the IP length", "0 without packets", |side, flow| side.size.population_std());
            (int "size_min", "B", "Smallest IP length", "0 without packets", |side, flow| side.size.min);
            (int "size_max", "B", "Largest IP length", "0 without packets", |side, flow| side.size.max);
            ("payload_mean", "B", "Mean payload length", "0 without packets", |side, flow| side.payload.mean);
            ("payload_pstd", "B", "Deviation of the payload length", "0 without packets", |side, flow| side.payload.population_std());
            (int "payload_min", "B", "Smallest payload length", "0 without packets", |side, flow| side.payload.min);
            (int "payload_max", "B", "Largest payload length", "0 without packets", |side, flow| side.payload.max);
            ("gap_mean", "s", "Mean gap between successive packets", "0 with fewer than two packets", |side, flow| side.gap.mean);
            ("gap_pstd", "s", "Deviation of the gaps", "0 with fewer than two packets", |side, flow| side.gap.population_std());
            ("gap_min", "s", "Shortest gap", "0 with fewer than two packets", |side, flow| side.gap.min);
            ("gap_max", "s", "Longest gap", "0 with fewer than two packets", |side, flow| side.gap.max);
            ("span", "s", "Time between first and last packet", "0 with fewer than two packets", |side, flow| side.gap.sum);
            ("packets_per_second", "1/s", "Packets over the flow's duration", "over 1 µs where the duration is shorter", |side, flow| flow.rate(side.packets()));
            ("bytes_per_second", "B/s", "Bytes of IP packets over the flow's duration", "over 1 µs where the duration is shorter", |side, flow| flow.rate(side.size.sum));
            (int "header_bytes", "B", "Bytes of transport headers", "never", |side, flow| side.raw.header_bytes as f64);
            (int "header_min", "B", "Shortest transport header", "0 without packets", |side, flow| side.shortest_header());
            ("data_share", "1", "Share of packets with payload", "0 without packets", |side, flow| ratio(side.raw.data_packets as f64, side.packets()));
            ("fin", "packets", "Packets with FIN", "0 but for TCP", |side, flow| f64::from(side.raw.fin));
            ("syn", "packets", "Packets with SYN", "0 but for TCP", |side, flow| f64::from(side.raw.syn));
            ("rst", "packets", "Packets with RST", "0 but for TCP", |side, flow| f64::from(side.raw.rst));
            ("psh", "packets", "Packets with PSH", "0 but for TCP", |side, flow| side.raw.psh as f64);
            ("ack", "packets", "Packets with ACK", "0 but for TCP", |side, flow| side.acks as f64);
            ("urg", "packets", "Packets with URG", "0 but for TCP", |side, flow| f64::from(side.raw.urg));
            ("ece", "packets", "Packets with ECE", "0 but for TCP", |side, flow| f64::from(side.raw.ece));
            ("cwr", "packets", "Packets with CWR", "0 but for TCP", |side, flow| f64::from(side.raw.cwr));
            ("psh_share", "1", "Share of packets with PSH", "0 without packets", |side, flow| ratio(side.raw.psh as f64, side.packets()));
            ("pure_acks", "packets", "TCP packets with ACK and neither payload, SYN, FIN nor RST, at least", "0 but for TCP", |side, flow| (side.acks as f64 - side.raw.data_packets as f64 - f64::from(side.raw.syn) - f64::from(side.raw.fin) - f64::from(side.raw.rst)).max(0.0));
            ("zero_windows", "packets", "Packets with a window of zero, RST excepted", "0 but for TCP", |side, flow| f64::from(side.raw.zero_windows));
            ("retransmissions", "packets", "Segments that begin before the expected sequence number and fill no hole", "0 but for TCP", |side, flow| f64::from(side.raw.retransmissions));
            ("out_of_order", "packets", "Segments that fill a hole in the sequence numbers", "0 but for TCP", |side, flow| f64::from(side.raw.out_of_order));
            (int "bulks", "1", "Bulks: at least four packets with payload, no gap over 1 s, none of the peer's between", "never", |side, flow| f64::from(side.raw.bulks));
            ("bulk_packets", "packets/bulk", "Packets in bulks, per bulk", "0 without bulks", |side, flow| ratio(side.raw.bulk_packets as f64, f64::from(side.raw.bulks)));
            ("bulk_bytes", "B", "Payload bytes in bulks, per bulk", "0 without bulks", |side, flow| ratio(side.raw.bulk_bytes as f64, f64::from(side.raw.bulks)));
            ("bulk_rate", "B/s", "Payload bytes in bulks over the time in bulks", "0 without bulks, or where they took no time", |side, flow| ratio(side.raw.bulk_bytes as f64, side.raw.bulk_time as f64 / 1e9));
        )
    };
    (@rows $prefix:literal, $words:literal, $side:ident,
        $(($($kind:ident)? $name:literal, $unit:literal, $definition:literal, $undefined:literal, |$s:ident, $f:ident| $value:expr);)*) => {
        [$(row!(
            $($kind)? concat!($prefix, $name),
            $unit,
            concat!($definition, ", ", $words),
            $undefined,
            |$f| {
                fn value($s: &Side<'_>, $f: &FlowView<'_>) -> f64 {
                    let _ = $f;
                    $value
                }
                value(&$f.$side, $f)
            }
        )),*]
    };
}

pub(super) static FORWARD: [Feature; DIRECTION_ROWS] = direction!("forward_", "forward", forward);
pub(super) static BACKWARD: [Feature; DIRECTION_ROWS] = direction!("backward_", "backward", backward);
const DIRECTION_ROWS: usize = 39;

/// Both directions together.
pub(super) static FLOW: [Feature; 36] = [
    row!("duration", "s", "Time between the first and the last packet", "0 with one packet", |flow| flow
        .duration),
    row!("is_tcp", "0/1", "TCP", "never", |flow| flow.is(&[protocol::TCP])),
    row!("is_udp", "0/1", "UDP", "never", |flow| flow.is(&[protocol::UDP])),
    row!("is_icmp", "0/1", "ICMP or ICMPv6", "never", |flow| flow.is(&[protocol::ICMP, protocol::ICMPV6])),
    row!("packets", "packets", "Packets of both directions", "never", |flow| flow.packets()),
    row!(int "bytes", "B", "Bytes of IP packets of both directions", "never", |flow| flow.size.sum),
    row!(
        "packets_per_second",
        "1/s",
        "Packets over the duration",
        "over 1 µs where the duration is shorter",
        |flow| flow.rate(flow.packets())
    ),
    row!(
        "bytes_per_second",
        "B/s",
        "Bytes over the duration",
        "over 1 µs where the duration is shorter",
        |flow| flow.rate(flow.size.sum)
    ),
    row!("size_mean", "B", "Mean IP length of both directions", "never", |flow| flow.size.mean),
    row!("size_pstd", "B", "Deviation of the IP length", "never", |flow| { flow.size.population_std() }),
    row!(int "size_min", "B", "Smallest IP length", "never", |flow| flow.size.min),
    row!(int "size_max", "B", "Largest IP length", "never", |flow| flow.size.max),
    row!("payload_mean", "B", "Mean payload length of both directions", "never", |flow| flow.payload.mean),
    row!("payload_pstd", "B", "Deviation of the payload length", "never", |flow| flow
        .payload
        .population_std()),
    row!(int "payload_max", "B", "Largest payload length", "never", |flow| flow.payload.max),
    row!("payload_share", "1", "Payload bytes over IP bytes", "0 without bytes", |flow| ratio(
        flow.payload.sum,
        flow.size.sum
    )),
    row!(
        "gap_mean",
        "s",
        "Mean gap between successive packets of either direction",
        "0 with one packet",
        |flow| flow.gap.mean
    ),
    row!("gap_pstd", "s", "Deviation of the gaps", "0 with one packet", |flow| flow.gap.population_std()),
    row!("gap_min", "s", "Shortest gap", "0 with one packet", |flow| flow.gap.min),
    row!("gap_max", "s", "Longest gap", "0 with one packet", |flow| flow.gap.max),
    row!("gap_variation", "1", "Deviation of the gaps over their mean", "0 where the mean is 0", |flow| {
        ratio(flow.gap.population_std(), flow.gap.mean)
    }),
    row!("backward_packet_share", "1", "Backward packets over packets", "never", |flow| ratio(
        flow.backward.packets(),
        flow.packets()
    )),
    row!("backward_byte_share", "1", "Backward bytes over bytes", "0 without bytes", |flow| ratio(
        flow.backward.size.sum,
        flow.size.sum
    )),
    row!("backward_payload_share", "1", "Backward payload over payload", "0 without payload", |flow| ratio(
        flow.backward.payload.sum,
        flow.payload.sum
    )),
    row!("answered", "0/1", "Both directions have packets", "never", |flow| f64::from(
        flow.forward.raw.packets != 0 && flow.backward.raw.packets != 0
    )),
    row!(
        "answer_time",
        "s",
        "From the initiator's first packet to the other side's",
        "0 if one direction has none, or the answer was seen first",
        |flow| flow.answer_time()
    ),
    row!(int "subflow_gaps", "1", "Gaps over 1 s", "never", |flow| f64::from(flow.forward.raw.subflow_gaps)
        + f64::from(flow.backward.raw.subflow_gaps)),
    row!(
        "active_mean",
        "s",
        "Mean active period: a run without a gap over 5 s, longer than 0",
        "0 without one",
        |flow| flow.active.mean
    ),
    row!("active_pstd", "s", "Deviation of the active periods", "0 without one", |flow| flow
        .active
        .population_std()),
    row!("active_min", "s", "Shortest active period", "0 without one", |flow| flow.active.min),
    row!("active_max", "s", "Longest active period", "0 without one", |flow| flow.active.max),
    row!(int "idle_count", "1", "Gaps over 5 s", "never", |flow| flow.idle.count),
    row!("idle_mean", "s", "Mean gap over 5 s", "0 without one", |flow| { flow.idle.mean }),
    row!("idle_pstd", "s", "Deviation of the gaps over 5 s", "0 without one", |flow| flow
        .idle
        .population_std()),
    row!("idle_min", "s", "Shortest gap over 5 s", "0 without one", |flow| flow.idle.min),
    row!("idle_max", "s", "Longest gap over 5 s", "0 without one", |flow| { flow.idle.max }),
];

/// How the connection began and ended.
pub(super) static TCP: [Feature; 9] = [
    row!("tcp_syn_seen", "0/1", "A SYN without ACK opened it, as far as was seen", "0 but for TCP", |flow| {
        f64::from(flow.forward.raw.has(tcp_seen::SYN))
    }),
    row!("tcp_half_open", "0/1", "A SYN that no SYN+ACK answered", "0 but for TCP", |flow| f64::from(
        flow.forward.raw.has(tcp_seen::SYN) && !flow.backward.raw.has(tcp_seen::SYN)
    )),
    row!("tcp_established", "0/1", "SYN, SYN+ACK and ACK were seen", "0 but for TCP", |flow| f64::from(
        flow.handshake_time().is_some()
    )),
    row!(
        "tcp_handshake_time",
        "s",
        "From the SYN to the initiator's first ACK",
        "0 without a whole handshake",
        |flow| flow.handshake_time().unwrap_or(0.0)
    ),
    row!(
        "tcp_refused",
        "0/1",
        "The other side answered a SYN with RST, having sent no SYN",
        "0 but for TCP",
        |flow| f64::from(
            flow.forward.raw.has(tcp_seen::SYN)
                && flow.backward.raw.has(tcp_seen::RST)
                && !flow.backward.raw.has(tcp_seen::SYN)
        )
    ),
    row!("tcp_reset_forward", "0/1", "The initiator reset it", "0 but for TCP", |flow| f64::from(
        flow.forward.raw.has(tcp_seen::RST)
    )),
    row!("tcp_reset_backward", "0/1", "The other side reset it", "0 but for TCP", |flow| f64::from(
        flow.backward.raw.has(tcp_seen::RST)
    )),
    row!("tcp_closed", "0/1", "Closed by FIN both ways, or reset", "0 but for TCP", |flow| f64::from(
        flow.forward.raw.has(tcp_seen::CLOSED) || flow.backward.raw.has(tcp_seen::CLOSED)
    )),
    row!("tcp_graceful", "0/1", "FIN in both directions", "0 but for TCP", |flow| f64::from(
        flow.forward.raw.has(tcp_seen::FIN) && flow.backward.raw.has(tcp_seen::FIN)
    )),
];

/// The first packets, one by one.
pub(super) static HEAD_PACKETS: [Feature; 15] = [
    row!(
        int "packet_1_size",
        "B",
        "IP length of packet 1 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[0].size
    ),
    row!(
        int "packet_2_size",
        "B",
        "IP length of packet 2 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[1].size
    ),
    row!(
        int "packet_3_size",
        "B",
        "IP length of packet 3 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[2].size
    ),
    row!(
        int "packet_4_size",
        "B",
        "IP length of packet 4 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[3].size
    ),
    row!(
        int "packet_5_size",
        "B",
        "IP length of packet 5 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[4].size
    ),
    row!(
        int "packet_6_size",
        "B",
        "IP length of packet 6 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[5].size
    ),
    row!(
        int "packet_7_size",
        "B",
        "IP length of packet 7 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[6].size
    ),
    row!(
        int "packet_8_size",
        "B",
        "IP length of packet 8 of the flow, negative if it went backward; at most 65,535",
        "0 if there is none",
        |flow| flow.head[7].size
    ),
    row!("packet_2_gap", "s", "Time from packet 1 to packet 2, to 1 µs", "0 if there is none", |flow| flow
        .head[1]
        .gap),
    row!("packet_3_gap", "s", "Time from packet 2 to packet 3, to 1 µs", "0 if there is none", |flow| flow
        .head[2]
        .gap),
    row!("packet_4_gap", "s", "Time from packet 3 to packet 4, to 1 µs", "0 if there is none", |flow| flow
        .head[3]
        .gap),
    row!("packet_5_gap", "s", "Time from packet 4 to packet 5, to 1 µs", "0 if there is none", |flow| flow
        .head[4]
        .gap),
    row!("packet_6_gap", "s", "Time from packet 5 to packet 6, to 1 µs", "0 if there is none", |flow| flow
        .head[5]
        .gap),
    row!("packet_7_gap", "s", "Time from packet 6 to packet 7, to 1 µs", "0 if there is none", |flow| flow
        .head[6]
        .gap),
    row!("packet_8_gap", "s", "Time from packet 7 to packet 8, to 1 µs", "0 if there is none", |flow| flow
        .head[7]
        .gap),
];
