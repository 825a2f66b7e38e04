//! What the parser says of one frame: each header right, cut, and impossible. Expected values are the formats', worked out
//! by hand; that the kernel says the same is shown in `parity.rs`, and that tshark does in `independent.rs`.

use std::net::{IpAddr, Ipv6Addr};

use flowmeter_common::counter::Skip;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::key::{VLAN_PRESENT, tunnel};
use flowmeter_common::packet::Packet as Parsed;
use flowmeter_common::parse::link::link_type;
use flowmeter_common::parse::{ParseOptions, parse_link};
use harness::fixtures;
use harness::frames::{Extension, Fragment, Packet, Transport, tcp};

/// A sentence, a frame, and what it is.
type Row = (&'static str, u32, Vec<u8>, Result<&'static str, Skip>);

/// The same, of an Ethernet frame.
type EthernetRow = (&'static str, Vec<u8>, Result<&'static str, Skip>);

fn check_ethernet(rows: Vec<EthernetRow>, look: ParseOptions) {
    check(
        rows.into_iter().map(|(sentence, frame, is)| (sentence, link_type::ETHERNET, frame, is)).collect(),
        look,
    );
}

fn check(rows: Vec<Row>, look: ParseOptions) {
    for (sentence, link, frame, expected) in rows {
        let parsed =
            parse_link(&SliceFrame::new(&frame, frame.len()), link, look).map(|packet| text(&packet));
        assert_eq!(parsed.as_deref().map_err(|skip| *skip), expected, "{sentence}: {frame:02x?}");
    }
}

/// A packet in words: tunnel, VLANs, protocol, endpoints, bytes of IP, transport header and payload.
fn text(packet: &Parsed) -> String {
    let key = &packet.key;
    let end = |address: [u64; 2], port| {
        let octets: Vec<u8> = address.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let address = Ipv6Addr::from(<[u8; 16]>::try_from(octets).expect("two words are sixteen bytes"));
        let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
        format!("{address} {port}")
    };
    let (a, b) = (end(key.a_address, key.a_port), end(key.b_address, key.b_port));
    let (from, to) = if packet.direction == 0 { (a, b) } else { (b, a) };
    let mut words = String::new();
    if let Some(name) = tunnel::name(key.tunnel) {
        words += &format!("{name} {}: ", key.tunnel_id);
    }
    for vlan in [key.outer_vlan, key.inner_vlan] {
        if vlan != 0 {
            words += &format!("vlan {} ", vlan & !VLAN_PRESENT);
        }
    }
    let Parsed { size, header, payload, .. } = packet;
    words + &format!("v{} {} {from} > {to}, {size} = {header} + {payload}", key.ip_version, key.protocol)
}

fn there() -> Packet {
    Packet::ipv4("192.0.2.1", "198.51.100.7")
}

fn there6() -> Packet {
    Packet::ipv6("2001:db8::1", "2001:db8::7")
}

fn udp() -> Transport {
    Transport::udp(4000, 53).payload([1; 10])
}

const UDP: &str = "v4 17 192.0.2.1 4000 > 198.51.100.7 53, 38 = 8 + 10";
const UDP6: &str = "v6 17 2001:db8::1 4000 > 2001:db8::7 53, 58 = 8 + 10";

/// A frame with some bytes replaced.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A frame without its end, on the wire as well.
fn without(mut frame: Vec<u8>, end: usize) -> Vec<u8> {
    frame.truncate(frame.len() - end);
    frame
}

/// An IP packet behind a link header.
fn behind(header: &[u8], ip: &Packet) -> Vec<u8> {
    [header, &ip.build_ip()].concat()
}

/// Ethernet up to the EtherType.
const ETHERNET: usize = 14;
/// Ethernet and an IPv4 header.
const ETHERNET_IPV4: usize = 34;

