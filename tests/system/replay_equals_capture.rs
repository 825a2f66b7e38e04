//! Promise: the same packets give the same flows, whether they pass a watched interface or are read from a capture.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use harness::agent::{Agent, Outcome, Signal, pcap_rows};
use harness::frames::{Extension, Fragment, Packet, Transport, protocol, tcp};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender, merge, read_capture, write_capture};
use harness::row::{self, Counted};
use harness::{fixtures, machine, sample_folder};
use serde_json::Value;

/// Sends frames at a watched interface and returns what FlowMeter made of them, and how many were sent.
fn live(frames: &[Frame], pace: Pace, further: &[&str]) -> Result<(Outcome, u64)> {
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    let agent = Agent::start(&watches, &["in"], &folder.path().join("log"), further)?;
    let sent = sends
        .run(|| Sender::open("out")?.send(frames, pace, Oversized::Refuse, &AtomicBool::new(false)))??;
    watches.wait_received("in", sent)?;
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    Ok((outcome, sent))
}

/// How often each flow is there; VLAN tags and tunnels belong to its name.
fn census<'a>(rows: impl Iterator<Item = &'a Value>) -> Result<BTreeMap<(Counted, [String; 3]), u32>> {
    let mut found = BTreeMap::new();
    for row in rows.filter(|row| row["event"] == "flow") {
        *found
            .entry((Counted::of(row)?, ["vlan", "tunnel", "tunnel_id"].map(|name| row[name].to_string())))
            .or_default() += 1;
    }
    Ok(found)
}

/// Fails with all differences unless both ways give the same flows.
fn same(frames: &[Frame], pace: Pace, further: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("same.pcap");
    write_capture(&file, frames)?;
    let expected = census(pcap_rows(&[&file], further)?.iter())?;
    let (outcome, sent) = live(frames, pace, further)?;
    let found = census(outcome.flows())?;
    let mut differences = String::new();
    for (side, own, other) in [("only in the capture", &expected, &found), ("only live", &found, &expected)] {
        for (flow, count) in own.iter().filter(|(flow, count)| other.get(flow) != Some(*count)) {
            differences.push_str(&format!("{side}, {count} times: {flow:?}\n"));
        }
    }
    let books = row::identity(outcome.stats()?)?;
    ensure!(books.seen == sent, "{sent} packets were sent, FlowMeter has seen {}: {books:?}", books.seen);
    ensure!(
        differences.is_empty(),
        "{} flows expected, {} found\n{differences}",
        expected.len(),
        found.len()
    );
    ensure!(!expected.is_empty(), "the capture has flows");
    Ok(())
}

/// Every recording of the sample at once, at its recorded pace: opening, closing and reopening by time included.
#[test]
fn the_recorded_sample() -> Result<()> {
    let Some(_machine) = machine::shared("live flows equal those of a capture") else {
        return Ok(());
    };
    let mut captures = Vec::new();
    for entry in std::fs::read_dir(sample_folder())? {
        let path = entry?.path();
        if path.to_string_lossy().contains(".pcap") {
            captures.push(read_capture(&path)?);
        }
    }
    ensure!(captures.len() >= 20, "the sample has {} captures", captures.len());
    same(&merge(captures), Pace::Times(1.0), &[])
}

/// Tags, options, extension headers, fragments, rare protocols: each a row with what it is.
fn odd_packets() -> Vec<(&'static str, Vec<u8>)> {
    let four = || Packet::ipv4("192.0.2.1", "198.51.100.7");
    let six = || Packet::ipv6("2001:db8::1", "2001:db8::7");
    let udp = || Transport::udp(4000, 53).payload(*b"payload");
    let extensions = |count: usize| {
        (0..count).fold(six(), |packet, _| packet.extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0])))
    };
    let piece = |offset, more| Fragment { offset, more, identification: 77 };
    vec![
        ("plain UDP", four().with(udp()).build()),
        ("padding after the IP packet is not counted", four().with(udp()).padding(11).build()),
        ("an 802.1Q tag", four().tag(7).with(udp()).build()),
        ("two tags", four().service_tag(100).tag(7).with(udp()).build()),
        ("a priority tag is not the same as none", four().tag(0).with(udp()).build()),
        ("three tags are one too many", four().service_tag(1).tag(2).tag(3).with(udp()).build()),
        ("IPv4 options", four().ip_options(&[7, 7, 4, 0, 0, 0, 0]).with(udp()).build()),
        (
            "SYN with options",
            four().with(Transport::tcp(40000, 80).flags(tcp::SYN).options(&[2, 4, 5, 180])).build(),
        ),
        (
            "SYN+ACK first turns the flow round",
            four().with(Transport::tcp(80, 41000).flags(tcp::SYN | tcp::ACK)).build(),
        ),
        (
            "a first fragment has ports",
            four().fragment(piece(0, true)).with(Transport::udp(9, 9).payload([1; 16])).build(),
        ),
        (
            "a later one has not",
            four().fragment(piece(3, false)).with(Transport::raw(protocol::UDP, [2; 16])).build(),
        ),
        ("IPv6", six().with(udp()).build()),
        ("IPv6 with one extension header", extensions(1).with(udp()).build()),
        ("IPv6 with four", extensions(4).with(udp()).build()),
        ("IPv6 with more than are followed", extensions(9).with(udp()).build()),
        (
            "hop-by-hop options and a routing header",
            six()
                .extension(Extension::HopByHop(vec![5, 2, 0, 0]))
                .extension(Extension::Routing(vec![0, 0, 0, 0, 0, 0]))
                .with(Transport::tcp(1, 2))
                .build(),
        ),
        (
            "a first IPv6 fragment",
            six().fragment(piece(0, true)).with(Transport::udp(9, 9).payload([1; 16])).build(),
        ),
        (
            "a later IPv6 fragment",
            six().fragment(piece(3, false)).with(Transport::raw(protocol::UDP, [2; 16])).build(),
        ),
        ("SCTP", four().with(Transport::sctp(5000, 5001, 9).payload([1, 0, 0, 20])).build()),
        ("an echo request", four().with(Transport::echo_request(5, 1).payload([0; 56])).build()),
        ("an ICMPv6 echo request", six().with(Transport::echo_request(5, 1).payload([0; 56])).build()),
        ("port unreachable", four().with(Transport::icmp(3, 3, [0; 4]).payload([0; 28])).build()),
        ("GRE, whose ports nobody knows", four().with(Transport::raw(47, [0, 0, 8, 0])).build()),
        ("a header cut short by its own length", four().with(Transport::raw(protocol::TCP, [0; 10])).build()),
        ("no IP at all", [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x06], &[0; 28]].concat()),
    ]
}

