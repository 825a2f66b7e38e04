//! Promise: SIGINT and SIGTERM write the flows that still live, detach every program, and end with exit code 0.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport, tcp};
use harness::machine;
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use harness::row::{self, Counted};

fn flushes(signal: Signal) -> Result<()> {
    let Some(_machine) = machine::shared("a signal flushes living flows and detaches") else {
        return Ok(());
    };
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    let agent = Agent::start(&watches, &["in"], &folder.path().join("log"), &[])?;
    ensure!(watches.has_xdp("in")?, "an XDP program is attached while FlowMeter runs");
    ensure!(watches.tcx_egress_programs("in")? == 1, "a TCX program is attached while FlowMeter runs");

    let there = Packet::ipv4("192.0.2.1", "198.51.100.7");
    let back = Packet::ipv4("198.51.100.7", "192.0.2.1");
    let frames: Vec<Frame> = [
        there.clone().with(Transport::tcp(40000, 22).flags(tcp::SYN)),
        back.clone().with(Transport::tcp(22, 40000).flags(tcp::SYN | tcp::ACK)),
        there.clone().with(Transport::tcp(40000, 22)),
        there.with(Transport::udp(5000, 53).payload(*b"question")),
    ]
    .iter()
    .zip(0_u64..)
    .map(|(packet, number)| Frame::new(number, packet.build()))
    .collect();
    let sent = sends.run(|| {
        Sender::open("out")?.send(&frames, Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))
    })??;
    watches.wait_received("in", sent)?;
    ensure!(agent.rows()?.iter().all(|row| row["event"] != "flow"), "both flows still live");

    let outcome = agent.stop(signal)?;
    outcome.expect_clean()?;
    let mut flows = outcome.flows().map(Counted::of).collect::<Result<Vec<_>>>()?;
    flows.sort();
    let found: Vec<_> = flows.iter().map(|f| (f.protocol, f.packets_forward, f.packets_backward)).collect();
    ensure!(found == [(6, 2, 1), (17, 1, 0)], "both living flows are written, whole: {flows:?}");
    for row in outcome.flows() {
        ensure!(!row::text(row, "end_reason")?.is_empty(), "a flow says why it ended: {row}");
    }
    ensure!(outcome.took < Duration::from_secs(5), "the end took {:?}", outcome.took);
    ensure!(!watches.has_xdp("in")?, "the XDP program is still attached");
    ensure!(watches.tcx_egress_programs("in")? == 0, "the TCX program is still attached");
    Ok(())
}

#[test]
fn interrupt() -> Result<()> {
    flushes(Signal::Interrupt)
}

#[test]
fn terminate() -> Result<()> {
    flushes(Signal::Terminate)
}