#[test]
fn link_headers() {
    use link_type::*;
    let (four, six) = (there().with(udp()), there6().with(udp()));
    let ethernet = |between: &[u8]| [&[0; 12], between].concat();
    check(
        vec![
            ("Ethernet", link_type::ETHERNET, four.build(), Ok(UDP)),
            (
                "Ethernet, cut in the EtherType",
                link_type::ETHERNET,
                four.build()[..13].to_vec(),
                Err(Skip::TruncatedLink),
            ),
            ("nothing", link_type::ETHERNET, vec![], Err(Skip::TruncatedLink)),
            (
                "a tag, cut",
                link_type::ETHERNET,
                four.clone().tag(7).build()[..17].to_vec(),
                Err(Skip::TruncatedLink),
            ),
            (
                "a length instead of an EtherType",
                link_type::ETHERNET,
                ethernet(&[0, 40, 0xaa, 0xaa]),
                Err(Skip::NotIp),
            ),
            (
                "PPPoE",
                link_type::ETHERNET,
                behind(&ethernet(&[0x88, 0x64, 0x11, 0, 0, 5, 0, 40, 0, 0x21]), &four),
                Ok(UDP),
            ),
            (
                "PPPoE, cut",
                link_type::ETHERNET,
                ethernet(&[0x88, 0x64, 0x11, 0, 0, 5, 0]),
                Err(Skip::TruncatedLink),
            ),
            (
                "PPPoE of something else",
                link_type::ETHERNET,
                behind(&ethernet(&[0x88, 0x64, 0x11, 0, 0, 5, 0, 40, 0xc0, 0x21]), &four),
                Err(Skip::NotIp),
            ),
            (
                "MPLS",
                link_type::ETHERNET,
                behind(&ethernet(&[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64]), &six),
                Ok(UDP6),
            ),
            (
                "MPLS, cut after a label",
                link_type::ETHERNET,
                ethernet(&[0x88, 0x47, 0, 1, 0, 64]),
                Err(Skip::TruncatedLink),
            ),
            (
                "MPLS without an end of the stack",
                link_type::ETHERNET,
                ethernet(&[[0x88, 0x47].as_slice(), &[0, 1, 0, 64].repeat(9)].concat()),
                Err(Skip::TooManyLabels),
            ),
            ("raw IPv4", RAW, four.build_ip(), Ok(UDP)),
            ("raw IPv6 by another number", RAW_DLT_14, six.build_ip(), Ok(UDP6)),
            ("raw, of no IP version", RAW_DLT_12, vec![0x50; 40], Err(Skip::NotIp)),
            ("raw, empty", RAW, vec![], Err(Skip::TruncatedLink)),
            ("IPv4 by its link type", IPV4, four.build_ip(), Ok(UDP)),
            ("IPv6 where the link type says IPv4", IPV4, six.build_ip(), Err(Skip::BadIpv4)),
            ("IPv6 by its link type", IPV6, six.build_ip(), Ok(UDP6)),
            ("BSD loopback, little-endian", NULL, behind(&[2, 0, 0, 0], &four), Ok(UDP)),
            ("BSD loopback, big-endian", NULL, behind(&[0, 0, 0, 30], &six), Ok(UDP6)),
            ("OpenBSD loopback", LOOP, behind(&[0, 0, 0, 24], &six), Ok(UDP6)),
            ("BSD loopback of another family", NULL, behind(&[7, 0, 0, 0], &four), Err(Skip::NotIp)),
            ("BSD loopback, cut", NULL, vec![2, 0, 0], Err(Skip::TruncatedLink)),
            ("cooked", LINUX_SLL, behind(&[[0; 14].as_slice(), &[8, 0]].concat(), &four), Ok(UDP)),
            ("cooked, cut", LINUX_SLL, vec![0; 15], Err(Skip::TruncatedLink)),
            (
                "cooked, version 2",
                LINUX_SLL2,
                behind(&[[0x86, 0xdd].as_slice(), &[0; 18]].concat(), &six),
                Ok(UDP6),
            ),
            (
                "cooked, version 2, with a tag",
                LINUX_SLL2,
                behind(&[[0x81, 0].as_slice(), &[0; 18], &[0, 9, 8, 0]].concat(), &four),
                Ok("vlan 9 v4 17 192.0.2.1 4000 > 198.51.100.7 53, 38 = 8 + 10"),
            ),
            ("PPP", PPP, behind(&[0, 0x21], &four), Ok(UDP)),
            ("PPP, protocol in one byte", PPP, behind(&[0x21], &four), Ok(UDP)),
            ("PPP in HDLC framing", PPP_HDLC, behind(&[0xff, 3, 0, 0x57], &six), Ok(UDP6)),
            ("PPP, control protocol", PPP, vec![0xc0, 0x21, 1, 2], Err(Skip::NotIp)),
            ("PPP, cut", PPP, vec![0xff], Err(Skip::TruncatedLink)),
            ("Cisco HDLC", C_HDLC, behind(&[0x0f, 0, 8, 0], &four), Ok(UDP)),
            ("a link type that is not read", 147, four.build(), Err(Skip::UnsupportedLink)),
        ],
        ParseOptions::default(),
    );
}

