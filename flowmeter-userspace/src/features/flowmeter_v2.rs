//! `flowmeter/v2`: the features of `flowmeter/v1`, and those of what surrounds a flow.

use super::flowmeter_v1::{BACKWARD, FLOW, FORWARD, HEAD_PACKETS, TCP};
use super::view::ratio;
use super::{Feature, FeatureSet, identity, row};
use crate::context::By;

/// The set.
pub const SET: FeatureSet = FeatureSet {
    id: "flowmeter/v2",
    identity: &identity::OWN,
    context: true,
    description: "FlowMeter's own statistics of a flow, and of what surrounds it: what its source, its destination, the \
                  pair of both, its service (destination and port) and its source on that port did over the last \
                  minutes, until the flow is judged, the flow itself included. Sizes are IP lengths, payload is what \
                  follows the transport header; deviations are of the population; forward is from the initiator. Of \
                  the windows, `10m` is the present period of five minutes and the one before; `1m` and `10s` are the \
                  most in any minute and in any ten seconds of these. Numbers of distinct values are estimates: 10 % \
                  or less off up to 100 (10 s), 230 (1 min) and 500 (10 min), and never more than 266, 621 and 1,420.",
    parts: &[
        &FLOW,
        &FORWARD,
        &BACKWARD,
        &TCP,
        &HEAD_PACKETS,
        &ADDRESSING,
        &SOURCE,
        &DESTINATION,
        &PAIR,
        &SERVICE,
        &SOURCE_PORT,
        &HABIT,
    ],
};

/// To whom. Not the addresses: those name a place.
static ADDRESSING: [Feature; 1] = [row!(
    "to_group",
    "0/1",
    "The destination is a multicast or broadcast address; of IPv4, any that ends in 255 is taken for broadcast",
    "never",
    |flow| f64::from(flow.record.to_group())
)];

/// Rows of one group, from one definition for all: a name's beginning, the group in words, the group, and what is told of
/// it in each window.
macro_rules! group {
    ($prefix:literal, $words:literal, $by:ident, [$($field:ident $unit:literal $what:literal;)*]) => {
        [
            $(
                group!(@row $prefix, $words, $by, $field, $unit, $what, 0, "_10s", ", most in 10 s"),
                group!(@row $prefix, $words, $by, $field, $unit, $what, 1, "_1m", ", most in a minute"),
                group!(@row $prefix, $words, $by, $field, $unit, $what, 2, "_10m", ", in 10 min"),
            )*
            group!(@share $prefix, $words, $by, unanswered, "without an answer"),
            group!(@share $prefix, $words, $by, reset, "reset before either side had sent anything"),
            group!(@share $prefix, $words, $by, single, "of one packet"),
        ]
    };
    (@row $prefix:literal, $words:literal, $by:ident, $field:ident, $unit:literal, $what:literal, $window:literal,
        $name:literal, $when:literal) => {
        row!(
            concat!($prefix, stringify!($field), $name),
            $unit,
            concat!($what, " ", $words, $when),
            "0 where nothing is known of others",
            |flow| flow.context.by(By::$by).$field[$window].into()
        )
    };
    (@share $prefix:literal, $words:literal, $by:ident, $field:ident, $which:literal) => {
        row!(
            concat!($prefix, stringify!($field), "_share"),
            "1",
            concat!("Share ", $which, " among the flows ", $words, " that ended in 10 min"),
            "0 without one",
            |flow| {
                let group = flow.context.by(By::$by);
                ratio(group.$field[2].into(), group.ended[2].into())
            }
        )
    };
}

static SOURCE: [Feature; 21] = group!("source_", "of the source", Source, [
    flows "1" "New flows";
    peers "1" "Distinct destinations";
    ports "1" "Distinct ports";
    unanswered "1" "Flows that ended without an answer,";
    reset "1" "TCP flows that were reset before either side had sent anything,";
    bytes "B" "Bytes of flows that ended,";
]);
static DESTINATION: [Feature; 21] = group!("destination_", "to the destination", Destination, [
    flows "1" "New flows";
    peers "1" "Distinct sources of flows";
    ports "1" "Distinct ports of flows";
    unanswered "1" "Flows that ended without an answer,";
    reset "1" "TCP flows that were reset before either side had sent anything,";
    bytes "B" "Bytes of flows that ended,";
]);
static PAIR: [Feature; 18] = group!("pair_", "from this source to this destination", Pair, [
    flows "1" "New flows";
    ports "1" "Distinct ports of flows";
    unanswered "1" "Flows that ended without an answer,";
    reset "1" "TCP flows that were reset before either side had sent anything,";
    bytes "B" "Bytes of flows that ended,";
]);
static SERVICE: [Feature; 18] = group!("service_", "to this port of the destination", Service, [
    flows "1" "New flows";
    peers "1" "Distinct sources of flows";
    unanswered "1" "Flows that ended without an answer,";
    reset "1" "TCP flows that were reset before either side had sent anything,";
    bytes "B" "Bytes of flows that ended,";
]);
static SOURCE_PORT: [Feature; 18] = group!("source_port_", "of the source to this port of anyone", SourceAndPort, [
    flows "1" "New flows";
    peers "1" "Distinct destinations of flows";
    unanswered "1" "Flows that ended without an answer,";
    reset "1" "TCP flows that were reset before either side had sent anything,";
    bytes "B" "Bytes of flows that ended,";
]);

/// What is usual between the two hosts. Averages over the last flows, a sixteenth of each new one from the sixteenth on.
static HABIT: [Feature; 6] = [
    row!(
        "pair_start_gap",
        "s",
        "Mean gap between the starts of the pair's flows",
        "0 without a gap",
        |flow| flow.context.start_gap.into()
    ),
    row!(
        "pair_start_variation",
        "1",
        "Mean absolute deviation of these gaps over their mean: near 0 for a beacon",
        "1 with fewer than two gaps",
        |flow| flow.context.start_variation.into()
    ),
    row!(int "pair_starts", "1", "Gaps between the starts of the pair's flows, at most 65,535", "never", |flow| flow
        .context
        .starts
        .into()),
    row!(
        "pair_difference",
        "1",
        "Mean absolute difference to the pair's flows that ended, in binary logarithms of bytes forward, bytes backward, \
         packets and milliseconds",
        "0 if none has ended",
        |flow| flow.context.difference.into()
    ),
    row!(
        "pair_forward_spread",
        "1",
        "Mean absolute deviation of the bytes forward of the pair's flows that ended, in binary logarithms",
        "0 with fewer than two",
        |flow| flow.context.spread[0].into()
    ),
    row!(
        "pair_backward_spread",
        "1",
        "Mean absolute deviation of the bytes backward of the pair's flows that ended, in binary logarithms",
        "0 with fewer than two",
        |flow| flow.context.spread[1].into()
    ),
];
