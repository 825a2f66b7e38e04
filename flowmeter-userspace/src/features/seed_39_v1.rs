//! `seed-39/v1`: the 39 features of Deepfence FlowMeter, in its units.
//!
//! Source: `deepfence/FlowMeter`, the packages `packetAnalyzer` and `flowFields`. Kept for models fitted on its columns.

use super::view::{FlowView, Moments, Side};
use super::{Feature, FeatureSet, identity, row};

/// The set.
pub const SET: FeatureSet = FeatureSet {
    id: "seed-39/v1",
    identity: &identity::OWN,
    context: false,
    description: "The 39 features of Deepfence FlowMeter under its names, in its units: sizes are frame lengths (IP length and \
                  14 bytes of Ethernet, padding not counted), times are nanoseconds, means and deviations of times in \
                  whole microseconds. Its defects are mended: the first packet counts everywhere, deviations take in \
                  every gap, flows are not frozen at 83 packets, rates take a duration of at least 1 µs. Forward is from \
                  the initiator, where its own training data had every packet backward. `IAT` means the gaps of each \
                  direction, taken together.",
    parts: &[&FEATURES],
};

/// Bytes of a frame beyond its IP packet.
const ETHERNET: f64 = 14.0;

/// A nanosecond, in which gaps are counted.
const NS: f64 = 1.0;

/// Nanoseconds cut to whole microseconds.
fn cut(nanoseconds: f64) -> f64 {
    (nanoseconds / 1e3).floor() * 1e3
}

/// Per nanosecond of the duration.
fn rate(flow: &FlowView<'_>, amount: f64) -> f64 {
    amount / (flow.record.duration() as f64).max(1e3)
}

/// Frame bytes.
fn total(sizes: &Moments) -> f64 {
    sizes.sum + sizes.count * ETHERNET
}

/// A statistic of frame lengths, 0 without packets.
fn frame(sizes: &Moments, statistic: f64) -> f64 {
    if sizes.count == 0.0 { 0.0 } else { statistic + ETHERNET }
}

fn side_rate(flow: &FlowView<'_>, side: &Side<'_>) -> f64 {
    rate(flow, side.packets())
}

