//! Any sequence of packets at any times: flows take in each exactly once, end in order, and their features are numbers.
#![no_main]

use flowmeter::features::{FlowView, SETS};
use flowmeter::record::FlowRecord;
use flowmeter::source::flows::Flows;
use flowmeter_common::config::{SECOND, Timeouts};
use flowmeter_common::flow::Entry;
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::EndReason;
use flowmeter_common::packet::{Packet, protocol};
use libfuzzer_sys::fuzz_target;

/// Bytes that make one packet.
const STEP: usize = 12;

/// A packet of one of a few flows, with numbers that meet often, and the time since the one before.
fn packet(step: &[u8; STEP]) -> (Packet, u64) {
    let [
        which,
        flags,
        gap,
        gap_unit,
        sequence,
        sequence_high,
        ack,
        size,
        size_high,
        window,
        header,
        segments,
    ] = *step;
    let protocols = [protocol::TCP, protocol::TCP, protocol::UDP, protocol::ICMP];
    let protocol = protocols[usize::from(which >> 1 & 3)];
    let key = FlowKey {
        a_address: [0, 1],
        b_address: [0, 2],
        a_port: u16::from(which >> 4),
        protocol,
        ip_version: 4,
        ..FlowKey::default()
    };
    let tcp = protocol == protocol::TCP;
    let header = if tcp { 20 + u16::from(header % 11) * 4 } else { 8 };
    let payload = u32::from(size) | u32::from(size_high) << 8;
    // Now and then a super-packet.
    let segments = if segments > 250 && payload > 100 { 2 + u16::from(segments & 3) } else { 1 };
    let packet = Packet {
        key,
        direction: which & 1,
        flags: if tcp { flags } else { 0 },
        header,
        window: u16::from(window) << 8,
        segments,
        segment_payload: if segments > 1 { payload / u32::from(segments) } else { 0 },
        size: payload + u32::from(header) + 20,
        payload,
        sequence: u32::from(sequence) << 7 | u32::from(sequence_high) << 24,
        acknowledgement: u32::from(ack) << 7,
    };
    let unit = [1, 1000, 1_000_000, SECOND / 10, SECOND, 20 * SECOND, 0, 0][usize::from(gap_unit & 7)];
    (packet, u64::from(gap) * unit)
}

fuzz_target!(|data: &[u8]| {
    let mut flows = Flows::new(Timeouts::default());
    let (mut now, mut sent, mut bytes) = (1_700_000_000 * SECOND, 0, 0);
    let (mut packets, mut got, mut values) = (0, 0, Vec::new());
    let mut give = |entry: &Entry, why: EndReason| {
        let record = FlowRecord::of_capture(entry, why);
        packets += entry.state.packets();
        got += entry.state.bytes();
        assert!(record.duration() <= Timeouts::default().active);
        let view = FlowView::new(&record);
        for set in SETS {
            values.clear();
            set.values(&view, &mut values);
            assert!(values.iter().all(|value| value.is_finite()), "{}: {values:?}", set.id);
        }
        Ok(())
    };
    for step in data.as_chunks::<STEP>().0 {
        let (packet, gap) = packet(step);
        now += gap;
        sent += u64::from(packet.segments);
        bytes += packet.wire_bytes();
        flows.packets(&[(Ok(packet), now)], &mut give).unwrap();
    }
    let totals = flows.finish(&mut give).unwrap();
    assert_eq!((packets, got), (sent, bytes));
    assert_eq!(totals.counters.counted_bytes, bytes);
});