#[test]
fn odd_packets_made_by_hand() -> Result<()> {
    let Some(_machine) = machine::shared("live flows of odd packets equal those of a capture") else {
        return Ok(());
    };
    let frames: Vec<Frame> = odd_packets()
        .into_iter()
        .zip(1_u64..)
        .map(|((_, bytes), number)| Frame::new(1_700_000_000_000_000_000 + number * 1_000_000, bytes))
        .collect();
    same(&frames, Pace::Times(1.0), &[])
}

#[test]
fn inside_of_tunnels() -> Result<()> {
    let Some(_machine) = machine::shared("live flows inside of tunnels equal those of a capture") else {
        return Ok(());
    };
    let all = fixtures::all();
    let tunnels =
        all.iter().find(|fixture| fixture.name.contains("tunnels")).context("a fixture has tunnels")?;
    same(&tunnels.frames, Pace::Times(1.0), &["--tunnels"])
}

/// What surrounds a flow, of those features that depend neither on where a minute ends, nor on the key of the sketches, which
/// is a secret live.
fn surroundings(row: &Value) -> Result<BTreeMap<String, String>> {
    let features = row["features"].as_object().context("--features writes every feature")?;
    let counted =
        |name: &str| name.ends_with("_10m") && !name.contains("_peers_") && !name.contains("_ports_");
    let all = features.iter().filter(|(name, _)| counted(name) || name.ends_with("_share"));
    Ok(all.map(|(name, value)| (name.clone(), value.to_string())).collect())
}

/// A scan of forty hosts, and a flow beside it: what surrounds each of them is the same live as in a capture.
#[test]
fn what_surrounds_a_flow() -> Result<()> {
    let Some(_machine) = machine::shared("what surrounds a live flow equals that of a capture") else {
        return Ok(());
    };
    let probe = |i: u64| {
        let to = format!("198.51.100.{}", i + 1);
        Packet::ipv4("192.0.2.9", &to).with(Transport::tcp(5000 + i as u16, 23).flags(tcp::SYN)).build()
    };
    let other =
        Packet::ipv4("192.0.2.1", "203.0.113.7").with(Transport::udp(4000, 53).payload([1; 30])).build();
    let frames: Vec<Frame> = (0..40)
        .map(probe)
        .chain([other])
        .zip(1_u64..)
        .map(|(bytes, number)| Frame::new(1_700_000_000_000_000_000 + number * 20_000_000, bytes))
        .collect();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("scan.pcap");
    write_capture(&file, &frames)?;
    let (outcome, _) = live(&frames, Pace::Times(1.0), &["--features"])?;
    let captured = pcap_rows(&[&file], &["--features"])?;
    let by_flow = |rows: Vec<&Value>| -> Result<BTreeMap<_, _>> {
        let flows = rows.into_iter().filter(|row| row["event"] == "flow");
        flows.map(|row| Ok((Counted::of(row)?.conversation(), surroundings(row)?))).collect()
    };
    let (expected, found) = (by_flow(captured.iter().collect())?, by_flow(outcome.flows().collect())?);
    ensure!(expected.len() == 41, "{} flows", expected.len());
    for (flow, expected) in &expected {
        let found = found.get(flow).with_context(|| format!("not seen live: {flow:?}"))?;
        ensure!(found == expected, "{flow:?}\nlive    {found:?}\ncapture {expected:?}");
    }
    let most = expected.values().filter(|found| found["source_flows_10m"] == "40.0").count();
    ensure!(most == 40, "each probe sees the forty: {most}");
    Ok(())
}
