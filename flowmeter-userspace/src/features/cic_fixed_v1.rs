//! `cic-fixed/v1`: the columns of CICFlowMeter with its defects mended.
//!
//! Names and order are those of the fork by Engelen, Rimmer and Joosen ("Troubleshooting an Intrusion Detection Dataset:
//! the CICIDS2017 Case Study", 2021), which has 93 columns before the label.

use super::view::{FlowView, ratio};
use super::{Feature, FeatureSet, identity, row};

/// The set.
pub const SET: FeatureSet = FeatureSet {
    id: "cic-fixed/v1",
    identity: &[
        identity::cic_flow_id("Flow ID"),
        identity::source_address("Src IP"),
        identity::source_port("Src Port"),
        identity::destination_address("Dst IP"),
        identity::destination_port("Dst Port"),
        identity::protocol("Protocol"),
        identity::first_seen("Timestamp"),
    ],
    context: false,
    description: "CICFlowMeter's columns under its names, in its units, with its defects mended: every packet is counted \
                  once, flags in all packets, bulks by direction, subflows as gaps and one, fractions not cut, the last \
                  active period included, never NaN. A packet's length is its payload, as in CICFlowMeter. Deviations \
                  are of the sample. Forward is from the initiator. Its timeouts are `--active-timeout 120s`.",
    parts: &[&SIZES_AND_GAPS, &FLAGS_AND_MEANS, &BULKS_AND_BEYOND],
};

/// A microsecond in nanoseconds, in which gaps are counted.
const US: f64 = 1e3;
/// A microsecond in microseconds, in which periods are counted.
const ONE: f64 = 1.0;

/// Per second of the flow's duration, or `otherwise` where there is none.
fn rate(flow: &FlowView<'_>, amount: f64, otherwise: f64) -> f64 {
    if flow.duration == 0.0 { otherwise } else { amount / flow.duration }
}

/// Gaps over one second, and one.
fn subflows(flow: &FlowView<'_>) -> f64 {
    f64::from(flow.forward.raw.subflow_gaps) + f64::from(flow.backward.raw.subflow_gaps) + 1.0
}

/// Packets with a flag in both directions.
macro_rules! flag {
    ($name:literal, $words:literal, $($field:ident).+) => {
        row!($name, "packets", concat!("Packets with ", $words), "0 but for TCP", |f| {
            f.forward.$($field).+ as f64 + f.backward.$($field).+ as f64
        })
    };
}

