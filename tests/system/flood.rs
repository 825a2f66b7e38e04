//! Promise: a flood of new flows fills the table and nothing else: memory stays, established flows keep their counters,
//! every packet is accounted for, and the log says what it was.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use flowmeter::record::FlowRecord;
use flowmeter::source::live::Drain;
use flowmeter_common::lifecycle::Timeouts;
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport, tcp};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use harness::test_programs::{Cursor, GENERATOR, Setup, TestPrograms, Traffic};
use harness::{machine, row};

/// One-packet flows.
const FLOOD: u32 = 10_000_000;
/// Slots of the table.
const SLOTS: u32 = 65_536;
/// Connections that were there before.
const ESTABLISHED: u16 = 100;

/// The first packet of a flow; the flow's address and port are put in.
fn probe() -> Vec<u8> {
    Packet::ipv4("10.0.0.0", "192.0.2.1").with(Transport::tcp(1024, 443).flags(tcp::SYN)).build()
}

/// Connection number `i` as a mirror port shows it: its handshake, or three packets with payload each way.
fn connection(i: u16, handshake: bool) -> Vec<Frame> {
    let client = format!("198.51.100.{}", i + 1);
    let segment = |forward: bool, flags: u8, payload: usize| {
        let (from, to) =
            if forward { (client.as_str(), "203.0.113.5") } else { ("203.0.113.5", client.as_str()) };
        let (port, other) = if forward { (5000, 22) } else { (22, 5000) };
        let transport = Transport::tcp(port, other).flags(flags).payload(vec![0; payload]);
        Frame::new(0, Packet::ipv4(from, to).with(transport).build())
    };
    if handshake {
        return vec![
            segment(true, tcp::SYN, 0),
            segment(false, tcp::SYN | tcp::ACK, 0),
            segment(true, tcp::ACK, 0),
        ];
    }
    (0..6).map(|n| segment(n % 2 == 0, tcp::ACK | tcp::PSH, 100)).collect()
}