static FEATURES: [Feature; 39] = [
    row!(int "flowDuration", "ns", "Time between the first and the last packet", "0 with one packet", |f| {
        f.record.duration() as f64
    }),
    row!("flowLength", "packets", "Packets", "never", |f| f.packets()),
    row!("fwdFlowLength", "packets", "Packets, forward", "never", |f| f.forward.packets()),
    row!("bwdFlowLength", "packets", "Packets, backward", "never", |f| f.backward.packets()),
    row!(int "packetSizeTotal", "B", "Frame bytes", "never", |f| total(&f.size)),
    row!("packetSizeMean", "B", "Mean frame length", "never", |f| frame(&f.size, f.size.mean)),
    row!("packetSizeStd", "B", "Deviation of the frame length, of the population", "never", |f| f
        .size
        .population_std()),
    row!(int "packetSizeMin", "B", "Smallest frame", "never", |f| frame(&f.size, f.size.min)),
    row!(int "packetSizeMax", "B", "Largest frame", "never", |f| frame(&f.size, f.size.max)),
    row!(int "fwdPacketSizeTotal", "B", "Frame bytes, forward", "never", |f| total(&f.forward.size)),
    row!(int "bwdPacketSizeTotal", "B", "Frame bytes, backward", "never", |f| total(&f.backward.size)),
    row!("fwdPacketSizeMean", "B", "Mean frame length, forward", "0 without packets", |f| {
        frame(&f.forward.size, f.forward.size.mean)
    }),
    row!("bwdPacketSizeMean", "B", "Mean frame length, backward", "0 without packets", |f| {
        frame(&f.backward.size, f.backward.size.mean)
    }),
    row!("fwdPacketSizeStd", "B", "Deviation of the frame length, forward", "0 without packets", |f| {
        f.forward.size.population_std()
    }),
    row!("bwdPacketSizeStd", "B", "Deviation of the frame length, backward", "0 without packets", |f| {
        f.backward.size.population_std()
    }),
    row!(int "fwdPacketSizeMin", "B", "Smallest frame, forward", "0 without packets", |f| {
        frame(&f.forward.size, f.forward.size.min)
    }),
    row!(int "bwdPacketSizeMin", "B", "Smallest frame, backward", "0 without packets", |f| {
        frame(&f.backward.size, f.backward.size.min)
    }),
    row!(int "fwdPacketSizeMax", "B", "Largest frame, forward", "0 without packets", |f| {
        frame(&f.forward.size, f.forward.size.max)
    }),
    row!(int "bwdPacketSizeMax", "B", "Largest frame, backward", "0 without packets", |f| {
        frame(&f.backward.size, f.backward.size.max)
    }),
    row!(int "IATMean", "ns", "Mean gap of each direction's packets", "0 without gaps", |f| cut(f.direction_gaps().in_unit(NS).mean)),
    row!(int "IATStd", "ns", "Deviation of those gaps, of the population", "0 without gaps", |f| {
        cut(f.direction_gaps().in_unit(NS).population_std())
    }),
    row!(int "IATMin", "ns", "Shortest of those gaps", "0 without gaps", |f| f.direction_gaps().in_unit(NS).min),
    row!(int "IATMax", "ns", "Longest of those gaps", "0 without gaps", |f| f.direction_gaps().in_unit(NS).max),
    row!(int "fwdIATTotal", "ns", "Sum of the gaps, forward", "0 without gaps", |f| f.forward.gap.in_unit(NS).sum),
    row!(int "bwdIATTotal", "ns", "Sum of the gaps, backward", "0 without gaps", |f| f.backward.gap.in_unit(NS).sum),
    row!(int "fwdIATMean", "ns", "Mean gap, forward", "0 without gaps", |f| cut(f.forward.gap.in_unit(NS).mean)),
    row!(int "bwdIATMean", "ns", "Mean gap, backward", "0 without gaps", |f| cut(f.backward.gap.in_unit(NS).mean)),
    row!(int "fwdIATStd", "ns", "Deviation of the gaps, forward", "0 without gaps", |f| cut(f.forward.gap.in_unit(NS).population_std())),
    row!(int "bwdIATStd", "ns", "Deviation of the gaps, backward", "0 without gaps", |f| cut(f.backward.gap.in_unit(NS).population_std())),
    row!(int "fwdIATMin", "ns", "Shortest gap, forward", "0 without gaps", |f| f.forward.gap.in_unit(NS).min),
    row!(int "bwdIATMin", "ns", "Shortest gap, backward", "0 without gaps", |f| f.backward.gap.in_unit(NS).min),
    row!(int "fwdIATMax", "ns", "Longest gap, forward", "0 without gaps", |f| f.forward.gap.in_unit(NS).max),
    row!(int "bwdIATMax", "ns", "Longest gap, backward", "0 without gaps", |f| f.backward.gap.in_unit(NS).max),
    row!("flowLengthPerTime", "1/ns", "Packets over the duration", "over 1 µs where it is shorter", |f| {
        rate(f, f.packets())
    }),
    row!(
        "fwdFlowLengthPerTime",
        "1/ns",
        "Forward packets over the duration",
        "over 1 µs where it is shorter",
        |f| { side_rate(f, &f.forward) }
    ),
    row!(
        "bwdFlowLengthPerTime",
        "1/ns",
        "Backward packets over the duration",
        "over 1 µs where it is shorter",
        |f| { side_rate(f, &f.backward) }
    ),
    row!(
        "packetSizeTotalPerTime",
        "B/ns",
        "Frame bytes over the duration",
        "over 1 µs where it is shorter",
        |f| { rate(f, total(&f.size)) }
    ),
    row!(
        "fwdPacketSizeTotalPerTime",
        "B/ns",
        "Forward frame bytes over the duration",
        "over 1 µs where it is shorter",
        |f| { rate(f, total(&f.forward.size)) }
    ),
    row!(
        "bwdPacketSizeTotalPerTime",
        "B/ns",
        "Backward frame bytes over the duration",
        "over 1 µs where it is shorter",
        |f| { rate(f, total(&f.backward.size)) }
    ),
];
