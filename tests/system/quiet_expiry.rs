//! Promise: a flow that ends by the clock is written at most one second late, though nothing passes the interface.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport, tcp};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use harness::{machine, row};
use serde_json::Value;

/// What the promise allows.
const LATE: Duration = Duration::from_secs(1);
/// This test looks at the log that often, so much later may it see a line.
const LOOK: Duration = Duration::from_millis(20);

/// What the promise allows a closed connection, after it has lingered.
const CLOSED_LATE: Duration = Duration::from_millis(100);
/// How often that is tried.
const ATTEMPTS: usize = 4;
/// How long it lingers.
const LINGER: Duration = Duration::from_secs(2);

/// A watched cable.
struct Cable {
    sends: Namespace,
    _watches: Namespace,
    agent: Agent,
    _folder: tempfile::TempDir,
}

impl Cable {
    fn new(words: &[&str]) -> Result<Self> {
        let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
        sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
        let folder = tempfile::tempdir()?;
        let agent = Agent::start(&watches, &["in"], &folder.path().join("log"), words)?;
        Ok(Self { sends, _watches: watches, agent, _folder: folder })
    }

    /// Sends a datagram and says when.
    fn send(&self) -> Result<Instant> {
        let packet =
            Packet::ipv4("192.0.2.1", "198.51.100.7").with(Transport::udp(5000, 53).payload(*b"question"));
        let frame = Frame::new(0, packet.build());
        self.sends.run(|| {
            Sender::open("out")?.send(&[frame], Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))
        })??;
        Ok(Instant::now())
    }

    /// Waits for the first flow in the log, doing `meanwhile` between looks, and says when it was there.
    fn first_flow(
        &self,
        limit: Instant,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<(Value, Instant)> {
        while Instant::now() < limit {
            let rows = self.agent.rows()?;
            let now = Instant::now();
            if let Some(row) = rows.into_iter().find(|row| row["event"] == "flow") {
                return Ok((row, now));
            }
            meanwhile()?;
            std::thread::sleep(LOOK);
        }
        None.context("no flow came into the log before the time limit")
    }
}

#[test]
fn idle_flow() -> Result<()> {
    let Some(_machine) = machine::shared("an idle flow is written on a quiet interface") else {
        return Ok(());
    };
    let timeout = Duration::from_secs(2);
    let cable = Cable::new(&["--idle-timeout", "2s"])?;
    let sent = cable.send()?;
    let (row, seen) = cable.first_flow(sent + timeout + LATE * 4, || Ok(()))?;
    let after = seen - sent;
    // The packet was stamped a moment before `sent`.
    ensure!(after + LOOK >= timeout, "it ended after {after:?}, before its time");
    ensure!(after <= timeout + LATE + LOOK * 2, "it was written {:?} after its timeout", after - timeout);
    ensure!(row::number(&row, "packets")? == 1, "one packet was sent: {row}");
    cable.agent.stop(Signal::Interrupt)?.expect_clean()
}

/// A connection that was reset lingers two seconds, and then is in the log.
#[test]
fn closed_connections() -> Result<()> {
    let Some(_machine) = machine::alone("a closed connection is written after its linger") else {
        return Ok(());
    };
    // A busy machine delays the agent now and then; an agent that looks too seldom is late each time.
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let late = closed_late()?;
        // One in ten may be later: a shared machine stops its programs for that long now and then.
        if late[late.len() * 9 / 10 - 1] <= CLOSED_LATE {
            return Ok(());
        }
        seen.push(late);
    }
    bail!("after the linger, in {ATTEMPTS} attempts: {seen:?}")
}

/// How long after their linger closed connections are in the log, in order.
fn closed_late() -> Result<Vec<Duration>> {
    const CONNECTIONS: u16 = 20;
    let cable = Cable::new(&[])?;
    let mut sent = Vec::new();
    for i in 0..CONNECTIONS {
        let segment = |flags, sequence| {
            let transport = Transport::tcp(5000 + i, 80).flags(flags).numbers(sequence, 0);
            Frame::new(0, Packet::ipv4("192.0.2.1", "198.51.100.7").with(transport).build())
        };
        let frames = [segment(tcp::SYN, 1), segment(tcp::RST, 2)];
        cable.sends.run(|| {
            Sender::open("out")?.send(&frames, Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))
        })??;
        sent.push(Instant::now());
        // No multiple of any period of the agent's.
        std::thread::sleep(Duration::from_millis(37));
    }
    let mut seen = vec![None; usize::from(CONNECTIONS)];
    let limit = Instant::now() + LINGER + LATE * 4;
    while seen.contains(&None) && Instant::now() < limit {
        let (rows, now) = (cable.agent.rows()?, Instant::now());
        for row in rows.iter().filter(|row| row["event"] == "flow") {
            seen[row::number(row, "src_port")? as usize - 5000].get_or_insert(now);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut late = Vec::new();
    for (sent, seen) in sent.iter().zip(seen) {
        let after = seen.context("a connection is not in the log")? - *sent;
        ensure!(after + LOOK >= LINGER, "it was written after {after:?}, before its time");
        late.push(after.saturating_sub(LINGER));
    }
    late.sort();
    cable.agent.stop(Signal::Interrupt)?.expect_clean()?;
    Ok(late)
}

/// A flow that never rests ends at the active timeout; what follows is the next one.
#[test]
fn busy_flow() -> Result<()> {
    let Some(_machine) = machine::shared("a busy flow is written at its active timeout") else {
        return Ok(());
    };
    let timeout = Duration::from_secs(2);
    let cable = Cable::new(&["--active-timeout", "2s", "--idle-timeout", "2s"])?;
    let first = cable.send()?;
    let (_, seen) = cable.first_flow(first + timeout + LATE * 4, || cable.send().map(drop))?;
    let after = seen - first;
    ensure!(after + LOOK >= timeout, "it ended after {after:?}, before its time");
    ensure!(after <= timeout + LATE + LOOK * 2, "it was written {:?} after its timeout", after - timeout);
    let outcome = cable.agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    ensure!(outcome.flows().count() == 2, "the rest is a flow of its own");
    Ok(())
}