/// All that the agent said at its start that it may need.
fn printed_mebibytes(said: &str) -> Result<u64> {
    let line = said.lines().find(|line| line.contains("memory: ")).context("the agent says what it needs")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let numbers = words.windows(2).filter(|pair| pair[1] == "MiB").map(|pair| pair[0].parse::<u64>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>().with_context(|| line.to_owned())?;
    ensure!(numbers.len() == 4, "flows, aggregates, those on their way, what surrounds them: {line}");
    Ok(numbers.iter().sum())
}

/// Kernel programs and drain alone, without an interface.
#[test]
fn through_the_kernel_program() -> Result<()> {
    let Some(_machine) = machine::alone("a flood through the kernel program") else {
        return Ok(());
    };
    let mut test_programs = TestPrograms::load(&Setup {
        programs: &["bench_flowmeter"],
        flows: SLOTS,
        traffic: Traffic::EachItsOwn,
        ..Setup::default()
    })?;
    let ring = test_programs.ring()?;
    let (table, aggregates) = (test_programs.table.clone(), test_programs.aggregates.clone());
    let mut drain = Drain::new(table, aggregates, ring, Timeouts::default(), None);
    let (mut flows, mut folded) = (0_u64, 0_u64);
    let mut give = |records: Vec<FlowRecord>| {
        for record in &records {
            match record.is_aggregate() {
                true => folded += record.entry.state.packets(),
                false => flows += 1,
            }
        }
        Ok(())
    };
    let frame = probe();
    let batch = 100_000;
    for _ in 0..FLOOD / batch {
        test_programs.run("bench_flowmeter", &frame, batch)?;
        drain.poll(&mut give)?;
    }
    drain.flush(&mut give)?;
    let (drained, counted) = (drain.counts(), test_programs.counted()?);
    ensure!(counted.balanced() && counted.seen == u64::from(FLOOD), "{counted:?}");
    ensure!(counted.counted == drained.packets && counted.opened == drained.flows, "{counted:?} {drained:?}");
    ensure!(counted.folded > 0 && counted.unaggregated == 0, "all of one service: {counted:?}");
    ensure!(
        (flows, folded) == (counted.opened, counted.folded),
        "{flows} and {folded} were given: {counted:?}"
    );
    ensure!(drained.evicted > 0, "one-packet flows make room: {drained:?}");
    Ok(())
}

/// The agent on a cable, as fast as it carries.
#[test]
fn over_a_cable() -> Result<()> {
    let Some(_machine) = machine::alone("a flood over a cable") else {
        return Ok(());
    };
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    let slots = SLOTS.to_string();
    // The flood takes minutes on a busy machine; connections are silent for as long.
    let words = ["--max-flows", &slots, "--stats-interval", "1s", "--idle-timeout", "1h"];
    let agent = Agent::start(&watches, &["in"], &folder.path().join("log"), &words)?;
    let mut generator = TestPrograms::load(&Setup {
        programs: &[GENERATOR],
        traffic: Traffic::EachItsOwn,
        leave_by: sends.interface_index("out")?,
        ..Setup::default()
    })?;
    generator.place(|cpu| Cursor { position: cpu as u32 * FLOOD, ..Cursor::default() })?;

    let send = |handshake: bool| -> Result<()> {
        let frames: Vec<Frame> = (0..ESTABLISHED).flat_map(|i| connection(i, handshake)).collect();
        sends.run(|| {
            Sender::open("out")?.send(&frames, Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))
        })??;
        Ok(())
    };
    send(true)?;
    send(false)?;
    watches.wait_quiet("in")?;
    let before = agent.resident_bytes()?;
    let frame = probe();
    let mut most = before;
    for _ in 0..10 {
        sends.run(|| generator.send(&frame, FLOOD / 10))??;
        most = most.max(agent.resident_bytes()?);
    }
    send(false)?;
    watches.wait_quiet("in")?;
    let arrived = watches.received_packets("in")?;
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;

    let stats = outcome.stats()?;
    let books = row::identity(stats)?;
    ensure!(books.seen == arrived, "{arrived} packets arrived: {books:?}");
    ensure!(books.seen > u64::from(FLOOD) / 2, "the flood came through: {books:?}");
    for other in outcome.rows.iter().filter(|row| row["event"] == "stats") {
        row::identity(other).context("while the flood lasted")?;
    }
    let established: Vec<_> = outcome.flows().filter(|row| row["dst_port"] == 22).collect();
    ensure!(established.len() == usize::from(ESTABLISHED), "{} connections", established.len());
    for row in established {
        ensure!(
            row["forward_packets"] == 8 && row["backward_packets"] == 7,
            "a connection lost packets: {row}"
        );
    }
    let aggregates: Vec<_> = outcome.rows.iter().filter(|row| row["event"] == "aggregate").collect();
    let folded = aggregates.iter().map(|row| row::number(row, "packets")).sum::<Result<u64>>()?;
    ensure!(folded == books.folded && folded > 0, "aggregates hold {folded} packets: {books:?}");
    for row in &aggregates {
        let service = (&row["dst_ip"], &row["dst_port"], &row["src_ip"], &row["end_reason"]);
        ensure!(
            service == (&"192.0.2.1".into(), &443.into(), &serde_json::Value::Null, &"folded".into()),
            "{row}"
        );
        ensure!(row["verdict"] != "none" && row["score"].is_number(), "it is scored like a flow: {row}");
    }
    ensure!(outcome.said.contains("no slot"), "the log says so: {}", outcome.said);
    // Shared pages are the process's once it has looked at them; so is what surrounds flows once there are so many.
    let printed = printed_mebibytes(&outcome.said)?;
    eprintln!(
        "{} packets arrived, {} in {} aggregates; memory {} to {} MiB, printed {printed}",
        arrived,
        folded,
        aggregates.len(),
        before >> 20,
        most >> 20
    );
    ensure!(
        most - before < printed << 20,
        "memory grew from {before} to {most} bytes, {printed} MiB were printed"
    );
    Ok(())
}
