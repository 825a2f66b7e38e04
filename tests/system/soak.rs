//! Promise: the agent's memory is flat, however long it runs and however many flows come and go.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport};
use harness::machine;
use harness::netns::{Chatter, Namespace, Offload};
use harness::test_programs::{GENERATOR, Setup, TestPrograms, Traffic};

/// How long, in seconds; `FLOWMETER_SOAK_SECONDS` asks for more.
const SECONDS: u64 = 60;
/// New flows a second, each of which is taken out, scored and written.
const FLOWS: u32 = 10_000;
/// What memory may still grow by from the second third of the time to the last, once all parts have been in use: ten bytes a
/// flow.
const GROWTH: u64 = 2 << 20;

#[test]
fn memory_is_flat() -> Result<()> {
    let Some(_machine) = machine::alone("the agent's memory over time") else {
        return Ok(());
    };
    let asked = std::env::var("FLOWMETER_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(asked.unwrap_or(SECONDS));
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    // The log of so many flows would fill the disk.
    let words = ["--max-flows", "65536", "--idle-timeout", "1s", "--stats-interval", "1s"];
    let agent = Agent::start(&watches, &["in"], Path::new("/dev/null"), &words)?;
    let generator = TestPrograms::load(&Setup {
        programs: &[GENERATOR],
        traffic: Traffic::EachItsOwn,
        leave_by: sends.interface_index("out")?,
        ..Setup::default()
    })?;
    let frame =
        Packet::ipv4("10.0.0.0", "192.0.2.1").with(Transport::udp(1024, 443).payload(vec![0; 18])).build();
    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let second = Instant::now();
        for _ in 0..10 {
            sends.run(|| generator.send(&frame, FLOWS / 10))??;
            std::thread::sleep(Duration::from_millis(90));
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
        samples.push(agent.resident_bytes()?);
    }
    let outcome = agent.end(Signal::Terminate)?;
    // The exit code says whether the account of all packets and flows is balanced.
    ensure!(outcome.status.success(), "flowmeter ended with {}; it said:\n{}", outcome.status, outcome.said);
    // The first third warms up: where the agent has to wait for a processor, more flows live at once, and more of the table
    // is touched for the first time.
    let third = samples.len() / 3;
    let (middle, last) = samples[third..].split_at(third);
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    eprintln!(
        "{} s: at most {} KiB in the second third, {} KiB after",
        samples.len(),
        most(middle) >> 10,
        most(last) >> 10
    );
    ensure!(most(last) <= most(middle) + GROWTH, "memory grows: {samples:?}");
    Ok(())
}
