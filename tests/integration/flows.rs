//! Laws of the capture path's flow table: what a flow is depends on its own packets alone.

use flowmeter::features::{FlowView, SETS};
use flowmeter::record::FlowRecord;
use flowmeter::source::pcap::flow_table::{Flows, Parsed, Totals};
use flowmeter_common::counter::Skip;
use flowmeter_common::flow::Entry;
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::{EndReason, Timeouts};
use flowmeter_common::packet::{Packet, protocol};
use flowmeter_common::time::SECOND;
use harness::packets::{STEP, step};
use proptest::prelude::*;

const START: u64 = 1_700_000_000 * SECOND;
/// Short enough for all rules to be met.
const TIMEOUTS: Timeouts = Timeouts { idle: 60 * SECOND, active: 300 * SECOND, linger: 2 * SECOND };

/// The flows that packets make, in the order in which they were given out, and the totals.
fn flows(packets: &[Parsed], together: usize) -> (Vec<(Entry, EndReason)>, Totals) {
    let mut table = Flows::new(TIMEOUTS);
    let mut out = Vec::new();
    let mut give = |entry: &Entry, why| {
        out.push((*entry, why));
        Ok(())
    };
    for some in packets.chunks(together) {
        table.packets(some, &mut give).expect("giving out never fails");
    }
    let totals = table.finish(&mut give).expect("giving out never fails");
    (out, totals)
}

/// Any packets of a few flows, in order of time, and here and there one that is none.
fn packets() -> impl Strategy<Value = Vec<Parsed>> {
    prop::collection::vec(any::<[u8; STEP]>(), 1..200).prop_map(|steps| {
        let mut now = START;
        let parse = |bytes: &[u8; STEP]| {
            let (packet, gap) = step(bytes);
            now += gap;
            (if bytes[11] == 7 { Err(Skip::NotIp) } else { Ok(packet) }, now)
        };
        steps.iter().map(parse).collect()
    })
}

fn of(key: &FlowKey, found: &[(Entry, EndReason)]) -> Vec<(Entry, EndReason)> {
    found.iter().filter(|(entry, _)| entry.key == *key).copied().collect()
}

proptest! {
    #[test]
    fn every_packet_is_in_one_flow_and_every_skip_is_counted(packets in packets()) {
        let (found, totals) = flows(&packets, 32);
        let counted: Vec<&Packet> = packets.iter().filter_map(|(parsed, _)| parsed.as_ref().ok()).collect();
        prop_assert_eq!(totals.counters.seen, packets.len() as u64);
        prop_assert_eq!(totals.counters.counted, counted.len() as u64);
        prop_assert!(totals.counters.balanced());
        prop_assert_eq!(totals.flows, found.len() as u64);
        let sum = |value: fn(&Entry) -> u64| found.iter().map(|(entry, _)| value(entry)).sum::<u64>();
        prop_assert_eq!(sum(|entry| entry.state.packets()), counted.iter().map(|p| u64::from(p.segments)).sum::<u64>());
        prop_assert_eq!(sum(|entry| entry.state.bytes()), counted.iter().map(|p| p.wire_bytes()).sum::<u64>());
        for (entry, _) in &found {
            prop_assert!(entry.state.duration() <= TIMEOUTS.active);
        }
    }

    /// Timeouts do not wait for traffic, and other traffic does not move them.
    #[test]
    fn other_traffic_changes_no_flow(packets in packets()) {
        // All end at the same time, by the last packet, which is of a flow of its own.
        let end = packets.last().map_or(START, |(_, at)| *at);
        let last: Parsed = (Ok(Packet { key: FlowKey { protocol: protocol::GRE, ..FlowKey::default() }, ..step(&[0; STEP]).0 }), end);
        let all: Vec<Parsed> = packets.iter().copied().chain([last]).collect();
        let (found, _) = flows(&all, 32);
        let mut keys: Vec<FlowKey> = packets.iter().filter_map(|(parsed, _)| parsed.as_ref().ok().map(|p| p.key)).collect();
        keys.dedup();
        for key in keys {
            let alone = |parsed: &&Parsed| matches!(parsed.0, Ok(packet) if packet.key == key);
            let own: Vec<Parsed> = packets.iter().filter(alone).copied().chain([last]).collect();
            prop_assert_eq!(of(&key, &flows(&own, 32).0), of(&key, &found));
        }
    }

    #[test]
    fn how_many_packets_are_taken_together_changes_nothing(packets in packets(), together in 1..100_usize) {
        let (one, other) = (flows(&packets, 1), flows(&packets, together));
        prop_assert_eq!(one.0, other.0);
        prop_assert_eq!(one.1.counters, other.1.counters);
    }

    #[test]
    fn every_feature_of_every_set_is_a_number(packets in packets()) {
        for (entry, why) in flows(&packets, 32).0 {
            let record = FlowRecord::of_capture(&entry, why);
            for set in SETS {
                let mut values = Vec::new();
                set.values(&FlowView::new(&record), &mut values);
                for (value, name) in values.iter().zip(set.names()) {
                    prop_assert!(value.is_finite(), "{}: {name} is {value} of {entry:?}", set.id);
                }
            }
        }
    }
}

fn udp(direction: u8, port: u16) -> Packet {
    let packet = step(&[4 | direction; STEP]).0;
    assert_eq!(packet.key.protocol, protocol::UDP);
    Packet { key: FlowKey { a_port: port, ..packet.key }, direction, ..packet }
}

#[test]
fn a_long_flow_is_given_out_when_it_is_cut_and_goes_on_with_the_same_initiator() {
    // Asked every 10 s, and answered once, at the very moment at which the second flow begins.
    let packets: Vec<Parsed> =
        (0..70).map(|i| (Ok(udp(u8::from(i == 31), 5)), START + i * 10 * SECOND)).collect();
    let (found, _) = flows(&packets, 1);
    let seen: Vec<(EndReason, u8, u64, u64)> = found
        .iter()
        .map(|(e, why)| (*why, e.initiator, e.state.packets(), e.state.earlier() / SECOND))
        .collect();
    use EndReason::{Active, EndOfCapture};
    assert_eq!(seen, [(Active, 0, 31, 0), (Active, 0, 31, 300), (EndOfCapture, 0, 8, 600)]);
}

#[test]
fn a_cut_flow_without_a_further_packet_is_one_record() {
    let long = (0..=30).map(|i| (Ok(udp(0, 5)), START + i * 10 * SECOND));
    let other = (301..400).map(|second| (Ok(udp(0, 6)), START + second * SECOND));
    let packets: Vec<Parsed> = long.chain(other).collect();
    let (found, totals) = flows(&packets, 1);
    let long: Vec<EndReason> = found.iter().filter(|(e, _)| e.key.a_port == 5).map(|(_, why)| *why).collect();
    assert_eq!((long, totals.flows), (vec![EndReason::Active], 2));
}