static SIZES_AND_GAPS: [Feature; 36] = [
    row!("Flow Duration", "µs", "Time between the first and the last packet", "0 with one packet", |f| {
        f.record.duration() as f64 / 1e3
    }),
    row!("Total Fwd Packet", "packets", "Packets, forward", "never", |f| f.forward.packets()),
    row!("Total Bwd packets", "packets", "Packets, backward", "never", |f| f.backward.packets()),
    row!(int "Total Length of Fwd Packet", "B", "Payload bytes, forward", "never", |f| f.forward.payload.sum),
    row!(int "Total Length of Bwd Packet", "B", "Payload bytes, backward", "never", |f| f.backward.payload.sum),
    row!(int "Fwd Packet Length Max", "B", "Largest payload, forward", "0 without packets", |f| f.forward.payload.max),
    row!(int "Fwd Packet Length Min", "B", "Smallest payload, forward", "0 without packets", |f| f.forward.payload.min),
    row!("Fwd Packet Length Mean", "B", "Mean payload, forward", "0 without packets", |f| f
        .forward
        .payload
        .mean),
    row!(
        "Fwd Packet Length Std",
        "B",
        "Deviation of the payload, forward",
        "0 with fewer than two packets",
        |f| { f.forward.payload.sample_std() }
    ),
    row!(int "Bwd Packet Length Max", "B", "Largest payload, backward", "0 without packets", |f| f.backward.payload.max),
    row!(int "Bwd Packet Length Min", "B", "Smallest payload, backward", "0 without packets", |f| f.backward.payload.min),
    row!("Bwd Packet Length Mean", "B", "Mean payload, backward", "0 without packets", |f| f
        .backward
        .payload
        .mean),
    row!(
        "Bwd Packet Length Std",
        "B",
        "Deviation of the payload, backward",
        "0 with fewer than two packets",
        |f| { f.backward.payload.sample_std() }
    ),
    row!("Flow Bytes/s", "B/s", "Payload bytes over the duration", "-1 without duration", |f| {
        rate(f, f.payload.sum, -1.0)
    }),
    row!("Flow Packets/s", "1/s", "Packets over the duration", "-1 without duration", |f| rate(
        f,
        f.packets(),
        -1.0
    )),
    row!(
        "Flow IAT Mean",
        "µs",
        "Mean gap between successive packets of either direction",
        "0 with one packet",
        |f| { f.gap.in_unit(US).mean }
    ),
    row!("Flow IAT Std", "µs", "Deviation of those gaps", "0 with fewer than two gaps", |f| f
        .gap
        .in_unit(US)
        .sample_std()),
    row!("Flow IAT Max", "µs", "Longest of those gaps", "0 with one packet", |f| f.gap.in_unit(US).max),
    row!("Flow IAT Min", "µs", "Shortest of those gaps", "0 with one packet", |f| f.gap.in_unit(US).min),
    row!(
        "Fwd IAT Total",
        "µs",
        "Time between the first and the last forward packet",
        "0 with fewer than two",
        |f| { f.forward.gap.in_unit(US).sum }
    ),
    row!(
        "Fwd IAT Mean",
        "µs",
        "Mean gap between successive forward packets",
        "0 with fewer than two",
        |f| { f.forward.gap.in_unit(US).mean }
    ),
    row!("Fwd IAT Std", "µs", "Deviation of those gaps", "0 with fewer than two gaps", |f| {
        f.forward.gap.in_unit(US).sample_std()
    }),
    row!("Fwd IAT Max", "µs", "Longest of those gaps", "0 with fewer than two packets", |f| f
        .forward
        .gap
        .in_unit(US)
        .max),
    row!("Fwd IAT Min", "µs", "Shortest of those gaps", "0 with fewer than two packets", |f| f
        .forward
        .gap
        .in_unit(US)
        .min),
    row!(
        "Bwd IAT Total",
        "µs",
        "Time between the first and the last backward packet",
        "0 with fewer than two",
        |f| { f.backward.gap.in_unit(US).sum }
    ),
    row!(
        "Bwd IAT Mean",
        "µs",
        "Mean gap between successive backward packets",
        "0 with fewer than two",
        |f| { f.backward.gap.in_unit(US).mean }
    ),
    row!("Bwd IAT Std", "µs", "Deviation of those gaps", "0 with fewer than two gaps", |f| {
        f.backward.gap.in_unit(US).sample_std()
    }),
    row!("Bwd IAT Max", "µs", "Longest of those gaps", "0 with fewer than two packets", |f| f
        .backward
        .gap
        .in_unit(US)
        .max),
    row!("Bwd IAT Min", "µs", "Shortest of those gaps", "0 with fewer than two packets", |f| f
        .backward
        .gap
        .in_unit(US)
        .min),
    row!("Fwd PSH Flags", "packets", "Packets with PSH, forward", "0 but for TCP", |f| f.forward.raw.psh
        as f64),
    row!("Bwd PSH Flags", "packets", "Packets with PSH, backward", "0 but for TCP", |f| f.backward.raw.psh
        as f64),
    row!("Fwd URG Flags", "packets", "Packets with URG, forward", "0 but for TCP", |f| f
        .forward
        .raw
        .urg
        .into()),
    row!("Bwd URG Flags", "packets", "Packets with URG, backward", "0 but for TCP", |f| f
        .backward
        .raw
        .urg
        .into()),
    row!("Fwd RST Flags", "packets", "Packets with RST, forward", "0 but for TCP", |f| f
        .forward
        .raw
        .rst
        .into()),
    row!("Bwd RST Flags", "packets", "Packets with RST, backward", "0 but for TCP", |f| f
        .backward
        .raw
        .rst
        .into()),
    row!(int "Fwd Header Length", "B", "Bytes of transport headers, forward", "never", |f| {
        f.forward.raw.header_bytes as f64
    }),
];

