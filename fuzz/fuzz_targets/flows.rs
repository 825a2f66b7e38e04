//! Any sequence of packets at any times: flows take in each exactly once, end in order, and their features are numbers.
#![no_main]

use flowmeter::features::{FlowView, Kind, SETS};
use flowmeter::record::FlowRecord;
use flowmeter::source::pcap::flow_table::Flows;
use flowmeter_common::flow::Entry;
use flowmeter_common::lifecycle::{EndReason, Timeouts};
use flowmeter_common::time::SECOND;
use harness::packets::{STEP, step};
use libfuzzer_sys::fuzz_target;

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
            for (value, feature) in values.iter().zip(set.features()) {
                let fits = value.is_finite() && (feature.kind == Kind::Real || value.fract() == 0.0);
                assert!(fits, "{}: {} is {value}", set.id, feature.name);
            }
        }
        Ok(())
    };
    for twelve in data.as_chunks::<STEP>().0 {
        let (packet, gap) = step(twelve);
        now += gap;
        sent += u64::from(packet.segments);
        bytes += packet.wire_bytes();
        flows.packets(&[(Ok(packet), now)], &mut give).unwrap();
    }
    let totals = flows.finish(&mut give).unwrap();
    assert_eq!((packets, got), (sent, bytes));
    assert_eq!(totals.counters.counted_bytes, bytes);
});