#[test]
fn tags() {
    let frame = |tags: &[u16]| tags.iter().fold(there().with(udp()), |packet, tag| packet.tag(*tag)).build();
    check_ethernet(
        vec![
            ("one", frame(&[7]), Ok("vlan 7 v4 17 192.0.2.1 4000 > 198.51.100.7 53, 38 = 8 + 10")),
            ("a priority tag", frame(&[0]), Ok("vlan 0 v4 17 192.0.2.1 4000 > 198.51.100.7 53, 38 = 8 + 10")),
            (
                "priority bits are no part of the number",
                frame(&[0xe007]),
                Ok("vlan 7 v4 17 192.0.2.1 4000 > 198.51.100.7 53, 38 = 8 + 10"),
            ),
            (
                "two",
                frame(&[100, 7]),
                Ok("vlan 100 vlan 7 v4 17 192.0.2.1 4000 > 198.51.100.7 53, 38 = 8 + 10"),
            ),
            ("three", frame(&[1, 2, 3]), Err(Skip::TooManyTags)),
            (
                "the old number of an outer tag",
                with(frame(&[100, 7]), 12, &[0x91, 0]),
                Ok("vlan 100 vlan 7 v4 17 192.0.2.1 4000 > 198.51.100.7 53, 38 = 8 + 10"),
            ),
        ],
        ParseOptions::default(),
    );
}

#[test]
fn ipv4() {
    let frame = || there().with(udp()).build();
    let piece = |offset, more| there().fragment(Fragment { offset, more, identification: 1 });
    let at = ETHERNET;
    check_ethernet(
        vec![
            (
                "options",
                there().ip_options(&[1; 40]).with(udp()).build(),
                Ok("v4 17 192.0.2.1 4000 > 198.51.100.7 53, 78 = 8 + 10"),
            ),
            ("padding of a short frame", there().with(udp()).padding(8).build(), Ok(UDP)),
            ("cut in its header", frame()[..at + 19].to_vec(), Err(Skip::TruncatedIpv4)),
            (
                "cut in its options",
                there().ip_options(&[1; 8]).with(udp()).build()[..at + 25].to_vec(),
                Err(Skip::TruncatedIpv4),
            ),
            ("another version", with(frame(), at, &[0x55]), Err(Skip::BadIpv4)),
            ("a header of 16 bytes", with(frame(), at, &[0x44]), Err(Skip::BadIpv4)),
            ("shorter than its header", with(frame(), at + 2, &[0, 19]), Err(Skip::BadIpv4)),
            ("longer than the frame: what the wire carried", with(frame(), at + 2, &[0xff, 0xff]), Ok(UDP)),
            ("no length, as of packets still to be segmented", with(frame(), at + 2, &[0, 0]), Ok(UDP)),
            ("a first fragment", piece(0, true).with(udp()).build(), Ok(UDP)),
            (
                "a later fragment has no ports",
                piece(185, false).with(Transport::raw(17, [7; 30])).build(),
                Ok("v4 17 192.0.2.1 0 > 198.51.100.7 0, 50 = 0 + 30"),
            ),
            (
                "a later fragment, short",
                piece(8, true).with(Transport::raw(6, [7; 3])).build(),
                Ok("v4 6 192.0.2.1 0 > 198.51.100.7 0, 23 = 0 + 3"),
            ),
            (
                "a fragment that begins within the TCP header (RFC 3128)",
                piece(1, true).with(Transport::raw(6, [7; 3])).build(),
                Err(Skip::ShortFragment),
            ),
            (
                "an authentication header of 16 bytes",
                there()
                    .with(Transport::raw(
                        51,
                        [[17, 2, 0, 0].as_slice(), &[0; 12], &there().with(udp()).build_ip()[20..]].concat(),
                    ))
                    .build(),
                Ok("v4 17 192.0.2.1 4000 > 198.51.100.7 53, 54 = 8 + 10"),
            ),
            (
                "an authentication header longer than the packet",
                there().with(Transport::raw(51, [17, 99, 0, 0])).build(),
                Err(Skip::TruncatedIpv4),
            ),
            (
                "ESP",
                there().with(Transport::raw(50, [0; 40])).build(),
                Ok("v4 50 192.0.2.1 0 > 198.51.100.7 0, 60 = 0 + 40"),
            ),
        ],
        ParseOptions::default(),
    );
}