static FLAGS_AND_MEANS: [Feature; 20] = [
    row!(int "Bwd Header Length", "B", "Bytes of transport headers, backward", "never", |f| {
        f.backward.raw.header_bytes as f64
    }),
    row!("Fwd Packets/s", "1/s", "Forward packets over the duration", "0 without duration", |f| {
        rate(f, f.forward.packets(), 0.0)
    }),
    row!("Bwd Packets/s", "1/s", "Backward packets over the duration", "0 without duration", |f| {
        rate(f, f.backward.packets(), 0.0)
    }),
    row!(int "Packet Length Min", "B", "Smallest payload", "never", |f| f.payload.min),
    row!(int "Packet Length Max", "B", "Largest payload", "never", |f| f.payload.max),
    row!("Packet Length Mean", "B", "Mean payload", "never", |f| f.payload.mean),
    row!("Packet Length Std", "B", "Deviation of the payload", "0 with one packet", |f| f
        .payload
        .sample_std()),
    row!("Packet Length Variance", "B²", "Variance of the payload", "0 with one packet", |f| f
        .payload
        .sample_variance()),
    flag!("FIN Flag Count", "FIN", raw.fin),
    flag!("SYN Flag Count", "SYN", raw.syn),
    flag!("RST Flag Count", "RST", raw.rst),
    flag!("PSH Flag Count", "PSH", raw.psh),
    flag!("ACK Flag Count", "ACK", acks),
    flag!("URG Flag Count", "URG", raw.urg),
    flag!("CWR Flag Count", "CWR", raw.cwr),
    flag!("ECE Flag Count", "ECE", raw.ece),
    row!("Down/Up Ratio", "1", "Backward packets over forward packets", "0 without forward packets", |f| {
        ratio(f.backward.packets(), f.forward.packets())
    }),
    row!("Average Packet Size", "B", "Payload bytes over packets", "never", |f| f.payload.mean),
    row!("Fwd Segment Size Avg", "B", "Mean payload, forward", "0 without packets", |f| f
        .forward
        .payload
        .mean),
    row!("Bwd Segment Size Avg", "B", "Mean payload, backward", "0 without packets", |f| f
        .backward
        .payload
        .mean),
];

