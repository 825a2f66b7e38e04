//! Promise: the agent survives what happens to its machine: a restart, rotation, a full disk, a reader that hangs, an interface
//! that goes and comes back.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::agent::{Agent, Signal};
use harness::cable::Cable;
use harness::frames::{Packet, Transport};
use harness::replay::Frame;
use harness::{machine, wait_until};
use serde_json::Value;

/// Options under which a flow is written soon after its last packet.
const SOON: [&str; 5] = ["--no-model", "--idle-timeout", "200ms", "--stats-interval", "200ms"];

/// A datagram of each of some flows, told apart by the server's port.
fn datagrams(ports: std::ops::Range<u16>) -> Vec<Frame> {
    let one = |port| {
        Packet::ipv4("192.0.2.1", "198.51.100.7").with(Transport::udp(5000, port).payload(*b"question"))
    };
    ports.map(|port| Frame::new(0, one(port).build())).collect()
}

/// The server's ports of the flows in a log, in order; fails if a line is not whole.
fn ports(log: &Path) -> Result<Vec<u64>> {
    let mut ports = Vec::new();
    for line in std::fs::read_to_string(log)?.lines() {
        let row: Value = serde_json::from_str(line)
            .map_err(|error| anyhow::anyhow!("{}: {error}: {line}", log.display()))?;
        if row["event"] == "flow" {
            ports.extend(row["dst_port"].as_u64());
        }
    }
    ports.sort_unstable();
    Ok(ports)
}

