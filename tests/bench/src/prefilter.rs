//! `bench prefilter`: how long it takes from the packet that decides about a flow until the kernel acts, and what acting
//! costs a packet.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowmeter::config::{Mode, PrefilterSettings};
use flowmeter::kernel::clock;
use flowmeter::prefilter::Policy;
use flowmeter::prefilter::lists::Rule;
use flowmeter_common::prefilter::listed;
use harness::agent::{Agent, Signal};
use harness::inspector::{Inspector, numbered};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Oversized, Pace, Sender};
use harness::row::number;
use harness::test_programs::{Setup, TestPrograms, Traffic, pin_to};
use serde::Serialize;

use crate::traffic::{Distribution, SEQUENCE, frame, sequence};

/// Arguments of `bench prefilter`.
#[derive(Args)]
pub struct Options {
    /// Write the figures into this file, too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Flows that begin each second beside those that are measured.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    new_flows: u32,
    /// Flows that are measured, one after the other.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=5000))]
    probes: u32,
    /// Score by this model in place of the built-in one.
    #[arg(long, value_name = "FILE")]
    model: Option<String>,
    /// Rules on the lists, for the cost of a packet.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    rules: u32,
}

/// Packets of each flow beside those that are measured: as many as its verdict takes.
const PACKETS: u32 = 8;
/// Most packets that are made at once.
const LARGEST: u64 = 256;
/// Where a frame has its source address.
const SOURCE: usize = 26;
/// Flows that begin between two packets of one of them.
const APART: u32 = 125;
/// Packets of a measured flow up to the one that decides.
const DECIDING: u64 = 8;
/// How long a measured flow goes on after it, a packet each [`STEP`].
const LIFE: Duration = Duration::from_millis(150);
const STEP: Duration = Duration::from_micros(100);
/// Numbers of a measured flow's packets lie together.
const BLOCK: u64 = 10_000;

/// What was measured.
#[derive(Serialize)]
struct Figures {
    new_flows_per_second: f64,
    probes: usize,
    /// Flows of which no packet was acted on while they were watched.
    never: usize,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    most_ms: f64,
    /// ns a packet above a program that does nothing: metering, with the decision, and with lists.
    watch_ns: f64,
    filter_ns: f64,
    lists_ns: f64,
}

/// Measures, and prints.
///
/// # Errors
/// The kernel refuses, the agent fails, or the file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    if !harness::is_root() {
        anyhow::bail!(
            "making namespaces needs root: sudo --preserve-env=PATH,HOME cargo xtask bench prefilter"
        );
    }
    let [watch_ns, filter_ns, lists_ns] = costs(options)?;
    println!(
        "a packet of one of 10,000 flows, ns above an empty program: watch {watch_ns:.0}, block {filter_ns:.0} \
         ({:.2} of it), block with {} rules {lists_ns:.0} ({:.2})",
        filter_ns / watch_ns,
        options.rules,
        lists_ns / watch_ns
    );
    let (mut delays, never, rate) = delays(options)?;
    delays.sort();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    ensure!(!delays.is_empty(), "no flow was acted on");
    let figures = Figures {
        new_flows_per_second: rate,
        probes: delays.len() + never,
        never,
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        most_ms: at(1.0),
        watch_ns,
        filter_ns,
        lists_ns,
    };
    println!(
        "from the deciding packet to the kernel's acting, under {rate:.0} new flows a second: p50 {:.2} ms, p90 {:.2} ms, \
         p99 {:.2} ms, most {:.2} ms; {} flows, of which {never} were not acted on within {} ms",
        figures.p50_ms,
        figures.p90_ms,
        figures.p99_ms,
        figures.most_ms,
        figures.probes,
        LIFE.as_millis()
    );
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Nanoseconds a packet above an empty program: watching, deciding, and deciding with lists.
fn costs(options: &Options) -> Result<[f64; 3]> {
    const ROUNDS: usize = 5;
    const RUN: u32 = 1 << 20;
    pin_to(0)?;
    let config = Policy::new(&PrefilterSettings { mode: Mode::Block, ..Default::default() }, None).config();
    let mut test_programs = TestPrograms::load(&Setup {
        programs: &["bench_empty", "bench_flowmeter", "bench_filter"],
        flows: 1 << 18,
        traffic: Traffic::Sequence(sequence(10_000, Distribution::Uniform)),
        prefilter: config,
        ..Setup::default()
    })?;
    let mut filter = test_programs.filter(&config)?;
    // Of other networks than the packets are of: the whole trie is looked through in vain.
    let rules: Vec<Rule> = (0..options.rules)
        .map(|n| Rule {
            listed: listed::DENY,
            prefix: Some((std::net::Ipv4Addr::from(0xcb00_0000 + n * 256).into(), 24)),
            port: None,
        })
        .collect();
    let frame = frame(4, 0);
    test_programs.outcome("bench_flowmeter", &frame, SEQUENCE as u32)?;
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let mut next = times.iter_mut();
        for (program, lists) in [
            ("bench_empty", &[][..]),
            ("bench_flowmeter", &[]),
            ("bench_filter", &[]),
            ("bench_filter", &rules),
        ] {
            filter.lists.install(&filter.heartbeat, lists)?;
            filter.heartbeat.beat(clock::monotonic());
            let (_, took) = test_programs.outcome(program, &frame, RUN)?;
            next.next().context("four ways")?.push(took);
        }
    }
    let [empty, watch, decide, lists] = times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2].as_nanos() as f64
    });
    Ok([watch - empty, decide - empty, lists - empty])
}

