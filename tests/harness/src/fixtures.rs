//! Small captures, each of one hard case: what parsers, lifecycles and accumulators get wrong.

use crate::frames::{Extension, Fragment, Packet, Transport, protocol, tcp};
use crate::replay::Frame;

/// A capture of Ethernet frames.
pub struct Fixture {
    /// What it shows.
    pub name: &'static str,
    /// Its frames, in the order of the file.
    pub frames: Vec<Frame>,
}

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// Some time in 2023.
const START: u64 = 1_700_000_000 * SECOND;

/// Frames a few milliseconds apart.
fn steadily(name: &'static str, frames: impl IntoIterator<Item = Vec<u8>>) -> Fixture {
    let at = |i: usize| START + i as u64 * 3 * MILLISECOND;
    Fixture {
        name,
        frames: frames.into_iter().enumerate().map(|(i, data)| Frame::new(at(i), data)).collect(),
    }
}

/// Frames at given distances from the start, ns.
fn timed(name: &'static str, frames: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Fixture {
    Fixture { name, frames: frames.into_iter().map(|(at, data)| Frame::new(START + at, data)).collect() }
}

const CLIENT: &str = "192.0.2.1";
const SERVER: &str = "198.51.100.7";

fn there() -> Packet {
    Packet::ipv4(CLIENT, SERVER)
}

fn back() -> Packet {
    Packet::ipv4(SERVER, CLIENT)
}

fn there6() -> Packet {
    Packet::ipv6("2001:db8::1", "2001:db8::7")
}

fn back6() -> Packet {
    Packet::ipv6("2001:db8::7", "2001:db8::1")
}

fn udp() -> Transport {
    Transport::udp(4000, 53).payload(*b"question")
}

fn udp_back() -> Transport {
    Transport::udp(53, 4000).payload(*b"an answer, longer")
}

/// A segment from the client with flags, numbers and payload.
fn client(flags: u8, sequence: u32, acknowledgement: u32, payload: usize) -> Vec<u8> {
    let segment = Transport::tcp(40000, 443).flags(flags).numbers(sequence, acknowledgement);
    there().with(segment.payload(vec![7; payload])).build()
}

/// A segment from the server.
fn server(flags: u8, sequence: u32, acknowledgement: u32, payload: usize) -> Vec<u8> {
    let segment = Transport::tcp(443, 40000).flags(flags).numbers(sequence, acknowledgement);
    back().with(segment.payload(vec![9; payload])).build()
}

/// A whole connection whose initial sequence numbers are `c` and `s`, closed by both sides.
fn connection(c: u32, s: u32) -> Vec<Vec<u8>> {
    let (c1, s1) = (c.wrapping_add(1), s.wrapping_add(1));
    let (c2, s2) = (c1.wrapping_add(300), s1.wrapping_add(2000));
    vec![
        client(tcp::SYN, c, 0, 0),
        server(tcp::SYN | tcp::ACK, s, c1, 0),
        client(tcp::ACK, c1, s1, 0),
        client(tcp::PSH | tcp::ACK, c1, s1, 300),
        server(tcp::ACK, s1, c2, 1400),
        server(tcp::PSH | tcp::ACK, s1.wrapping_add(1400), c2, 600),
        client(tcp::ACK, c2, s2, 0),
        client(tcp::FIN | tcp::ACK, c2, s2, 0),
        server(tcp::FIN | tcp::ACK, s2, c2.wrapping_add(1), 0),
        client(tcp::ACK, c2.wrapping_add(1), s2.wrapping_add(1), 0),
    ]
}

/// An IP packet behind an EtherType and what stands between.
fn behind(ethertype: u16, between: &[u8], ip: Vec<u8>) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(between);
    frame.extend(ip);
    frame
}

