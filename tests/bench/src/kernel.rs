//! `bench kernel`: nanoseconds a packet of the kernel programs, beside the plain ways to meter flows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowmeter::kernel::clock::monotonic;
use harness::test_programs::{Setup, TestPrograms, Traffic, pin_to};
use serde::Serialize;

use crate::ring::Reader;
use crate::traffic::{Distribution, SEQUENCE, frame, sequence};

/// Arguments of `bench kernel`.
#[derive(Args)]
pub struct Options {
    /// Write the rows into this file, too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each measurement, the programs taking turns; the median is taken.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Packets of a run.
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    packets: u32,
    /// Numbers of flows, at most half a million each.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 16, 10_000, 500_000],
          value_parser = clap::value_parser!(u32).range(1..=500_000))]
    flows: Vec<u32>,
    /// Payload bytes of each packet.
    #[arg(long, value_name = "N", default_value_t = 0)]
    payload: usize,
}

/// What is compared, in the order of the rows.
const PROGRAMS: [Program; 6] = [
    Program { name: "empty", entry: "bench_empty" },
    Program { name: "parse", entry: "bench_parse" },
    Program { name: "flowmeter", entry: "bench_flowmeter" },
    Program { name: "hash_spinlock", entry: "bench_hash_spinlock" },
    Program { name: EVENTS, entry: "bench_event_per_packet" },
    Program { name: NO_CLOCK, entry: "bench_no_clock" },
];
/// All that is shipped, but for the clock: no row of the file, since no flow meter can do without.
const NO_CLOCK: &str = "without clock";
/// Flows that the table, and the hash map, have room for at least: as many as by default.
const ROOM: u32 = 1 << 18;

/// An event for each packet, which is taken by a reader on the other CPU.
const EVENTS: &str = "event_per_packet";
/// Events sent before the reader is waited for: the ring has room for more.
const AT_ONCE: u32 = 16_384;

struct Program {
    name: &'static str,
    entry: &'static str,
}

/// A measurement.
#[derive(Serialize)]
struct Row {
    program: &'static str,
    flows: u32,
    distribution: Distribution,
    ip: u8,
    ns: f64,
    above_empty_ns: f64,
}

/// Measures, and prints.
///
/// # Errors
/// The kernel refuses the programs, or the file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.packets > 0, "nothing is measured in no rounds, or of no packets");
    if !harness::is_root() {
        anyhow::bail!(
            "loading kernel programs needs root: sudo --preserve-env=PATH,HOME cargo xtask bench kernel"
        );
    }
    pin_to(0)?;
    println!(
        "ns a packet above an empty program; median of {} runs of {} packets each\n\n\
         {:>8} {:<8} {:>3} {:>7} {:>7} {:>10} {:>8} {:>14} {:>17} {:>9} {:>9}",
        options.rounds,
        options.packets,
        "flows",
        "spread",
        "ip",
        "empty",
        "parse",
        "flowmeter",
        "no clock",
        "hash_spinlock",
        "event_per_packet",
        "fm/hash",
        "fm/event"
    );
    let mut rows = Vec::new();
    for &flows in &options.flows {
        let room = ROOM.max(flows);
        for distribution in [Distribution::Uniform, Distribution::Zipf] {
            for ip in [4, 6] {
                let measured = measure(options, flows, room, distribution, ip)?;
                let above = |name| find(&measured, name).map(|row| row.above_empty_ns);
                println!(
                    "{flows:>8} {:<8} {ip:>3} {:>7.0} {:>7.0} {:>10.0} {:>8.0} {:>14.0} {:>17.0} {:>9.2} {:>9.3}",
                    format!("{distribution:?}").to_lowercase(),
                    find(&measured, "empty")?.ns,
                    above("parse")?,
                    above("flowmeter")?,
                    above(NO_CLOCK)?,
                    above("hash_spinlock")?,
                    above(EVENTS)?,
                    above("flowmeter")? / above("hash_spinlock")?,
                    above("flowmeter")? / above(EVENTS)?,
                );
                rows.extend(measured.into_iter().filter(|row| row.program != NO_CLOCK));
            }
        }
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn find<'a>(rows: &'a [Row], program: &str) -> Result<&'a Row> {
    rows.iter().find(|row| row.program == program).with_context(|| format!("{program} was not measured"))
}

/// All programs on one kind of traffic.
fn measure(options: &Options, flows: u32, room: u32, distribution: Distribution, ip: u8) -> Result<Vec<Row>> {
    let entries: Vec<&str> = PROGRAMS.iter().map(|program| program.entry).collect();
    let mut test_programs = TestPrograms::load(&Setup {
        programs: &entries,
        flows: room,
        traffic: Traffic::Sequence(sequence(flows, distribution)),
        ..Setup::default()
    })?;
    let (mut events, mut packets) =
        (test_programs.ring()?, Reader::new(test_programs.take_map("PACKET_EVENTS")?)?);
    let frame = frame(ip, options.payload);
    let (stop, mut times) = (AtomicBool::new(false), vec![Vec::new(); PROGRAMS.len()]);
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            // Where there is one CPU only, they share it.
            let _ = pin_to(1);
            while !stop.load(Ordering::Relaxed) {
                while events.take().is_some() {}
                taken.fetch_add(packets.read()?, Ordering::Relaxed);
            }
            Ok(())
        });
        let outcome = (|| -> Result<()> {
            let run = |test_programs: &TestPrograms, program: &Program, packets: u32| match program.name {
                EVENTS => all_taken(test_programs, program, &frame, packets, &taken),
                _ => test_programs.run(program.entry, &frame, packets),
            };
            // Opens the flows, and fills the caches.
            for program in &PROGRAMS {
                run(&test_programs, program, SEQUENCE as u32)?;
            }
            for _ in 0..options.rounds {
                for (program, times) in PROGRAMS.iter().zip(&mut times) {
                    // The flows were last seen just now, by whichever clock.
                    test_programs.set_time(monotonic())?;
                    times.push(run(&test_programs, program, options.packets)?);
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome
    })?;
    let counted = test_programs.counted()?;
    ensure!(counted.balanced() && counted.folded == 0, "packets found no slot: {counted:?}");
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let row = |(program, &ns): (&Program, &f64)| Row {
        program: program.name,
        flows,
        distribution,
        ip,
        ns,
        above_empty_ns: ns - medians[0],
    };
    Ok(PROGRAMS.iter().zip(&medians).map(row).collect())
}

/// Runs the program that sends an event for each packet, never more at once than the ring has room for: one that finds none
/// is quickly done, and has done nothing. Returns the mean time of a packet.
///
/// # Errors
/// The kernel does not run it, or an event has not come through.
fn all_taken(
    test_programs: &TestPrograms,
    program: &Program,
    frame: &[u8],
    packets: u32,
    taken: &AtomicU64,
) -> Result<Duration> {
    let (mut left, mut took) = (packets, Duration::ZERO);
    while left > 0 {
        let (some, before) = (left.min(AT_ONCE), taken.load(Ordering::Relaxed));
        took += test_programs.run(program.entry, frame, some)? * some;
        let sent = Instant::now();
        while taken.load(Ordering::Relaxed) - before < u64::from(some) {
            ensure!(sent.elapsed() < Duration::from_secs(5), "of {some} events not all have come through");
            std::thread::sleep(Duration::from_micros(100));
        }
        left -= some;
    }
    Ok(took / packets)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_nanos() as f64
}