/// How long each measured flow took, how many were not acted on, and how many flows began each second meanwhile.
fn delays(options: &Options) -> Result<(Vec<Duration>, usize, f64)> {
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    // Whatever the verdict is, the packets after it are dropped: what is measured is the way, not the model's judgement.
    let words = ["--mode", "block", "--yes-drop-traffic", "--on", "benign=drop", "--on", "unknown=drop"];
    let further = ["--no-egress", "--idle-timeout", "5s", "--stats-interval", "500ms"];
    let mut words = [&words[..], &further].concat();
    if let Some(model) = &options.model {
        words.extend(["--model", model]);
    }
    let agent = Agent::start(&watches, &["in"], &folder.path().join("log"), &words)?;
    let captured = Inspector::start(&watches, "in", true, &folder.path().join("host.pcap"))?;
    let (stop, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    let (sent, rate) = std::thread::scope(|scope| -> Result<_> {
        let background = scope.spawn(|| -> Result<()> {
            sends.run(|| {
                pin_to(0)?;
                let (sender, template, start) = (Sender::open("out")?, frame(4, 0), Instant::now());
                let mut packets = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let due = start.elapsed().as_secs_f64() * f64::from(options.new_flows * PACKETS);
                    let more = (due as u64).saturating_sub(packets).min(LARGEST);
                    let mut frames: Vec<Vec<u8>> =
                        (packets..packets + more).map(|packet| background(&template, packet)).collect();
                    packets += more;
                    begun.store(packets / u64::from(PACKETS), Ordering::Relaxed);
                    frames.chunks_mut(64).try_for_each(|some| sender.send_together(some).map(drop))?;
                    if more < LARGEST {
                        // As it comes from a cable: not all at once.
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
                Ok(())
            })?
        });
        let outcome = (|| {
            // Until flows end as fast as they begin.
            std::thread::sleep(Duration::from_secs(7));
            let (start, before) = (Instant::now(), begun.load(Ordering::Relaxed));
            let sent = sends.run(|| probe(options.probes))??;
            let flows = begun.load(Ordering::Relaxed) - before;
            Ok((sent, flows as f64 / start.elapsed().as_secs_f64()))
        })();
        stop.store(true, Ordering::Relaxed);
        background.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome
    })?;
    std::thread::sleep(Duration::from_millis(500));
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    let account = &outcome.stats()?["interfaces"][0];
    ensure!(number(account, "folded")? == 0, "the table was full: {account}");
    let passed = captured.finish()?;
    let (mut delays, mut never) = (Vec::new(), 0);
    for (flow, times) in sent.iter().enumerate() {
        let decided = times[DECIDING as usize - 1];
        let acted = (DECIDING..times.len() as u64).find(|n| !passed.contains(&(flow as u64 * BLOCK + n)));
        match acted {
            Some(n) => delays.push(times[n as usize] - decided),
            None => never += 1,
        }
    }
    Ok((delays, never, rate))
}

/// Packet number `packet` of the flows beside those that are measured: the template with an address of its flow's.
fn background(template: &[u8], packet: u64) -> Vec<u8> {
    let (newest, nth) = (packet / u64::from(PACKETS), packet % u64::from(PACKETS));
    let flow = newest.wrapping_sub(nth * u64::from(APART));
    let mut frame = template.to_vec();
    frame[SOURCE..SOURCE + 4].copy_from_slice(&(0x0a00_0000 | flow as u32 & 0x00ff_ffff).to_be_bytes());
    frame
}

/// Has the calling thread run before all that are not so urgent: a packet that is sent late would look like an agent that
/// acts late.
fn hurry() -> Result<()> {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters outlive the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
    ensure!(result == 0, "a thread cannot be made urgent: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Sends the measured flows, and returns when each of their packets was sent.
fn probe(flows: u32) -> Result<Vec<Vec<Instant>>> {
    hurry()?;
    let (sender, never) = (Sender::open("out")?, AtomicBool::new(false));
    (0..u64::from(flows))
        .map(|flow| {
            let client = format!("172.16.{}.{}", flow / 250, flow % 250 + 1);
            let (start, mut times) = (Instant::now(), Vec::new());
            while times.len() < DECIDING as usize || start.elapsed() < LIFE {
                let packet = numbered(
                    (&client, 40_000),
                    ("198.51.100.1", 9999),
                    100,
                    flow * BLOCK + times.len() as u64,
                );
                times.push(Instant::now());
                sender.send(&[packet], Pace::Unpaced, Oversized::Refuse, &never)?;
                std::thread::sleep(STEP);
            }
            Ok(times)
        })
        .collect()
}