/// Packets of two inner flows in tunnels of all kinds, and what only looks like a tunnel.
fn tunnelled() -> Vec<Vec<u8>> {
    const IPIP: u8 = 4;
    const IPV6_IN_IP: u8 = 41;
    const GRE: u8 = 47;
    let inner = || Packet::ipv4("10.0.0.1", "10.0.0.2").with(Transport::udp(1000, 2000).payload([1; 40]));
    let inner6 = || Packet::ipv6("fd00::1", "fd00::2").with(Transport::tcp(1000, 80).flags(tcp::SYN));
    let with = |header: &[u8], inside: Vec<u8>| [header, &inside].concat();
    let vxlan = [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0];
    let geneve = [0x02, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let in_udp = |port, body: Vec<u8>| there().with(Transport::udp(50000, port).payload(body)).build();
    let in_ip = |number, body: Vec<u8>| there().with(Transport::raw(number, body)).build();
    vec![
        in_ip(IPIP, inner().build_ip()),
        in_ip(IPV6_IN_IP, inner6().build_ip()),
        there6().with(Transport::raw(IPIP, inner().build_ip())).build(),
        there6().with(Transport::raw(IPV6_IN_IP, inner6().build_ip())).build(),
        in_ip(GRE, with(&[0, 0, 8, 0], inner().build_ip())),
        in_ip(GRE, with(&[0x20, 0, 8, 0, 0, 0, 0, 77], inner().build_ip())),
        in_ip(GRE, with(&[0xb0, 0, 0x86, 0xdd, 1, 1, 0, 0, 0, 0, 0, 77, 0, 0, 0, 1], inner6().build_ip())),
        in_ip(GRE, with(&[0, 0, 0x65, 0x58], inner().tag(5).build())),
        in_ip(GRE, with(&[0x30, 0x01, 0x88, 0x0b, 0, 4, 0, 1, 0, 0, 0, 0], vec![0; 12])),
        in_udp(4789, with(&vxlan, inner().build())),
        in_udp(4789, with(&vxlan, inner6().tag(9).build())),
        in_udp(4789, vec![0; 60]),
        in_udp(6081, with(&geneve, inner().build())),
        in_udp(6081, with(&[0, 0, 8, 0, 0, 0, 9, 0], inner().build_ip())),
        in_udp(6081, vec![0xff; 60]),
        in_ip(GRE, vec![0]),
        in_ip(IPIP, inner().build_ip()[..15].to_vec()),
        // A tunnel in a tunnel is a flow of the outer one.
        in_ip(IPIP, there().with(Transport::raw(IPIP, inner().build_ip())).build_ip()),
    ]
}

fn retimed(distance: u64, frames: Vec<Vec<u8>>) -> Vec<(u64, Vec<u8>)> {
    frames.into_iter().enumerate().map(|(i, data)| (i as u64 * distance, data)).collect()
}

/// Every frame cut after each of its bytes.
fn prefixes(name: &'static str, frames: Vec<Vec<u8>>) -> Fixture {
    let mut cut = Vec::new();
    for whole in frames {
        for length in 0..=whole.len() {
            let mut frame = Frame::new(START + cut.len() as u64, whole[..length].to_vec());
            frame.wire_len = whole.len() as u32;
            cut.push(frame);
        }
    }
    Fixture { name, frames: cut }
}

/// All of them.
pub fn all() -> Vec<Fixture> {
    let piece = |offset, more| Fragment { offset, more, identification: 4711 };
    let echo = |reply: bool| {
        let echo = if reply { Transport::echo_reply(77, 1) } else { Transport::echo_request(77, 1) };
        echo.payload([0; 56])
    };
    let mut fixtures = vec![
        steadily(
            "announcements to groups of hosts",
            [
                Packet::ipv4(CLIENT, "224.0.0.251").with(Transport::udp(5353, 5353).payload([1; 40])).build(),
                Packet::ipv4(CLIENT, "255.255.255.255")
                    .with(Transport::udp(68, 67).payload([1; 240]))
                    .build(),
                Packet::ipv4(CLIENT, "192.0.2.255").with(Transport::udp(138, 138).payload([1; 90])).build(),
                Packet::ipv6("2001:db8::1", "ff02::fb")
                    .with(Transport::udp(5353, 5353).payload([1; 40]))
                    .build(),
            ],
        ),
        steadily(
            "one VLAN tag, both ways",
            [there().tag(7).with(udp()).build(), back().tag(7).with(udp_back()).build()],
        ),
        steadily(
            "QinQ: two tags, and the same addresses under others",
            [(100, 7), (100, 8), (101, 7)].map(|(s, c)| there().service_tag(s).tag(c).with(udp()).build()),
        ),
        steadily(
            "a priority tag is not the same as none",
            [there().tag(0).with(udp()).build(), there().with(udp()).build()],
        ),
        steadily("three tags are one too many", [there().service_tag(1).tag(2).tag(3).with(udp()).build()]),
        steadily(
            "IPv4 options, of every length",
            (0..=10).map(|words| there().ip_options(&vec![1; words * 4]).with(udp()).build()),
        ),
        steadily(
            "TCP options",
            [there()
                .with(Transport::tcp(40000, 80).flags(tcp::SYN).options(&[2, 4, 5, 180, 1, 3, 3, 7]))
                .build()],
        ),
        steadily(
            "IPv4 fragments: the first to its flow, later ones to their address pair",
            [
                there().fragment(piece(0, true)).with(Transport::udp(9, 10).payload([1; 1472])).build(),
                there().fragment(piece(185, true)).with(Transport::raw(protocol::UDP, [2; 1480])).build(),
                there().fragment(piece(370, false)).with(Transport::raw(protocol::UDP, [2; 90])).build(),
                back().fragment(piece(3, false)).with(Transport::raw(protocol::UDP, [2; 90])).build(),
            ],
        ),
        steadily(
            "IPv6 fragments",
            [
                there6().fragment(piece(0, true)).with(Transport::udp(9, 10).payload([1; 1192])).build(),
                there6().fragment(piece(150, false)).with(Transport::raw(protocol::UDP, [2; 300])).build(),
            ],
        ),
        steadily(
            "IPv6 extension headers, none to more than are followed",
            (0..=9).map(|count| {
                let header = |packet: Packet, i| match i % 3 {
                    0 => packet.extension(Extension::HopByHop(vec![1, 4, 0, 0, 0, 0])),
                    1 => packet.extension(Extension::Routing(vec![0; 22])),
                    _ => packet
                        .extension(Extension::Destination(vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
                };
                (0..count).fold(there6(), header).with(udp()).build()
            }),
        ),
        steadily(
            "an IPv6 authentication header, whose length is counted in words of four",
            // Length field 4: (4 + 2) x 4 = 24 bytes, where other headers of that field would have 40.
            [there6()
                .with(Transport::raw(51, {
                    let mut header = vec![protocol::TCP, 4, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1];
                    header.extend([0xab; 12]);
                    header.extend(&there6().with(Transport::tcp(40000, 22).flags(tcp::SYN)).build_ip()[40..]);
                    header
                }))
                .build()],
        ),
        steadily(
            "an IPv4 authentication header",
            [there()
                .with(Transport::raw(51, {
                    let mut header = vec![protocol::UDP, 4, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1];
                    header.extend([0xab; 12]);
                    header.extend(&there().with(udp()).build_ip()[20..]);
                    header
                }))
                .build()],
        ),
        steadily(
            "ESP is a protocol without ports",
            [
                there().with(Transport::raw(50, [3; 80])).build(),
                back().with(Transport::raw(50, [4; 90])).build(),
                there6().with(Transport::raw(50, [3; 80])).build(),
            ],
        ),
        steadily("a whole connection", connection(1000, 9000)),
        steadily(
            "a connection whose SYN was not seen begins with SYN+ACK",
            connection(1000, 9000).split_off(1),
        ),
        steadily("sequence numbers that wrap", connection(u32::MAX - 150, u32::MAX - 1000)),
        timed(
            "ports used again while the old connection lingers",
            connection(1000, 9000)
                .into_iter()
                .chain(connection(500_000, 700_000))
                .enumerate()
                .map(|(i, f)| (i as u64 * MILLISECOND, f)),
        ),
        timed(
            "ports used again after a minute of silence, and a SYN repeated in time",
            [
                (0, client(tcp::SYN, 1, 0, 0)),
                (SECOND, client(tcp::SYN, 1, 0, 0)),
                (30 * SECOND, client(tcp::SYN, 777, 0, 0)),
                (91 * SECOND, client(tcp::SYN, 778, 0, 0)),
                (92 * SECOND, server(tcp::SYN | tcp::ACK, 5, 779, 0)),
            ],
        ),
        timed("packets around the linger of a closed connection", {
            let mut frames = retimed(MILLISECOND, connection(1, 1));
            frames.push((SECOND, server(tcp::ACK, 2002, 302, 0)));
            frames.push((2 * SECOND + 8 * MILLISECOND, server(tcp::ACK, 2002, 302, 0)));
            frames.push((5 * SECOND, server(tcp::RST, 2002, 0, 0)));
            frames
        }),
        steadily(
            "a refused connection, and one reset midway",
            [
                client(tcp::SYN, 1, 0, 0),
                server(tcp::RST | tcp::ACK, 0, 2, 0),
                client(tcp::SYN, 50, 0, 0),
                server(tcp::SYN | tcp::ACK, 9, 51, 0),
                client(tcp::RST, 51, 0, 0),
            ],
        ),
        steadily(
            "segments out of order, repeated, and overlapping",
            [
                client(tcp::ACK, 1000, 1, 100),
                client(tcp::ACK, 1300, 1, 100),
                client(tcp::ACK, 1100, 1, 100),
                client(tcp::ACK, 1200, 1, 100),
                client(tcp::ACK, 1200, 1, 100),
                client(tcp::ACK, 1350, 1, 150),
                client(tcp::ACK, 3000, 1, 100),
                client(tcp::ACK, 1500, 1, 1500),
                server(tcp::ACK, 1, 3000, 200),
                server(tcp::ACK, 401, 3000, 200),
                server(tcp::ACK, 201, 3000, 200),
                server(tcp::ACK, 201, 3000, 200),
            ],
        ),
        steadily(
            "windows of zero",
            [0, 0, 1, 65535]
                .map(|w| there().with(Transport::tcp(40000, 443).window(w).payload([1; 10])).build()),
        ),
        timed(
            "bulks that gaps and the peer break, subflows, active and idle periods",
            (0..40_u64).map(|i| {
                let pause = (i / 5) * SECOND * 3 / 2 + (i / 20) * 7 * SECOND;
                let frame = if i % 11 == 10 {
                    server(tcp::ACK, 1, 1, 20)
                } else {
                    client(tcp::ACK, i as u32 * 100, 1, 100)
                };
                (pause + i * MILLISECOND, frame)
            }),
        ),
        timed(
            "a flow idle for longer than the timeout",
            [0, 100, 219, 340].map(|s| (s * SECOND, there().with(udp()).build())),
        ),
        timed(
            "a conversation longer than the active timeout keeps who began it",
            (0..200_u64).map(|i| {
                let frame =
                    if i % 2 == 0 { there().with(udp()).build() } else { back().with(udp_back()).build() };
                (i * 37 * SECOND, frame)
            }),
        ),
        timed("time that steps back", [5, 3, 4, 6, 2, 9].map(|s| (s * SECOND, there().with(udp()).build()))),
        steadily(
            "ICMP: asked and answered, reported, and with a code of its own",
            [
                there().with(echo(false)).build(),
                back().with(echo(true)).build(),
                there().with(Transport::icmp(13, 0, [0, 9, 0, 1]).payload([0; 12])).build(),
                back().with(Transport::icmp(14, 0, [0, 9, 0, 1]).payload([0; 12])).build(),
                back().with(Transport::icmp(3, 3, [0; 4]).payload([0x45; 28])).build(),
                there().with(Transport::icmp(8, 9, [0, 5, 0, 0]).payload([0; 8])).build(),
            ],
        ),
        steadily(
            "ICMPv6",
            [
                there6().with(echo(false)).build(),
                back6().with(echo(true)).build(),
                back6().with(Transport::icmp(1, 4, [0; 4]).payload([0x60; 48])).build(),
            ],
        ),
        steadily(
            "SCTP",
            [
                there().with(Transport::sctp(5000, 5001, 0).payload([1; 20])).build(),
                back().with(Transport::sctp(5001, 5000, 9).payload([2; 16])).build(),
            ],
        ),
        steadily(
            "MPLS labels, one to more than are followed, and what is no IP behind them",
            (1..=9_u8)
                .map(|count| {
                    let stack: Vec<u8> = (1..=count).flat_map(|i| [0, 1, u8::from(i == count), 64]).collect();
                    behind(0x8847, &stack, there().with(udp()).build_ip())
                })
                .chain([
                    behind(0x8848, &[0, 1, 1, 64], there6().with(udp()).build_ip()),
                    behind(0x8847, &[0, 1, 1, 64], vec![0; 30]),
                ]),
        ),
        steadily(
            "PPPoE sessions, and control packets of theirs",
            [
                behind(0x8864, &[0x11, 0, 0, 5, 0, 60, 0, 0x21], there().with(udp()).build_ip()),
                behind(0x8864, &[0x11, 0, 0, 5, 0, 60, 0, 0x57], there6().with(udp()).build_ip()),
                behind(0x8864, &[0x11, 0, 0, 5, 0, 60, 0xc0, 0x21], vec![0; 20]),
                behind(0x8863, &[0x11, 9, 0, 0, 0, 4], vec![0; 20]),
            ],
        ),
        steadily("tunnels of all kinds", tunnelled()),
        steadily(
            "padding of short frames is not counted",
            [there().with(udp()).padding(10).build(), there6().with(udp()).padding(1).build()],
        ),
        steadily(
            "neither IPv4 nor IPv6",
            [
                behind(0x0806, &[0, 1, 8, 0], vec![0; 42]),
                behind(0x88cc, &[], vec![0; 50]),
                behind(60, &[], vec![0; 60]),
            ],
        ),
        steadily(
            "headers that contradict themselves",
            [
                behind(0x0800, &[], vec![0x44; 40]),
                behind(0x0800, &[], vec![0x65; 40]),
                behind(0x86dd, &[], vec![0x45; 60]),
                behind(0x0800, &[], {
                    let mut ip = there().with(udp()).build_ip();
                    ip[3] = 10;
                    ip[2] = 0;
                    ip
                }),
                behind(0x0800, &[], {
                    let mut ip = there().with(Transport::tcp(1, 2)).build_ip();
                    ip[32] = 0x10;
                    ip
                }),
                behind(0x0800, &[], {
                    let mut ip = there().with(Transport::tcp(1, 2)).build_ip();
                    ip[32] = 0xf0;
                    ip
                }),
                behind(0x0800, &[], {
                    let mut ip = there().with(udp()).build_ip();
                    ip[3] = 24;
                    ip[2] = 0;
                    ip
                }),
            ],
        ),
        prefixes(
            "frames cut after each of their bytes",
            vec![
                there()
                    .service_tag(3)
                    .tag(4)
                    .ip_options(&[1; 8])
                    .with(Transport::tcp(1, 2).options(&[1; 8]).payload([5; 30]))
                    .build(),
                there6()
                    .extension(Extension::HopByHop(vec![1, 4, 0, 0, 0, 0]))
                    .fragment(piece(0, true))
                    .with(udp())
                    .build(),
                there().with(echo(false)).build(),
                behind(
                    0x8847,
                    &[0, 1, 0, 64, 0, 2, 1, 64],
                    there().with(Transport::sctp(1, 2, 3)).build_ip(),
                ),
            ],
        ),
        prefixes("tunnels cut after each of their bytes", tunnelled()),
    ];
    // What a capture with a short snapshot length keeps of large packets.
    let cut = |frame: Vec<u8>| {
        let mut cut = Frame::new(START, frame[..60].to_vec());
        cut.wire_len = frame.len() as u32;
        cut
    };
    fixtures.push(Fixture {
        name: "packets cut by a snapshot length count as they were on the wire",
        frames: vec![
            cut(client(tcp::ACK, 1, 1, 1400)),
            cut(server(tcp::ACK, 1, 1401, 900)),
            cut(there().with(Transport::udp(1, 2).payload([0; 1000])).build()),
        ],
    });
    fixtures
}