#[test]
fn ipv6() {
    let frame = || there6().with(udp()).build();
    let piece = |offset, more| there6().fragment(Fragment { offset, more, identification: 1 });
    let hop = || Extension::HopByHop(vec![1, 4, 0, 0, 0, 0]);
    let many =
        |count| (0..count).fold(there6(), |packet, _| packet.extension(Extension::Destination(vec![0; 6])));
    let at = ETHERNET;
    let authenticated = [[17, 4, 0, 0].as_slice(), &[0; 20], &there6().with(udp()).build_ip()[40..]].concat();
    check_ethernet(
        vec![
            ("plain", frame(), Ok(UDP6)),
            ("cut in its header", frame()[..at + 39].to_vec(), Err(Skip::TruncatedIpv6)),
            ("another version", with(frame(), at, &[0x40]), Err(Skip::BadIpv6)),
            (
                "an extension header",
                there6().extension(hop()).with(udp()).build(),
                Ok("v6 17 2001:db8::1 4000 > 2001:db8::7 53, 66 = 8 + 10"),
            ),
            (
                "cut in an extension header",
                there6().extension(hop()).with(udp()).build()[..at + 41].to_vec(),
                Err(Skip::TruncatedIpv6),
            ),
            (
                "an extension header longer than the packet",
                with(there6().extension(hop()).with(udp()).build(), at + 41, &[9]),
                Err(Skip::TruncatedIpv6),
            ),
            (
                "mobility, HIP and Shim6 headers",
                [135, 139, 140]
                    .into_iter()
                    .fold(there6(), |packet, number| packet.extension(Extension::Other(number, vec![0; 6])))
                    .with(udp())
                    .build(),
                Ok("v6 17 2001:db8::1 4000 > 2001:db8::7 53, 82 = 8 + 10"),
            ),
            (
                "as many extension headers as are followed",
                many(6).with(udp()).build(),
                Ok("v6 17 2001:db8::1 4000 > 2001:db8::7 53, 106 = 8 + 10"),
            ),
            ("one more", many(7).with(udp()).build(), Err(Skip::TooManyExtensions)),
            (
                "an authentication header counts in words of four",
                there6().with(Transport::raw(51, authenticated)).build(),
                Ok("v6 17 2001:db8::1 4000 > 2001:db8::7 53, 82 = 8 + 10"),
            ),
            (
                "a first fragment",
                piece(0, true).with(udp()).build(),
                Ok("v6 17 2001:db8::1 4000 > 2001:db8::7 53, 66 = 8 + 10"),
            ),
            (
                "a later fragment has no ports",
                piece(9, false).with(Transport::raw(17, [7; 30])).build(),
                Ok("v6 17 2001:db8::1 0 > 2001:db8::7 0, 78 = 0 + 30"),
            ),
            ("no next header", there6().build(), Ok("v6 59 2001:db8::1 0 > 2001:db8::7 0, 40 = 0 + 0")),
        ],
        ParseOptions::default(),
    );
}

