//! Promise: a flow has the Community ID by which other tools know it (<https://github.com/corelight/community-id-spec>).

use anyhow::{Result, ensure};
use harness::agent::pcap_rows;
use harness::frames::{Packet, Transport, tcp};
use harness::replay::{Frame, write_capture};
use harness::row;

/// Packets, and what the specification's reference implementation says of them.
fn vectors() -> Vec<(&'static str, Packet, &'static str)> {
    let tcp_there = Packet::ipv4("128.232.110.120", "66.35.250.204");
    let tcp_back = Packet::ipv4("66.35.250.204", "128.232.110.120");
    let echo = Packet::ipv4("192.168.0.89", "192.168.0.1");
    let answer = Packet::ipv4("192.168.0.1", "192.168.0.89");
    let six = || Packet::ipv6("fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea");
    vec![
        (
            "TCP, from the larger address",
            tcp_there.with(Transport::tcp(34855, 80).flags(tcp::SYN)),
            "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        ),
        (
            "TCP, from the smaller one",
            tcp_back.with(Transport::tcp(80, 34855)),
            "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        ),
        (
            "UDP",
            Packet::ipv4("192.168.1.52", "8.8.8.8").with(Transport::udp(54585, 53)),
            "1:d/FP5EW3wiY1vCndhwleRRKHowQ=",
        ),
        (
            "UDP over IPv6",
            Packet::ipv6("fe80::1", "2001:db8::7").with(Transport::udp(546, 547)),
            "1:4dDo5XqxkIqURQbEUKGhkbBIZtw=",
        ),
        (
            "SCTP",
            Packet::ipv4("192.168.170.8", "192.168.170.56").with(Transport::sctp(7, 80, 9)),
            "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ=",
        ),
        ("an echo request", echo.with(Transport::echo_request(5, 1)), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        (
            "an echo reply whose request was not seen",
            answer.clone().with(Transport::icmp(0, 0, [0, 5, 0, 1])),
            "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=",
        ),
        (
            "port unreachable, which has no answer",
            answer.with(Transport::icmp(3, 3, [0; 4]).payload([0; 28])),
            "1:ZouhgnVac3AK62b9tKlLG4N+dVQ=",
        ),
        (
            "an ICMPv6 echo request",
            six().with(Transport::echo_request(5, 1)),
            "1:QrVnZEjGihSsEkRF1XxqheQ1Za8=",
        ),
        (
            "a neighbour solicitation",
            six().with(Transport::icmp(135, 0, [0; 4]).payload([0; 16])),
            "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
        ),
        (
            "GRE, which has no ports",
            Packet::ipv4("10.0.0.2", "10.0.0.1").with(Transport::raw(47, [0, 0, 8, 0])),
            "1:+KlEHDT0vJgzs/eNmzHq0aSpRYw=",
        ),
    ]
}

#[test]
fn agrees_with_the_reference() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("one.pcap");
    for (what, packet, expected) in vectors() {
        write_capture(&file, &[Frame::new(1_700_000_000_000_000_000, packet.build())])?;
        let rows = pcap_rows(&[&file], &["--no-model"])?;
        ensure!(rows.len() == 1, "{what}: one flow is expected: {rows:?}");
        let found = row::text(&rows[0], "community_id")?;
        ensure!(found == expected, "{what}: {found} should be {expected}: {}", rows[0]);
    }
    Ok(())
}
