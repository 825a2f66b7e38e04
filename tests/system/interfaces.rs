//! Promise: interfaces may go, come back and change while the agent runs, and an inspector that gets nothing is noticed.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use harness::{machine, row, wait_until};
use serde_json::Value;

const QUICK: [&str; 5] = ["--no-model", "--idle-timeout", "500ms", "--stats-interval", "200ms"];

/// Sends so many packets of one flow over the cable.
fn send(sends: &Namespace, packets: u16) -> Result<()> {
    let frames: Vec<Frame> = (0..packets)
        .map(|_| {
            let udp = Transport::udp(1000, 53).payload(*b"question");
            Frame::new(0, Packet::ipv4("192.0.2.1", "198.51.100.7").with(udp).build())
        })
        .collect();
    sends.run(|| {
        Sender::open("out")?.send(&frames, Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))
    })??;
    Ok(())
}

/// The last `stats` line.
fn stats(agent: &Agent) -> Result<Option<Value>> {
    Ok(agent.rows()?.into_iter().rfind(|row| row["event"] == "stats"))
}

/// Waits until `stats` says this of the interface.
fn wait_for_state(agent: &Agent, link: &str, attached: bool) -> Result<()> {
    wait_until(&format!("{link}, attached {attached}"), || {
        let stats = stats(agent)?;
        let state = stats.as_ref().map(|stats| &stats["interfaces"][0]);
        Ok(state.is_some_and(|state| state["link"] == link && state["attached"] == attached))
    })
}

fn start(watches: &Namespace, folder: &Path, further: &[&str]) -> Result<Agent> {
    let words: Vec<&str> = QUICK.iter().chain(further).copied().collect();
    Agent::start(watches, &["in"], &folder.join("log"), &words)
}

#[test]
fn an_interface_that_comes_back_is_watched_again() -> Result<()> {
    let Some(_machine) = machine::shared("an interface is deleted and made again") else { return Ok(()) };
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    let mut agent = start(&watches, folder.path(), &[])?;
    send(&sends, 10)?;
    wait_for_state(&agent, "up", true)?;
    watches.ip(&["link", "set", "in", "down"])?;
    wait_for_state(&agent, "down", true)?;
    watches.ip(&["link", "set", "in", "up"])?;
    wait_for_state(&agent, "up", true)?;
    // Deleted, and made again: another number under the same name.
    watches.ip(&["link", "del", "in"])?;
    agent.wait_said("in is gone")?;
    wait_for_state(&agent, "gone", false)?;
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    agent.wait_said("watched again")?;
    wait_for_state(&agent, "up", true)?;
    ensure!(watches.has_xdp("in")?, "an XDP program is attached again");
    send(&sends, 20)?;
    wait_until(
        "30 packets",
        || Ok(stats(&agent)?.is_some_and(|stats| stats["interfaces"][0]["seen"] == 30)),
    )?;
    let outcome = agent.stop(Signal::Terminate)?;
    outcome.expect_clean()?;
    let packets: u64 = outcome.flows().map(|flow| row::number(flow, "packets")).sum::<Result<u64>>()?;
    ensure!(packets == 30, "{packets} packets in flows");
    ensure!(outcome.flows().all(|flow| flow["observed"] == "in"), "both numbers have its name");
    Ok(())
}

#[test]
fn the_agent_ends_with_its_interface_if_asked_to() -> Result<()> {
    let Some(_machine) = machine::shared("an interface is deleted") else { return Ok(()) };
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    let agent = start(&watches, folder.path(), &["--exit-when-gone"])?;
    watches.ip(&["link", "del", "in"])?;
    let outcome = agent.wait()?;
    ensure!(outcome.status.code() == Some(1) && outcome.said.contains("in is gone"), "{}", outcome.said);
    Ok(())
}

/// As Suricata does when it starts: it turns GRO off at its interface, and the veth drops what is redirected there.
#[test]
fn an_inspector_that_turns_gro_off_is_noticed_and_packets_pass() -> Result<()> {
    let Some(_machine) = machine::shared("an inspector turns GRO off") else { return Ok(()) };
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    watches.ip(&["link", "add", "ids", "type", "veth", "peer", "name", "suricata"])?;
    for name in ["ids", "suricata"] {
        watches.ip(&["link", "set", name, "up", "arp", "off"])?;
    }
    let gro = |state: &str| -> Result<()> {
        let output =
            watches.command("ethtool").args(["-K", "suricata", "gro", state]).output().context("ethtool")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    gro("on")?;
    let folder = tempfile::tempdir()?;
    let mut agent = start(&watches, folder.path(), &["--mode", "divert", "--inspector", "ids"])?;
    let inspector = |agent: &Agent| -> Result<Value> {
        Ok(stats(agent)?.map(|stats| stats["inspector"].clone()).unwrap_or_default())
    };
    // The first heartbeat may come later than the first packets.
    wait_until("packets at the inspector", || {
        send(&sends, 20)?;
        Ok(inspector(&agent)?["arrived"].as_u64() > Some(40))
    })?;
    gro("off")?;
    let turned_off = Instant::now();
    let feeder = |agent: &mut Agent, words: &str| -> Result<String> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    send(&sends, 20)?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            });
            let said = agent.wait_said(words);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            said
        })
    };
    let said = feeder(&mut agent, "every packet passes for now")?;
    ensure!(said.contains("GRO") && said.contains("ids"), "it says why: {said}");
    ensure!(turned_off.elapsed() < Duration::from_secs(5), "noticed after {:?}", turned_off.elapsed());
    wait_until("stats say so", || Ok(inspector(&agent)?["reached"] == false))?;
    let blind = inspector(&agent)?;
    ensure!(row::number(&blind, "sent")? > row::number(&blind, "arrived")?, "{blind}");
    gro("on")?;
    feeder(&mut agent, "verdicts are in force")?;
    wait_until("stats say so", || Ok(inspector(&agent)?["reached"] == true))?;
    let outcome = agent.stop(Signal::Terminate)?;
    outcome.expect_clean()
}
