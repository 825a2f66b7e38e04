//! `bench wire`: packets a second over a veth cable, and the agent's time for each.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use harness::agent::{Agent, Signal};
use harness::netns::{Chatter, Namespace, Offload};
use harness::row;
use harness::test_programs::{GENERATOR, Setup, TestPrograms, Traffic, pin, pin_to};
use serde::Serialize;

use crate::ring::Reader;
use crate::traffic::{Distribution, frame, sequence};

/// Arguments of `bench wire`.
#[derive(Args)]
pub struct Options {
    /// Write the rows into this file, too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long each way of watching is measured, in seconds.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Rounds, the ways taking turns; the median is shown.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Flows that the packets belong to.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    flows: u32,
}

/// CPUs of the generator, and of what is measured.
const GENERATES: usize = 0;
const WATCHES: usize = 1;
/// Seconds before the measurement, in which flows open.
const WARM_UP: u64 = 3;
/// Packets that the generator is asked for at a time.
const CHUNK: u32 = 1 << 17;

/// What is attached to the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// A program that does nothing.
    Nothing,
    /// FlowMeter, without a model.
    Metering,
    /// FlowMeter as it is shipped: living flows are scored at 8, 16, 32, ... packets.
    Scoring,
    /// A program that sends an event of each packet, and a reader that adds it to its flow.
    EventPerPacket,
}

const WAYS: [Way; 4] = [Way::Nothing, Way::Metering, Way::Scoring, Way::EventPerPacket];

/// A measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    way: Way,
    /// Packets a second that the program saw.
    packets_per_second: f64,
    /// CPU time of the receiving side of the cable: kernel, driver and program, ns a packet.
    receiving_ns: f64,
    /// CPU time of the agent or reader, ns a packet.
    agent_ns: f64,
    /// Packets that reached the program and of which the agent or reader knows nothing.
    unaccounted: u64,
}

/// Measures, and prints.
///
/// # Errors
/// The kernel refuses, the agent fails, or the file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    if !harness::is_root() {
        anyhow::bail!("making namespaces needs root: sudo --preserve-env=PATH,HOME cargo xtask bench wire");
    }
    ensure!(options.rounds > 0 && options.seconds > 0, "nothing is measured in no time");
    let mut rows = Vec::new();
    for _ in 0..options.rounds {
        for way in WAYS {
            rows.push(measure(options, way)?);
        }
    }
    println!(
        "{} flows, smallest TCP packets; medians of {} runs of {} s each\n\n{:<18} {:>12} {:>8} {:>14} {:>10} {:>12}",
        options.flows,
        options.rounds,
        options.seconds,
        "attached",
        "packets/s",
        "share",
        "receiving, ns",
        "agent, ns",
        "unaccounted"
    );
    let of = |way: Way, value: fn(&Row) -> f64| {
        let mut values: Vec<f64> = rows.iter().filter(|row| row.way == way).map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for way in WAYS {
        let rate = of(way, |row| row.packets_per_second);
        println!(
            "{:<18} {rate:>12.0} {:>8.2} {:>14.0} {:>10.1} {:>12.0}",
            serde_json::to_value(way)?.as_str().unwrap_or_default().replace('_', " "),
            rate / of(Way::Nothing, |row| row.packets_per_second),
            of(way, |row| row.receiving_ns),
            of(way, |row| row.agent_ns),
            of(way, |row| row.unaccounted as f64),
        );
    }
    println!(
        "\nMetering, FlowMeter's agent spends {:.3} of what the reader of an event per packet does.",
        of(Way::Metering, |row| row.agent_ns) / of(Way::EventPerPacket, |row| row.agent_ns)
    );
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A cable, a generator on one end, and the kernel thread that receives on the other.
struct Cable {
    sends: Namespace,
    watches: Namespace,
    generator: TestPrograms,
    receiver: u32,
}

impl Cable {
    fn new(flows: u32) -> Result<Self> {
        let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
        sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
        let generator = TestPrograms::load(&Setup {
            programs: &[GENERATOR],
            traffic: Traffic::Sequence(sequence(flows, Distribution::Uniform)),
            leave_by: sends.interface_index("out")?,
            ..Setup::default()
        })?;
        Ok(Self { sends, watches, generator, receiver: 0 })
    }

    /// Has the receiving end handled by a kernel thread on a CPU of its own; once a program is attached.
    fn receive_on(&mut self, cpu: usize) -> Result<()> {
        let index = self.watches.interface_index("in")?;
        let status = self
            .watches
            .command("sh")
            .args(["-c", "echo 1 > /sys/class/net/in/threaded"])
            .status()
            .context("running sh")?;
        ensure!(status.success(), "the cable's end cannot have a thread of its own");
        self.receiver =
            receivers()?.into_iter().max().with_context(|| format!("interface {index} has no thread"))?;
        pin(self.receiver, cpu)
    }

    /// Sends for so long, and returns how many packets arrived in what time.
    fn run(&self, seconds: u64, warm_up: bool) -> Result<(u64, Duration)> {
        let frame = frame(4, 0);
        pin_to(GENERATES)?;
        let (before, start) = (self.watches.received_packets("in")?, Instant::now());
        let time = Duration::from_secs(if warm_up { WARM_UP } else { seconds });
        while start.elapsed() < time {
            self.sends.run(|| self.generator.send(&frame, CHUNK))??;
        }
        let took = start.elapsed();
        // The last of them are on their way.
        std::thread::sleep(Duration::from_millis(20));
        Ok((self.watches.received_packets("in")? - before, took))
    }
}

/// The kernel threads that receive for interfaces of this name.
fn receivers() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && std::fs::read_to_string(entry.path().join("comm"))
                .is_ok_and(|name| name.starts_with("napi/in-"))
        {
            found.push(number);
        }
    }
    Ok(found)
}

