//! What surrounds a flow: counted as defined, in captures and live alike, in bounded memory.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flowmeter::context::{By, Context, Surroundings};
use flowmeter::record::FlowRecord;
use flowmeter::source::pcap::Recorder;
use flowmeter::source::pcap::flow_table::Flows;
use flowmeter_common::flow::{Entry, Opening};
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::key::mapped_ipv4;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::packet;
use flowmeter_common::parse::{ParseOptions, parse_link};
use flowmeter_common::time::SECOND;
use harness::frames::{Packet, Transport, tcp};

const START: u64 = 1_700_000_000 * SECOND;

/// The records of frames, given with their times after the start, ns.
fn records(frames: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Result<Vec<FlowRecord>> {
    let mut records = Vec::new();
    let mut give = Recorder::new(true, |record| {
        records.push(record);
        Ok(())
    });
    let mut flows = Flows::new(Timeouts::default());
    for (at, data) in frames {
        let frame = SliceFrame::new(&data, data.len());
        flows.packets(&[(parse_link(&frame, 1, ParseOptions::default()), START + at)], &mut give)?;
    }
    flows.finish(&mut give)?;
    Ok(records)
}

fn around(record: &FlowRecord) -> Result<&Surroundings> {
    record.context.as_deref().context("a record has what surrounds it")
}

fn syn(from: &str, from_port: u16, to: &str, to_port: u16) -> Packet {
    Packet::ipv4(from, to).with(Transport::tcp(from_port, to_port).flags(tcp::SYN))
}

#[test]
fn every_probe_of_a_scan_sees_the_whole_scan() -> Result<()> {
    // Forty hosts tried on one port within four seconds, none of which answers; and one page read by somebody else.
    let scan = (0..40_u64).map(|i| {
        (i * SECOND / 10, syn("192.0.2.9", 50_000 + i as u16, &format!("198.51.100.{}", i + 1), 23).build())
    });
    let page = [
        (5 * SECOND, syn("192.0.2.1", 4000, "203.0.113.7", 80).build()),
        (
            5 * SECOND + 1,
            Packet::ipv4("203.0.113.7", "192.0.2.1")
                .with(Transport::tcp(80, 4000).flags(tcp::SYN | tcp::ACK))
                .build(),
        ),
    ];
    let records = records(scan.chain(page))?;
    ensure!(records.len() == 41, "{} flows", records.len());
    for record in &records {
        let found = around(record)?;
        let source = found.by(By::Source);
        if record.source().address.to_string() == "192.0.2.1" {
            assert_eq!((source.flows, source.unanswered[2], source.single[2]), ([1.0; 3], 0.0, 0.0));
            continue;
        }
        assert_eq!(source.flows, [40.0; 3]);
        assert!((source.peers[2] - 40.0).abs() < 6.0, "{source:?}");
        assert_eq!(source.ports, [1.0; 3]);
        assert_eq!((source.unanswered, source.ended), ([40.0; 3], [40.0; 3]));
        assert_eq!(source.bytes[2], 40.0 * record.entry.state.bytes() as f32);
        assert_eq!(found.by(By::SourceAndPort).flows, [40.0; 3]);
        assert_eq!(found.by(By::Destination).flows, [1.0; 3]);
        assert_eq!((found.by(By::Pair).flows, found.by(By::Service).flows), ([1.0; 3], [1.0; 3]));
    }
    Ok(())
}

#[test]
fn a_silence_is_lived_through_and_not_jumped_over() -> Result<()> {
    // Ten unanswered attempts, then nothing for an hour, then one packet. The attempts have ended two minutes after they
    // were made, when somebody looking would have seen them, and not an hour later, when nobody remembers them.
    let burst =
        (0..10_u64).map(|i| (i * SECOND, syn("192.0.2.9", 5000 + i as u16, "198.51.100.1", 22).build()));
    let records = records(burst.chain([(3600 * SECOND, syn("192.0.2.3", 1, "198.51.100.1", 22).build())]))?;
    ensure!(records.len() == 11);
    assert_eq!(around(&records[0])?.by(By::Source).flows[2], 10.0);
    let late = around(&records[10])?;
    assert_eq!(
        (late.by(By::Source).flows[2], late.by(By::Service).flows[2]),
        (1.0, 1.0),
        "an hour later all is forgotten"
    );
    Ok(())
}

#[test]
fn announcements_to_groups_are_not_attempts() -> Result<()> {
    let shout = |i: u64| {
        let packet = Packet::ipv4("192.0.2.9", "255.255.255.255").with(Transport::udp(4000 + i as u16, 5560));
        (i * SECOND / 5, packet.build())
    };
    let ask = (9 * SECOND, syn("192.0.2.9", 1, "198.51.100.1", 22).build());
    let records = records((0..30).map(shout).chain([ask]))?;
    ensure!(records.len() == 31);
    let found = around(&records[30])?.by(By::Source);
    assert_eq!((found.flows, found.unanswered[2]), ([1.0; 3], 1.0));
    assert!(records[0].to_group() && !records[30].to_group());
    Ok(())
}

#[test]
fn a_beacon_is_regular() -> Result<()> {
    let beacon = (0..20_u64)
        .map(|i| (i * 10 * SECOND, syn("192.0.2.9", 5000 + i as u16, "198.51.100.1", 443).build()));
    let records = records(beacon)?;
    let last = around(records.last().context("there are flows")?)?;
    assert!((last.start_gap - 10.0).abs() < 1e-3 && last.start_variation < 1e-3, "{last:?}");
    assert_eq!((last.starts, last.difference), (19.0, 0.0));
    Ok(())
}

/// Memory of this process that is in use, in bytes.
fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split(' ').nth(1).context("a second number")?.parse()?;
    Ok(pages * 4096)
}

/// Other tests of this program take memory at the same time, so it is measured in a process of its own.
#[test]
fn ten_million_addresses_take_no_more_memory_than_is_printed() -> Result<()> {
    const ALONE: &str = "FLOWMETER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return ten_million_addresses();
    }
    let name = "context::ten_million_addresses_take_no_more_memory_than_is_printed";
    let child = Command::new(std::env::current_exe()?).args(["--exact", name]).env(ALONE, "1").output()?;
    let said = String::from_utf8_lossy(&child.stdout);
    ensure!(child.status.success() && said.contains("1 passed"), "{said}");
    Ok(())
}

fn ten_million_addresses() -> Result<()> {
    let mut context = Context::new(7);
    let before = resident()?;
    let mut entry = Entry::opened_by(
        &packet::Packet::of(Default::default()),
        Opening::of(&packet::Packet::of(Default::default())),
    );
    for i in 0..10_000_000_u32 {
        // Addresses in 1.0.0.0 to 1.152.150.128, each with another destination.
        entry.key.a_address = mapped_ipv4((0x0100_0000 + i).to_be());
        entry.key.b_address = mapped_ipv4((0x1e00_0000 + i).to_be());
        entry.key.ip_version = 4;
        context.opened(&entry, u64::from(i) * 10_000);
        context.ended(&entry, u64::from(i) * 10_000);
    }
    let grown = resident()?.saturating_sub(before);
    let bound = Context::bytes();
    ensure!(grown <= bound + bound / 10, "{grown} bytes more, {bound} are printed");
    ensure!(grown >= bound / 2, "the tables were to be filled: {grown} of {bound} bytes");
    ensure!(context.pushed_out() > 0, "what had to give way is counted");
    Ok(())
}