#[test]
fn transport_headers() {
    let segment =
        || there().with(Transport::tcp(40000, 80).flags(tcp::SYN).options(&[1; 8]).payload([5; 6])).build();
    let at = ETHERNET_IPV4;
    let icmp = |kind, code, rest| there().with(Transport::icmp(kind, code, rest).payload([0; 8])).build();
    let icmp6 = |kind, code, rest| there6().with(Transport::icmp(kind, code, rest).payload([0; 8])).build();
    check_ethernet(
        vec![
            ("TCP with options", segment(), Ok("v4 6 192.0.2.1 40000 > 198.51.100.7 80, 54 = 28 + 6")),
            ("TCP, cut", segment()[..at + 19].to_vec(), Err(Skip::TruncatedTransport)),
            ("TCP, a data offset of four words", with(segment(), at + 12, &[0x40]), Err(Skip::BadTcp)),
            ("TCP, a data offset beyond the packet", with(segment(), at + 12, &[0xf0]), Err(Skip::BadTcp)),
            ("TCP in 19 bytes of IP", with(segment(), ETHERNET + 2, &[0, 39]), Err(Skip::ShortTransport)),
            (
                "UDP, empty",
                there().with(Transport::udp(1, 2)).build(),
                Ok("v4 17 192.0.2.1 1 > 198.51.100.7 2, 28 = 8 + 0"),
            ),
            (
                "UDP, cut in its ports",
                there().with(Transport::udp(1, 2)).build()[..at + 3].to_vec(),
                Err(Skip::TruncatedTransport),
            ),
            (
                "UDP in 7 bytes of IP",
                without(there().with(Transport::udp(1, 2)).build(), 1),
                Err(Skip::ShortTransport),
            ),
            (
                "SCTP",
                there().with(Transport::sctp(5, 6, 1).payload([0; 4])).build(),
                Ok("v4 132 192.0.2.1 5 > 198.51.100.7 6, 36 = 12 + 4"),
            ),
            (
                "SCTP in 11 bytes of IP",
                without(there().with(Transport::sctp(5, 6, 1)).build(), 1),
                Err(Skip::ShortTransport),
            ),
            (
                "an echo request: type, then identifier",
                icmp(8, 0, [0, 77, 0, 1]),
                Ok("v4 1 192.0.2.1 8 > 198.51.100.7 77, 36 = 8 + 8"),
            ),
            (
                "an echo reply: the same flow's other direction",
                icmp(0, 0, [0, 77, 0, 1]),
                Ok("v4 1 192.0.2.1 77 > 198.51.100.7 8, 36 = 8 + 8"),
            ),
            (
                "a timestamp reply",
                icmp(14, 0, [0, 9, 0, 1]),
                Ok("v4 1 192.0.2.1 9 > 198.51.100.7 13, 36 = 8 + 8"),
            ),
            (
                "port unreachable: type, then code",
                icmp(3, 3, [0; 4]),
                Ok("v4 1 192.0.2.1 3 > 198.51.100.7 3, 36 = 8 + 8"),
            ),
            (
                "ICMP in 7 bytes of IP",
                with(icmp(8, 0, [0; 4]), ETHERNET + 2, &[0, 27]),
                Err(Skip::ShortTransport),
            ),
            ("ICMP, cut", icmp(8, 0, [0; 4])[..at + 7].to_vec(), Err(Skip::TruncatedTransport)),
            (
                "an ICMPv6 echo reply",
                icmp6(129, 0, [0, 77, 0, 1]),
                Ok("v6 58 2001:db8::1 77 > 2001:db8::7 128, 56 = 8 + 8"),
            ),
            (
                "a neighbour solicitation",
                icmp6(135, 0, [0; 4]),
                Ok("v6 58 2001:db8::1 135 > 2001:db8::7 0, 56 = 8 + 8"),
            ),
        ],
        ParseOptions::default(),
    );
}

