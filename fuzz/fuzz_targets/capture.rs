//! Any bytes as a capture file: it is read to its end or to a named damage, in bounded memory, and every frame is accounted
//! for.
#![no_main]

use std::io::Cursor;

use flowmeter::capture::CaptureReader;
use flowmeter::source::pcap::flow_table::Flows;
use flowmeter_common::flow::Entry;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::{ParseOptions, parse_link};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = CaptureReader::from_reader(Box::new(Cursor::new(data.to_vec())), "input") else {
        return;
    };
    let mut flows = Flows::new(Timeouts::default());
    let (mut frames, mut packets) = (0_u64, 0_u64);
    let mut give = |entry: &Entry, _| {
        packets += entry.state.packets();
        Ok(())
    };
    while let Ok(Some(frame)) = reader.next_frame() {
        assert!(frame.wire_len as usize >= frame.data.len());
        frames += 1;
        // Compression makes much of little; the readers' bounds are what is looked for here.
        if frames > 10_000 {
            break;
        }
        let slice = SliceFrame::new(frame.data, frame.wire_len as usize);
        let parsed = parse_link(&slice, frame.link_type, ParseOptions { tunnels: true });
        flows.packets(&[(parsed, frame.timestamp_ns)], &mut give).unwrap();
    }
    let totals = flows.finish(&mut give).unwrap();
    assert!(totals.counters.balanced() && totals.counters.seen == frames);
    assert_eq!(totals.counters.counted, packets);
});
