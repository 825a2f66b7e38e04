//! Fragments: what is too short to hold its transport header has a cause of its own, and its addresses are found all the same.

use flowmeter_common::counter::Skip;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::key::{kind, mapped_ipv4};
use flowmeter_common::packet::protocol;
use flowmeter_common::parse::{ParseOptions, address_pair, parse_ethernet};

const FROM: [u8; 4] = [10, 3, 0, 1];
const TO: [u8; 4] = [10, 3, 0, 2];

/// Of a datagram: where the fragment begins, in units of eight bytes, and whether more follow.
type Place = (u16, bool);

fn ipv4(protocol: u8, (at, more): Place, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend((20 + body.len() as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend((at | if more { 0x2000 } else { 0 }).to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(FROM);
    frame.extend(TO);
    frame.extend(body);
    padded(frame)
}

fn ipv6(next: u8, (at, more): Place, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    frame.extend((8 + body.len() as u16).to_be_bytes());
    frame.extend([44, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xfe; 16]);
    frame.extend([next, 0]);
    frame.extend((at << 3 | u16::from(more)).to_be_bytes());
    frame.extend([0, 0, 0, 7]);
    frame.extend(body);
    padded(frame)
}

/// As Ethernet sends it: at least 60 bytes, so that what the packet lacks may be there as padding.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The first bytes of a TCP header of 20 bytes, and zeros.
fn tcp(length: usize) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0, 22, 0, 0, 3, 0xe8, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
    header.resize(length, 0);
    header
}

#[test]
fn fragments_too_short_for_their_header_are_told_apart() {
    let options = {
        // A header of 60 bytes, of which 24 are in the first fragment.
        let mut header = tcp(24);
        header[12] = 0xf0;
        header
    };
    let hop_by_hop = 0;
    let rows: [(&str, Vec<u8>, Result<u8, Skip>); 14] = [
        ("the first eight bytes of TCP", ipv4(6, (0, true), &tcp(8)), Err(Skip::ShortFragment)),
        ("sixteen", ipv4(6, (0, true), &tcp(16)), Err(Skip::ShortFragment)),
        ("a header whose options are in the next", ipv4(6, (0, true), &options), Err(Skip::ShortFragment)),
        ("the rest of a TCP header", ipv4(6, (1, false), &tcp(32)), Err(Skip::ShortFragment)),
        ("a whole header", ipv4(6, (0, true), &tcp(24)), Ok(kind::WHOLE)),
        ("after the header", ipv4(6, (3, false), &tcp(32)), Ok(kind::FRAGMENT)),
        ("no fragment, and too short", ipv4(6, (0, false), &tcp(8)), Err(Skip::ShortTransport)),
        ("less than a UDP header", ipv4(17, (0, true), &[]), Err(Skip::ShortFragment)),
        ("UDP that goes on after eight bytes", ipv4(17, (1, false), &[0; 24]), Ok(kind::FRAGMENT)),
        ("UDP", ipv4(17, (0, true), &[0; 8]), Ok(kind::WHOLE)),
        ("IPv6: the first eight bytes of TCP", ipv6(6, (0, true), &tcp(8)), Err(Skip::ShortFragment)),
        ("IPv6: the rest of a TCP header", ipv6(6, (1, false), &tcp(16)), Err(Skip::ShortFragment)),
        (
            "IPv6: headers that end in the next",
            ipv6(hop_by_hop, (0, true), &[6, 1, 0, 0, 0, 0, 0, 0]),
            Err(Skip::ShortFragment),
        ),
        ("IPv6: a whole header", ipv6(6, (0, true), &tcp(24)), Ok(kind::WHOLE)),
    ];
    for (name, frame, expected) in rows {
        let parsed = parse_ethernet(&SliceFrame::new(&frame, frame.len()), 0, ParseOptions::default());
        assert_eq!(parsed.map(|packet| packet.key.kind), expected, "{name}");
        assert!(address_pair(&SliceFrame::new(&frame, frame.len())).is_some(), "{name}: it has addresses");
    }
}

#[test]
fn addresses_are_found_whatever_follows_the_header() {
    let pair = |frame: &[u8]| address_pair(&SliceFrame::new(frame, frame.len()));
    for body in [&tcp(8)[..], &[], &[0xff; 40]] {
        for protocol in [protocol::TCP, protocol::AUTHENTICATION, 255] {
            let mut frame = ipv4(protocol, (0, false), body);
            for length in [frame.len(), 34] {
                frame.truncate(length);
                let key = pair(&frame).expect("an IP header");
                let (from, to) = (mapped_ipv4(u32::from_ne_bytes(FROM)), mapped_ipv4(u32::from_ne_bytes(TO)));
                assert!(
                    [key.a_address, key.b_address] == [from, to]
                        || [key.b_address, key.a_address] == [from, to]
                );
                assert_eq!((key.a_port, key.b_port, key.kind), (0, 0, kind::FRAGMENT));
            }
        }
    }
    let mut bad = ipv4(protocol::TCP, (0, false), &tcp(20));
    bad[14] = 0x41;
    assert!(pair(&bad).is_some(), "a header length that cannot be");
    bad[14] = 0x65;
    assert_eq!(pair(&bad), None, "another version");
    assert_eq!(pair(&bad[..33]), None, "less than a header");
}