#[test]
fn a_restart_keeps_the_log() -> Result<()> {
    let Some(_machine) = machine::shared("a log after a restart") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    for round in 0..3 {
        let agent = cable.agent(&SOON)?;
        cable.send(&datagrams(100 + round * 10..105 + round * 10))?;
        let outcome = agent.end(Signal::Terminate)?;
        ensure!(outcome.status.success(), "{}", outcome.said);
        // What a power failure leaves.
        let mut log = std::fs::read(cable.file("log"))?;
        log.extend(br#"{"event":"torn"#);
        std::fs::write(cable.file("log"), log)?;
    }
    let text = std::fs::read_to_string(cable.file("log"))?;
    let flows: Vec<&str> = text.lines().filter(|line| line.contains(r#""event":"flow""#)).collect();
    ensure!(flows.len() == 15, "{} of 15 flows are in the log", flows.len());
    for line in flows {
        ensure!(serde_json::from_str::<Value>(line).is_ok(), "a torn line has swallowed a flow: {line}");
    }
    Ok(())
}

/// What logrotate does: the file is moved, then the agent is told.
#[test]
fn a_moved_log_is_opened_anew() -> Result<()> {
    let Some(_machine) = machine::shared("rotation of the log") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let (log, moved) = (cable.file("log"), cable.file("log.1"));
    let agent = cable.agent(&SOON)?;
    cable.send(&datagrams(100..110))?;
    agent.wait_for(10, |row| row["event"] == "flow")?;
    std::fs::rename(&log, &moved)?;
    agent.signal(libc::SIGHUP)?;
    wait_until("the log is there again", || Ok(log.is_file()))?;
    cable.send(&datagrams(200..210))?;
    let outcome = agent.stop(Signal::Terminate)?;
    outcome.expect_clean()?;
    ensure!(ports(&moved)? == (100..110).collect::<Vec<u64>>(), "{:?}", ports(&moved)?);
    ensure!(ports(&log)? == (200..210).collect::<Vec<u64>>(), "{:?}", ports(&log)?);
    Ok(())
}

/// What `copytruncate` does: the file is copied, then cut to nothing while the agent writes.
#[test]
fn a_log_that_is_cut_has_no_hole() -> Result<()> {
    let Some(_machine) = machine::shared("a log that is cut") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let agent = cable.agent(&SOON)?;
    cable.send(&datagrams(100..110))?;
    agent.wait_for(10, |row| row["event"] == "flow")?;
    std::fs::File::options().write(true).open(cable.file("log"))?.set_len(0)?;
    cable.send(&datagrams(200..210))?;
    agent.stop(Signal::Terminate)?.expect_clean()?;
    ensure!(
        ports(&cable.file("log"))? == (200..210).collect::<Vec<u64>>(),
        "{:?}",
        ports(&cable.file("log"))?
    );
    Ok(())
}

/// A file system of so many KiB; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(folder: PathBuf, kib: u32) -> Result<Self> {
        std::fs::create_dir(&folder)?;
        let options = format!("size={kib}k");
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder).status()?;
        ensure!(done.success(), "mounting a small file system: {done}");
        Ok(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_does_not_end_the_agent() -> Result<()> {
    let Some(_machine) = machine::shared("a full disk") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let small = Small::mount(cable.file("small"), 1024)?;
    let (log, ballast) = (small.0.join("log"), small.0.join("ballast"));
    let agent = Agent::start(&cable.watches, &["in"], &log, &SOON)?;
    cable.send(&datagrams(100..110))?;
    agent.wait_for(10, |row| row["event"] == "flow")?;
    // Nothing is left for the log.
    let _ = std::fs::write(&ballast, vec![0; 1 << 22]);
    cable.send(&datagrams(1000..2000))?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(Path::new(&format!("/proc/{}", agent.id())).exists(), "the agent has ended");
    std::fs::remove_file(&ballast)?;
    cable.send(&datagrams(200..210))?;
    agent.wait_for(1, |row| row["event"] == "flow" && row["dst_port"] == 209)?;
    let outcome = agent.end(Signal::Terminate)?;
    let found = ports(&log)?;
    ensure!((100..110).chain(200..210).all(|port| found.contains(&port)), "{found:?}");
    ensure!(outcome.said.contains("log"), "what was lost is said: {}", outcome.said);
    Ok(())
}

/// Whoever reads the log through a pipe has stopped to read; the agent ends when it is told to.
#[test]
fn a_reader_that_hangs_does_not_hold_the_agent() -> Result<()> {
    let Some(_machine) = machine::shared("a reader that hangs") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let pipe = cable.file("pipe");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "making a pipe");
    // A reader that never reads; opened without waiting for the writer.
    let reader = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe)?;
    let agent = Agent::start(&cable.watches, &["in"], &pipe, &SOON)?;
    // Far more than a pipe holds.
    cable.send(&datagrams(1000..3000))?;
    std::thread::sleep(Duration::from_secs(1));
    let outcome = agent.end(Signal::Terminate)?;
    ensure!(outcome.took < Duration::from_secs(12), "the end took {:?}", outcome.took);
    ensure!(!cable.watches.has_xdp("in")?, "the XDP program is still attached");
    drop(reader);
    Ok(())
}

#[test]
fn an_interface_that_comes_back_is_watched_again() -> Result<()> {
    let Some(_machine) = machine::shared("an interface that comes back") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let agent = cable.agent(&SOON)?;
    cable.send(&datagrams(100..110))?;
    agent.wait_for(10, |row| row["event"] == "flow")?;
    cable.watches.ip(&["link", "delete", "in"])?;
    cable.join()?;
    wait_until("a program is attached again", || cable.watches.has_xdp("in"))?;
    cable.send(&datagrams(200..210))?;
    agent.wait_for(20, |row| row["event"] == "flow")?;
    let outcome = agent.stop(Signal::Terminate)?;
    outcome.expect_clean()?;
    ensure!(outcome.said.contains("WARN"), "that it was gone is said: {}", outcome.said);
    Ok(())
}

/// Down and up again keeps the programs, and the account.
#[test]
fn an_interface_that_was_down_goes_on() -> Result<()> {
    let Some(_machine) = machine::shared("an interface that was down") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let agent = cable.agent(&SOON)?;
    cable.send(&datagrams(100..110))?;
    cable.watches.ip(&["link", "set", "in", "down"])?;
    cable.watches.ip(&["link", "set", "in", "up"])?;
    cable.send(&datagrams(200..210))?;
    let outcome = agent.stop(Signal::Terminate)?;
    outcome.expect_clean()?;
    let found = ports(&cable.file("log"))?;
    ensure!(found == (100..110).chain(200..210).collect::<Vec<u64>>(), "{found:?}");
    Ok(())
}

/// The first goes on; the second says who is there.
#[test]
fn a_second_agent_on_an_interface_is_refused() -> Result<()> {
    let Some(_machine) = machine::shared("a second agent") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let first = cable.agent(&SOON)?;
    let other = cable.file("other");
    let refused = Agent::start(&cable.watches, &["in"], &other, &SOON).err();
    let said = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains("in") && said.contains("XDP") && !said.contains("panicked"), "{said:?}");
    cable.send(&datagrams(100..110))?;
    let outcome = first.stop(Signal::Terminate)?;
    outcome.expect_clean()?;
    ensure!(ports(&cable.file("log"))?.len() == 10, "the first has counted on");
    Ok(())
}

/// What `kill -9` leaves behind: nothing that runs.
#[test]
fn a_killed_agent_leaves_no_program() -> Result<()> {
    let Some(_machine) = machine::shared("what kill -9 leaves") else {
        return Ok(());
    };
    let cable = Cable::new()?;
    let agent = cable.agent(&SOON)?;
    ensure!(
        cable.watches.has_xdp("in")? && cable.watches.tcx_egress_programs("in")? == 1,
        "both are attached"
    );
    agent.signal(libc::SIGKILL)?;
    agent.wait()?;
    wait_until("both are gone", || {
        Ok(!cable.watches.has_xdp("in")? && cable.watches.tcx_egress_programs("in")? == 0)
    })
}
