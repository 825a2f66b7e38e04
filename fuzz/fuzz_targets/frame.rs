//! Any bytes as a frame of any link type: the parser says what it is or why it is none, and what it says is possible.
#![no_main]

use flowmeter_common::frame::SliceFrame;
use flowmeter_common::parse::{ParseOptions, parse_link};
use libfuzzer_sys::fuzz_target;

/// Link types that are read, and one that is not.
const LINKS: [u32; 14] = [1, 0, 9, 12, 14, 50, 101, 104, 108, 113, 228, 229, 276, 147];

fuzz_target!(|data: &[u8]| {
    let [choice, cut, frame @ ..] = data else { return };
    let link = LINKS[*choice as usize % LINKS.len()];
    let wire_len = frame.len() + usize::from(*cut & 0x7f) * 16;
    let slice = SliceFrame::new(frame, wire_len);
    let outer = parse_link(&slice, link, ParseOptions::default());
    if let Ok(packet) = outer {
        assert!(packet.size as usize <= wire_len, "{packet:?} of {wire_len} bytes");
        assert!(packet.payload + u32::from(packet.header) <= packet.size, "{packet:?}");
        assert!(packet.direction < 2 && packet.segments == 1);
        assert_eq!(packet.key.tunnel, 0);
    }
    if let Ok(inner) = parse_link(&slice, link, ParseOptions { tunnels: true }) {
        // What is inside a tunnel is smaller than the tunnel; without one nothing changes.
        match inner.key.tunnel {
            0 => assert_eq!(Ok(inner), outer),
            _ => assert!((inner.size as usize) < wire_len, "{inner:?} of {wire_len} bytes"),
        }
    }
});
