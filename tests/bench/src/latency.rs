//! `bench latency`: from the packet of a flow's checkpoint until its verdict is in the log, as somebody sees it who sends the one
//! and reads the other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowmeter_common::flow::FIRST_CHECKPOINT;
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use serde_json::Value;

/// Arguments of `bench latency`.
#[derive(Args)]
pub struct Options {
    /// New flows a second, each of as many packets as reach the first checkpoint.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    flows: u32,
    /// How long they are sent, in seconds.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u32,
    /// The ONNX model; by default the built-in one.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
}

/// How long a flow's packets take, at most.
const SPAN: f64 = 0.2e9;
/// How often the log is looked at.
const LOOK: Duration = Duration::from_micros(500);
/// How long verdicts are waited for after the last packet.
const PATIENCE: Duration = Duration::from_secs(3);
/// The first sender; flows are told apart by it.
const FIRST: u32 = 0x0a00_0001;

/// Measures, and prints.
///
/// # Errors
/// No namespaces can be made, the agent fails, or a flow has got no verdict.
pub fn run(options: &Options) -> Result<()> {
    if !harness::is_root() {
        anyhow::bail!(
            "making namespaces needs root: sudo --preserve-env=PATH,HOME cargo xtask bench latency"
        );
    }
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    // Flows end while others are sent, so that both are scored; one line of statistics has the delays of all.
    let mut words = vec!["--idle-timeout", "2s", "--stats-interval", "1h", "--no-egress"];
    let model = options.model.as_ref().map(|path| path.to_string_lossy().into_owned());
    if let Some(model) = &model {
        words.extend(["--model", model]);
    }
    let packets = packets(options);
    let agent = Agent::start(&watches, &["in"], &log, &words)?;
    let stop = AtomicBool::new(false);
    let (sent, seen) = thread::scope(|scope| -> Result<_> {
        let reader = scope.spawn(|| read(&log, &stop));
        let sent = sends.run(|| send(&packets));
        thread::sleep(PATIENCE);
        stop.store(true, Ordering::Relaxed);
        let seen = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((sent??, seen))
    })?;
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;

    let flows = options.flows * options.seconds;
    let mut delays: Vec<f64> = sent
        .iter()
        .filter_map(|(flow, at)| seen.get(flow).map(|seen| seen.duration_since(*at).as_secs_f64() * 1e3))
        .collect();
    delays.sort_by(f64::total_cmp);
    let stats = outcome.stats()?;
    println!(
        "{flows} flows, {} a second with {} packets each: {} had a verdict in the log while they lived",
        options.flows,
        FIRST_CHECKPOINT,
        delays.len()
    );
    ensure!(!delays.is_empty(), "no flow got a verdict: {stats}");
    let quantile = |share: f64| delays[((delays.len() as f64 * share) as usize).min(delays.len() - 1)];
    println!(
        "from sending the {FIRST_CHECKPOINT}th packet to reading the verdict: half within {:.1} ms, 99 % within {:.1} ms, all within {:.1} ms",
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
    println!("the agent's own account of it: {}", stats["scoring"]["checkpoint_delay_ms"]);
    println!(
        "scoring: {} rows a second; pipeline {}",
        stats["scoring"]["rows_per_second"], stats["pipeline"]
    );
    ensure!(
        delays.len() as u32 >= flows - flows / 1000,
        "{} flows of {flows} got no verdict while they lived: {stats}",
        flows - delays.len() as u32
    );
    Ok(())
}

/// A packet of a flow, and whether it is the one that makes the checkpoint.
struct Planned {
    frame: Frame,
    flow: u32,
    last: bool,
}

/// The packets of all flows in order of time: UDP, from either side, of any length, at any distance.
fn packets(options: &Options) -> Vec<Planned> {
    let mut random = fastrand::Rng::with_seed(8);
    let mut all = Vec::new();
    for flow in 0..options.flows * options.seconds {
        let start = f64::from(flow) * 1e9 / f64::from(options.flows);
        let mut times: Vec<u64> =
            (0..FIRST_CHECKPOINT).map(|_| (start + random.f64() * SPAN) as u64).collect();
        times.sort_unstable();
        let client = Ipv4Addr::from(FIRST + flow).to_string();
        for (i, at) in (1..).zip(times) {
            let (from, to, ports) = if i == 1 || random.bool() {
                (client.as_str(), "192.0.2.1", (40_000, 443))
            } else {
                ("192.0.2.1", client.as_str(), (443, 40_000))
            };
            let payload = vec![0; random.usize(0..1200)];
            let frame =
                Packet::ipv4(from, to).with(Transport::udp(ports.0, ports.1).payload(payload)).build();
            all.push(Planned { frame: Frame::new(at, frame), flow, last: i == FIRST_CHECKPOINT });
        }
    }
    all.sort_by_key(|packet| packet.frame.timestamp_ns);
    all
}

/// Sends them at their times, and returns when each flow's last packet left.
fn send(packets: &[Planned]) -> Result<HashMap<u32, Instant>> {
    let sender = Sender::open("out")?;
    let (start, never) = (Instant::now(), AtomicBool::new(false));
    let mut left = HashMap::new();
    for Planned { frame, flow, last } in packets {
        let due = start + Duration::from_nanos(frame.timestamp_ns);
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        if *last {
            left.insert(*flow, Instant::now());
        }
        sender.send(std::slice::from_ref(frame), Pace::Unpaced, Oversized::Refuse, &never)?;
    }
    Ok(left)
}

/// Reads the log as it is written, and returns when each flow's first verdict was there.
fn read(log: &std::path::Path, stop: &AtomicBool) -> Result<HashMap<u32, Instant>> {
    let mut lines =
        BufReader::new(File::open(log).with_context(|| format!("cannot read {}", log.display()))?);
    let (mut seen, mut line) = (HashMap::new(), String::new());
    loop {
        if lines.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            if stop.load(Ordering::Relaxed) {
                return Ok(seen);
            }
            thread::sleep(LOOK);
            continue;
        }
        let now = Instant::now();
        let row: Value = serde_json::from_str(&line).with_context(|| format!("a line is no JSON: {line}"))?;
        line.clear();
        let addresses =
            ["src_ip", "dst_ip"].iter().filter_map(|name| row[name].as_str()?.parse::<Ipv4Addr>().ok());
        let flow = addresses.map(u32::from).find(|address| *address >> 24 == FIRST >> 24);
        if let (Some("verdict"), Some(address)) = (row["event"].as_str(), flow) {
            seen.entry(address - FIRST).or_insert(now);
        }
    }
}