static BULKS_AND_BEYOND: [Feature; 30] = [
    row!("Fwd Bytes/Bulk Avg", "B", "Payload bytes in bulks, per bulk, forward", "0 without bulks", |f| {
        ratio(f.forward.raw.bulk_bytes as f64, f.forward.raw.bulks.into())
    }),
    row!("Fwd Packet/Bulk Avg", "1", "Packets in bulks, per bulk, forward", "0 without bulks", |f| {
        ratio(f.forward.raw.bulk_packets as f64, f.forward.raw.bulks.into())
    }),
    row!(
        "Fwd Bulk Rate Avg",
        "B/s",
        "Payload bytes in bulks over the time in bulks, forward",
        "0 without that time",
        |f| { ratio(f.forward.raw.bulk_bytes as f64, f.forward.raw.bulk_time as f64 / 1e9) }
    ),
    row!("Bwd Bytes/Bulk Avg", "B", "Payload bytes in bulks, per bulk, backward", "0 without bulks", |f| {
        ratio(f.backward.raw.bulk_bytes as f64, f.backward.raw.bulks.into())
    }),
    row!("Bwd Packet/Bulk Avg", "1", "Packets in bulks, per bulk, backward", "0 without bulks", |f| {
        ratio(f.backward.raw.bulk_packets as f64, f.backward.raw.bulks.into())
    }),
    row!(
        "Bwd Bulk Rate Avg",
        "B/s",
        "Payload bytes in bulks over the time in bulks, backward",
        "0 without that time",
        |f| { ratio(f.backward.raw.bulk_bytes as f64, f.backward.raw.bulk_time as f64 / 1e9) }
    ),
    row!("Subflow Fwd Packets", "1", "Forward packets over (gaps over 1 s, and one)", "never", |f| {
        f.forward.packets() / subflows(f)
    }),
    row!("Subflow Fwd Bytes", "B", "Forward payload bytes over (gaps over 1 s, and one)", "never", |f| {
        f.forward.payload.sum / subflows(f)
    }),
    row!("Subflow Bwd Packets", "1", "Backward packets over (gaps over 1 s, and one)", "never", |f| {
        f.backward.packets() / subflows(f)
    }),
    row!("Subflow Bwd Bytes", "B", "Backward payload bytes over (gaps over 1 s, and one)", "never", |f| {
        f.backward.payload.sum / subflows(f)
    }),
    row!(int "FWD Init Win Bytes", "B", "Window of the first forward packet, not scaled", "0 but for TCP", |f| {
        if f.is_tcp() { f.forward.raw.window_first.into() } else { 0.0 }
    }),
    row!(int "Bwd Init Win Bytes", "B", "Window of the first backward packet, not scaled", "0 but for TCP", |f| {
        if f.is_tcp() { f.backward.raw.window_first.into() } else { 0.0 }
    }),
    row!("Fwd Act Data Pkts", "packets", "Packets with payload, forward", "never", |f| {
        f.forward.raw.data_packets as f64
    }),
    row!("Bwd Act Data Pkts", "packets", "Packets with payload, backward", "never", |f| {
        f.backward.raw.data_packets as f64
    }),
    row!(int "Fwd Seg Size Min", "B", "Shortest transport header, forward", "0 without packets", |f| {
        f.forward.shortest_header()
    }),
    row!(int "Bwd Seg Size Min", "B", "Shortest transport header, backward", "0 without packets", |f| {
        f.backward.shortest_header()
    }),
    row!(
        "Active Mean",
        "µs",
        "Mean active period: a run without a gap over 5 s, longer than 0",
        "0 without one",
        |f| { f.active.in_unit(ONE).mean }
    ),
    row!("Active Std", "µs", "Deviation of the active periods", "0 with fewer than two", |f| f
        .active
        .in_unit(ONE)
        .sample_std()),
    row!("Active Max", "µs", "Longest active period", "0 without one", |f| f.active.in_unit(ONE).max),
    row!("Active Min", "µs", "Shortest active period", "0 without one", |f| f.active.in_unit(ONE).min),
    row!("Idle Mean", "µs", "Mean gap over 5 s", "0 without one", |f| f.idle.in_unit(ONE).mean),
    row!("Idle Std", "µs", "Deviation of the gaps over 5 s", "0 with fewer than two", |f| f
        .idle
        .in_unit(ONE)
        .sample_std()),
    row!("Idle Max", "µs", "Longest gap over 5 s", "0 without one", |f| f.idle.in_unit(ONE).max),
    row!("Idle Min", "µs", "Shortest gap over 5 s", "0 without one", |f| f.idle.in_unit(ONE).min),
    row!(int "ICMP Code", "number", "Code of the first message", "-1 but for ICMP", |f| {
        f.icmp().map_or(-1.0, |(_, code)| code.into())
    }),
    row!(int "ICMP Type", "number", "Type of the first message", "-1 but for ICMP", |f| {
        f.icmp().map_or(-1.0, |(message, _)| message.into())
    }),
    row!(
        "Fwd TCP Retrans. Count",
        "packets",
        "Segments that begin before the expected sequence number and fill no hole, forward",
        "0 but for TCP",
        |f| f.forward.raw.retransmissions.into()
    ),
    row!(
        "Bwd TCP Retrans. Count",
        "packets",
        "Segments that begin before the expected sequence number and fill no hole, backward",
        "0 but for TCP",
        |f| f.backward.raw.retransmissions.into()
    ),
    row!("Total TCP Retrans. Count", "packets", "Both of these", "0 but for TCP", |f| {
        f64::from(f.forward.raw.retransmissions) + f64::from(f.backward.raw.retransmissions)
    }),
    row!(
        "Total Connection Flow Time",
        "µs",
        "Flow Duration, and that of the flows which this one continues after an active timeout",
        "never",
        |f| (f.record.duration() + f.record.entry.state.earlier()) as f64 / 1e3
    ),
];

#[cfg(test)]
mod tests {
    use super::SET;

    #[test]
    fn the_columns_are_the_forks_93() {
        assert_eq!(SET.identity.len() + SET.names().len(), 93);
    }
}