/// CPU time that a process or thread has used.
fn cpu_time(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/schedstat");
    let threads = Path::new("/proc").join(process.to_string()).join("task");
    let mut sum = 0;
    for thread in std::fs::read_dir(&threads).with_context(|| format!("no {path}"))?.flatten() {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0_u64);
    }
    Ok(Duration::from_nanos(sum))
}

fn measure(options: &Options, way: Way) -> Result<Row> {
    let mut cable = Cable::new(options.flows)?;
    match way {
        Way::Metering | Way::Scoring => with_agent(options, &mut cable, way),
        Way::Nothing | Way::EventPerPacket => with_program(options, &mut cable, way),
    }
}

fn with_agent(options: &Options, cable: &mut Cable, way: Way) -> Result<Row> {
    let folder = tempfile::tempdir()?;
    let words = if way == Way::Metering { &["--no-egress", "--no-model"][..] } else { &["--no-egress"] };
    let agent = Agent::start(&cable.watches, &["in"], &folder.path().join("log"), words)?;
    for task in std::fs::read_dir(format!("/proc/{}/task", agent.id()))?.flatten() {
        if let Some(number) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
            pin(number, WATCHES)?;
        }
    }
    cable.receive_on(WATCHES)?;
    // Opens the flows.
    let (warm, _) = cable.run(options.seconds, true)?;
    let (agent_before, receiver_before) = (cpu_time(agent.id())?, cpu_time(cable.receiver)?);
    let (packets, took) = cable.run(options.seconds, false)?;
    let (agent_time, receiver_time) =
        (cpu_time(agent.id())? - agent_before, cpu_time(cable.receiver)? - receiver_before);
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    let seen = row::identity(outcome.stats()?)?.seen;
    Ok(row(way, packets, took, receiver_time, agent_time, (warm + packets).abs_diff(seen)))
}

fn with_program(options: &Options, cable: &mut Cable, way: Way) -> Result<Row> {
    let program = if way == Way::Nothing { "test_pass" } else { "test_event" };
    let mut test_programs = TestPrograms::load(&Setup { programs: &[program], ..Setup::default() })?;
    let mut ring = Reader::new(test_programs.take_map("PACKET_EVENTS")?)?;
    cable.watches.run(|| test_programs.attach(program, "in"))??;
    cable.receive_on(WATCHES)?;
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<Duration> {
            pin_to(WATCHES)?;
            while !stop.load(Ordering::Relaxed) {
                taken.fetch_add(ring.read()?, Ordering::Relaxed);
            }
            thread_time()
        });
        let outcome = (|| -> Result<_> {
            cable.run(options.seconds, true)?;
            let (taken_before, receiver_before) = (taken.load(Ordering::Relaxed), cpu_time(cable.receiver)?);
            let (packets, took) = cable.run(options.seconds, false)?;
            let receiver_time = cpu_time(cable.receiver)? - receiver_before;
            Ok((packets, took, receiver_time, taken.load(Ordering::Relaxed) - taken_before))
        })();
        stop.store(true, Ordering::Relaxed);
        let time = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (packets, took, receiver_time, read) = outcome?;
        // The reader's time is that of all it took, the warm-up's as well; what it did not take cost it nothing.
        let whole = taken.load(Ordering::Relaxed).max(1);
        let time = time.mul_f64(packets as f64 / whole as f64);
        let (time, unaccounted) =
            if way == Way::Nothing { (Duration::ZERO, 0) } else { (time, packets.saturating_sub(read)) };
        Ok(row(way, packets, took, receiver_time, time, unaccounted))
    })
}

fn row(way: Way, packets: u64, took: Duration, receiver: Duration, agent: Duration, unaccounted: u64) -> Row {
    let each = |time: Duration| time.as_nanos() as f64 / packets.max(1) as f64;
    Row {
        way,
        packets_per_second: packets as f64 / took.as_secs_f64(),
        receiving_ns: each(receiver),
        agent_ns: each(agent),
        unaccounted,
    }
}

/// CPU time that the calling thread has used.
fn thread_time() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one timespec, which outlives the call.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(read == 0, "no clock of the thread: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