#[test]
fn tunnels_that_are_looked_into() {
    macro_rules! inner {
        ($start:literal) => {
            Ok(concat!($start, "v4 17 10.0.0.1 1000 > 10.0.0.2 2000, 32 = 8 + 4"))
        };
    }
    let inner = Packet::ipv4("10.0.0.1", "10.0.0.2").with(Transport::udp(1000, 2000).payload([1; 4]));
    let carried = |number: u8, header: &[u8], inside: Vec<u8>| {
        there().with(Transport::raw(number, [header, &inside].concat())).build()
    };
    let in_udp = |port, header: &[u8], inside: Vec<u8>| {
        there().with(Transport::udp(9, port).payload([header, &inside].concat())).build()
    };
    let vxlan = [8, 0, 0, 0, 0, 1, 2, 0];
    let ip = || inner.build_ip();
    let rows: Vec<EthernetRow> = vec![
        ("IPv4 in IP", carried(4, &[], ip()), inner!("ipip 0: ")),
        ("GRE", carried(47, &[0, 0, 8, 0], ip()), inner!("gre 0: ")),
        (
            "GRE with checksum, key and sequence number",
            carried(47, &[0xb0, 0, 8, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9], ip()),
            inner!("gre 256: "),
        ),
        (
            "GRE of a tagged frame",
            carried(47, &[0, 0, 0x65, 0x58], inner.clone().tag(5).build()),
            inner!("gre 0: vlan 5 "),
        ),
        ("VXLAN", in_udp(4789, &vxlan, inner.build()), inner!("vxlan 258: ")),
        (
            "Geneve with an option",
            in_udp(6081, &[1, 0, 0x65, 0x58, 0, 0, 3, 0, 0, 0, 0, 0], inner.build()),
            inner!("geneve 3: "),
        ),
        (
            "VXLAN without an identifier is the tunnel's own flow",
            in_udp(4789, &[0; 8], inner.build()),
            Ok("v4 17 192.0.2.1 9 > 198.51.100.7 4789, 82 = 8 + 54"),
        ),
        (
            "GRE of version 1 (PPTP) too",
            carried(47, &[0x30, 1, 0x88, 0x0b], vec![0; 8]),
            Ok("v4 47 192.0.2.1 0 > 198.51.100.7 0, 32 = 0 + 12"),
        ),
        ("what is inside must be countable", carried(4, &[], ip()[..19].to_vec()), Err(Skip::TruncatedIpv4)),
        (
            "one level",
            carried(4, &[], there().with(Transport::raw(4, ip())).build_ip()),
            Ok("ipip 0: v4 4 192.0.2.1 0 > 198.51.100.7 0, 52 = 0 + 32"),
        ),
    ];
    check_ethernet(rows.clone(), ParseOptions { tunnels: true });
    // Not looked into, every one of them is a packet between the tunnel's ends.
    for (sentence, frame, _) in rows {
        let parsed =
            parse_link(&SliceFrame::new(&frame, frame.len()), link_type::ETHERNET, ParseOptions::default());
        let packet = parsed.unwrap_or_else(|skip| panic!("{sentence}: {skip:?}"));
        assert_eq!(packet.key.tunnel, tunnel::NONE, "{sentence}");
        assert_eq!(packet.size as usize, frame.len() - ETHERNET, "{sentence}");
    }
}

/// A capture may keep any part of a frame: what is known of the packet is the same as of the whole, or nothing is.
#[test]
fn what_is_kept_of_a_frame_never_changes_what_it_is() {
    let mut compared = 0;
    for fixture in fixtures::all() {
        for frame in fixture.frames.iter().filter(|frame| frame.data.len() == frame.wire_len as usize) {
            let parse = |kept: usize| {
                let kept = SliceFrame::new(&frame.data[..kept], frame.data.len());
                parse_link(&kept, link_type::ETHERNET, ParseOptions::default())
            };
            let whole = parse(frame.data.len());
            let mut found = false;
            for kept in 0..frame.data.len() {
                let part = parse(kept);
                let cut = matches!(
                    part,
                    Err(Skip::TruncatedLink
                        | Skip::TruncatedIpv4
                        | Skip::TruncatedIpv6
                        | Skip::TruncatedTransport)
                );
                assert!(
                    part == whole || (cut && !found),
                    "{}: {kept} bytes: {part:?}, of {whole:?}",
                    fixture.name
                );
                found |= part == whole;
                compared += 1;
            }
        }
    }
    assert!(compared > 10_000, "only {compared} cut frames");
}
