//! Promise: no restart, rotation, full disk or hanging reader destroys the log, or keeps the agent from working or stopping.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use harness::{machine, row, wait_until};
use serde_json::Value;

/// Flows end soon, and `stats` lines come often.
const QUICK: [&str; 4] = ["--idle-timeout", "500ms", "--stats-interval", "500ms"];

/// A cable between two namespaces.
struct Cable {
    sends: Namespace,
    watches: Namespace,
    folder: tempfile::TempDir,
}

impl Cable {
    fn new() -> Result<Self> {
        let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
        sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
        Ok(Self { sends, watches, folder: tempfile::tempdir()? })
    }

    /// Sends one packet of each of so many flows, the first from this port.
    fn send(&self, first: u16, flows: u16) -> Result<()> {
        let frames: Vec<Frame> = (first..first + flows)
            .map(|port| {
                let udp = Transport::udp(port, 53).payload(*b"question");
                Frame::new(0, Packet::ipv4("192.0.2.1", "198.51.100.7").with(udp).build())
            })
            .collect();
        self.sends.run(|| {
            Sender::open("out")?.send(&frames, Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))
        })??;
        Ok(())
    }
}

/// Every line of a log, of which all must be whole.
fn whole(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("torn: {line}"))).collect()
}

/// Ports of the flows that have ended in these rows, in order.
fn ports(rows: &[Value]) -> Vec<u64> {
    let flows = rows.iter().filter(|row| row["event"] == "flow");
    let mut ports: Vec<u64> = flows.filter_map(|row| row["src_port"].as_u64()).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_restart_adds_to_the_log_and_a_second_agent_is_refused() -> Result<()> {
    let Some(_machine) = machine::shared("a restarted agent appends") else { return Ok(()) };
    let cable = Cable::new()?;
    let log = cable.folder.path().join("log");
    let agent = Agent::start(&cable.watches, &["in"], &log, &QUICK)?;
    cable.send(1000, 3)?;
    agent.wait_for(3, |row| row["event"] == "flow")?;
    let elsewhere = Namespace::new("second")?;
    elsewhere.ip(&["link", "add", "other", "type", "veth", "peer", "name", "end"])?;
    let words = ["live", "-i", "other", "--log", &log.to_string_lossy()].map(Into::into);
    let second = Agent::spawn(&elsewhere, &words, Path::new("/dev/null"))?.wait()?;
    ensure!(!second.status.success() && second.said.contains("another process"), "{}", second.said);
    // Dropped: killed.
    drop(agent);
    let mut torn = fs::read(&log)?;
    torn.extend_from_slice(b"{\"event\":\"fl");
    fs::write(&log, &torn)?;
    let agent = Agent::start(&cable.watches, &["in"], &log, &QUICK)?;
    cable.send(2000, 3)?;
    agent.wait_for(6, |row| row["event"] == "flow").or_else(|_| Ok::<(), anyhow::Error>(()))?;
    agent.end(Signal::Terminate)?;
    let text = fs::read_to_string(&log)?;
    let rows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(ports(&rows) == [1000, 1001, 1002, 2000, 2001, 2002], "{:?}", ports(&rows));
    ensure!(text.lines().count() == rows.len() + 1, "one line is torn, the one that was");
    Ok(())
}

#[test]
fn a_rotated_log_goes_on_under_its_name() -> Result<()> {
    let Some(_machine) = machine::shared("the log is rotated") else { return Ok(()) };
    let cable = Cable::new()?;
    let log = cable.folder.path().join("log");
    let mut words = QUICK.to_vec();
    words.push("--reopen");
    let agent = Agent::start(&cable.watches, &["in"], &log, &words)?;
    let ended = |path: PathBuf, count: usize| {
        move || Ok(path.exists() && ports(&whole(&path).unwrap_or_default()).len() == count)
    };
    cable.send(1000, 5)?;
    wait_until("five flows", ended(log.clone(), 5))?;
    // By name and signal.
    let first = cable.folder.path().join("log.1");
    fs::rename(&log, &first)?;
    agent.signal(libc::SIGHUP)?;
    wait_until("the log opened again", || Ok(log.exists()))?;
    cable.send(2000, 5)?;
    wait_until("five flows more", ended(log.clone(), 5))?;
    // By name alone.
    let second = cable.folder.path().join("log.2");
    fs::rename(&log, &second)?;
    wait_until("the log opened again", || Ok(log.exists()))?;
    cable.send(3000, 5)?;
    wait_until("five flows more", ended(log.clone(), 5))?;
    // By a copy.
    let third = cable.folder.path().join("log.3");
    fs::copy(&log, &third)?;
    fs::File::options().write(true).truncate(true).open(&log)?;
    cable.send(4000, 5)?;
    wait_until("five flows more", ended(log.clone(), 5))?;
    let outcome = agent.end(Signal::Terminate)?;
    ensure!(outcome.status.success(), "{}", outcome.said);
    for (path, from) in [(&first, 1000), (&second, 2000), (&third, 3000), (&log, 4000)] {
        ensure!(ports(&whole(path)?) == (from..from + 5).collect::<Vec<_>>(), "{}", path.display());
    }
    Ok(())
}

/// A file system with little room; gone when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path)?;
        let words = ["-t", "tmpfs", "-o", "size=200k", "tmpfs"];
        let mounted = Command::new("mount").args(words).arg(&path).status().context("mount")?;
        ensure!(mounted.success(), "cannot mount a tmpfs");
        Ok(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_survived_and_counted() -> Result<()> {
    let Some(_machine) = machine::shared("the disk is full") else { return Ok(()) };
    let cable = Cable::new()?;
    let small = Small::mount(cable.folder.path().join("small"))?;
    let log = small.0.join("log");
    let ballast = small.0.join("ballast");
    fs::write(&ballast, vec![0; 120 << 10])?;
    let mut agent = Agent::start(&cable.watches, &["in"], &log, &QUICK)?;
    cable.send(1000, 2000)?;
    agent.wait_said("cannot write")?;
    let held = whole(&log)?;
    ensure!(ports(&held).len() < 2000, "the disk is full");
    std::thread::sleep(Duration::from_secs(2));
    ensure!(whole(&log)?.len() <= held.len() + 1, "nothing torn is added");
    // More room than the lines need.
    let remounted = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&small.0).status()?;
    ensure!(remounted.success(), "cannot enlarge the tmpfs");
    agent.wait_said("can be written to again")?;
    wait_until("all flows", || Ok(ports(&whole(&log)?).len() == 2000))?;
    let outcome = agent.end(Signal::Terminate)?;
    ensure!(outcome.status.success(), "{}", outcome.said);
    let rows = whole(&log)?;
    let last = rows.iter().rfind(|row| row["event"] == "stats").context("a stats row")?;
    ensure!(row::number(&last["log"], "errors")? > 0 && last["log"]["lost"] == 0, "{last}");
    row::identity(last)?;
    ensure!(ports(&rows) == (1000..3000).collect::<Vec<_>>(), "every flow once");
    Ok(())
}

#[test]
fn a_reader_that_hangs_does_not_stop_the_end() -> Result<()> {
    let Some(_machine) = machine::shared("a log's reader hangs") else { return Ok(()) };
    let cable = Cable::new()?;
    let fifo = cable.folder.path().join("fifo");
    ensure!(Command::new("mkfifo").arg(&fifo).status()?.success(), "cannot make a FIFO");
    let shell = format!("exec sleep 600 < '{}'", fifo.display());
    let mut reader = Command::new("sh").args(["-c", &shell]).stdin(Stdio::null()).spawn()?;
    let outcome = (|| {
        let agent = Agent::start(&cable.watches, &["in"], &fifo, &QUICK)?;
        cable.send(1000, 2000)?;
        std::thread::sleep(Duration::from_secs(2));
        agent.end(Signal::Terminate)
    })();
    reader.kill()?;
    reader.wait()?;
    let outcome = outcome?;
    ensure!(outcome.status.code() == Some(1), "{}: {}", outcome.status, outcome.said);
    ensure!(
        outcome.said.contains("takes nothing") && outcome.said.contains("lines of it are lost"),
        "{}",
        outcome.said
    );
    ensure!(outcome.said.contains("seen 2000 = counted 2000"), "{}", outcome.said);
    ensure!(!cable.watches.has_xdp("in")?, "the XDP program is still attached");
    Ok(())
}
