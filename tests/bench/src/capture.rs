//! `bench capture`: the capture path does with a generated capture, as rates and ratios of one run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowmeter::capture::CaptureReader;
use flowmeter::source::pcap;
use flowmeter::source::pcap::flow_table::{Flows, Parsed, TOGETHER, Totals};
use flowmeter_common::flow::Entry;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::{ParseOptions, parse_link};
use flowmeter_common::time::SECOND;
use harness::agent::binary;
use harness::frames::{Packet, Transport, tcp};
use harness::replay::{Frame, write_capture};

/// Bytes kept of each packet: all headers.
const SNAPSHOT: usize = 96;
/// Time over which flows begin.
const SPAN: u64 = 600 * SECOND;
/// Mean gap within a flow.
const GAP: f64 = 0.2 * SECOND as f64;

/// Arguments of `bench capture`.
#[derive(Args)]
pub struct Options {
    /// Packets, at least.
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    packets: usize,
    /// Flows.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    flows: usize,
    /// Runs of each measurement; the median is shown, with the least and the greatest.
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Keep the capture in this file; an existing one is taken as it is.
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
}

/// Measures, and prints.
///
/// # Errors
/// The agent fails, or a file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = options.capture.clone().unwrap_or_else(|| folder.path().join("generated.pcap"));
    if !path.is_file() {
        eprintln!("generating {} flows, {} packets ...", options.flows, options.packets);
        write_capture(&path, &generate(options.packets, options.flows))?;
    }
    let frames = Loaded::read(&path)?;
    let packets = frames.places.len() as f64;
    println!("capture: {} packets, {:.0} MB", frames.places.len(), frames.bytes.len() as f64 / 1e6);

    let rate = |times: &Times| format!("{:.2} M packets/s (of {})", packets / times.median() / 1e6, times);
    let parse = Times::of(options.runs, || {
        frames.parse();
        Ok(())
    })?;
    println!("parse, one core:                      {}", rate(&parse));
    let mut totals = Totals::default();
    let meter = Times::of(options.runs, || {
        totals = frames.meter()?;
        Ok(())
    })?;
    println!("parse and update, one core:           {}", rate(&meter));
    println!("  flows {}, at most {} at once", totals.flows, totals.most_living);
    let read = Times::of(options.runs, || {
        let stop = Arc::default();
        pcap::read(&path, &pcap::ReadSettings::default(), &stop, |_| Ok(()), |_| ()).map(drop)
    })?;
    println!("read the file, parse and update:      {}", rate(&read));

    let agent = Agent { path: &path, output: folder.path().join("output") };
    let copy = Times::of(options.runs, || Ok(std::fs::copy(&path, folder.path().join("copy")).map(drop)?))?;
    for (what, words) in [
        ("cic-fixed/v1 as CSV", &["--no-model", "--format", "csv", "--set", "cic-fixed/v1"][..]),
        ("flowmeter/v1 as CSV", &["--no-model", "--format", "csv"]),
        ("flowmeter/v1 as Parquet", &["--no-model", "--format", "parquet"]),
        ("verdicts as JSON lines", &["--format", "jsonl"]),
    ] {
        let times = Times::of(options.runs, || agent.run(words).map(drop))?;
        let ratio = times.median() / copy.median();
        println!("whole command, {what:<24} {times}, {ratio:.1} x copying the file");
    }

    let none = folder.path().join("empty.pcap");
    write_capture(&none, &[])?;
    let all = folder.path().join("scan.pcap");
    write_capture(&all, &scan(options.flows))?;
    let words = ["--no-model", "--format", "csv"];
    let run = |path: &Path| Agent { path, output: agent.output.clone() }.run(&words);
    let (none, all) = (run(&none)?, run(&all)?);
    println!(
        "peak memory: {} KiB for {} flows at once, {:.0} bytes a flow; {} KiB for an empty capture",
        all.peak_kib,
        all.most_living,
        (all.peak_kib * 1024) as f64 / all.most_living as f64,
        none.peak_kib,
    );
    Ok(())
}

/// A random number in (0, 1].
fn unit(random: &mut fastrand::Rng) -> f64 {
    1.0 - random.f64()
}

/// Generated packets in order of time; the same at every call.
fn generate(packets: usize, flows: usize) -> Vec<Frame> {
    let mut random = fastrand::Rng::with_seed(4);
    let mut all = Vec::with_capacity(packets + packets / 8);
    let mean = packets as f64 / flows as f64;
    for flow in 0..flows {
        let tcp = flow % 3 != 0;
        // Geometric, at least what a connection needs.
        let least = if tcp { 6 } else { 1 };
        let count = least + ((mean - least as f64).max(0.0) * -unit(&mut random).ln() + 0.5) as usize;
        let mut at = 1_700_000_000 * SECOND + (random.f64() * SPAN as f64) as u64;
        let client = format!("10.{}.{}.{}", flow >> 16 & 255, flow >> 8 & 255, flow & 255);
        let server = format!("192.0.2.{}", random.u8(1..=254));
        let port = random.u16(1024..);
        let (mut sent, mut received) = (random.u32(..), random.u32(..));
        for i in 0..count {
            let forward = i == 0 || (i != 1 && random.bool());
            let payload = if tcp && (i < 3 || i + 2 >= count) { 0 } else { random.usize(0..1400) };
            let (own, other) = if forward { (&mut sent, received) } else { (&mut received, sent) };
            let (from, to) = if forward { (port, 443) } else { (443, port) };
            let transport = if tcp {
                let flags = match i {
                    0 => tcp::SYN,
                    1 => tcp::SYN | tcp::ACK,
                    i if i + 2 == count => tcp::FIN | tcp::ACK,
                    i if i + 1 == count => tcp::RST,
                    _ => tcp::ACK | if random.bool() { tcp::PSH } else { 0 },
                };
                let segment = Transport::tcp(from, to).flags(flags).numbers(*own, other);
                let length = payload as u32 + u32::from(flags & (tcp::SYN | tcp::FIN) != 0);
                *own = own.wrapping_add(length);
                segment
            } else {
                Transport::udp(from, to)
            };
            let (source, destination) = if forward { (&client, &server) } else { (&server, &client) };
            let whole = Packet::ipv4(source, destination).with(transport.payload(vec![0; payload])).build();
            let mut frame = Frame::new(at, whole[..whole.len().min(SNAPSHOT)].to_vec());
            frame.wire_len = whole.len() as u32;
            all.push(frame);
            at += (GAP * -unit(&mut random).ln()) as u64;
        }
    }
    all.sort_by_key(|frame| frame.timestamp_ns);
    all
}

/// A packet for each flow, within a minute: none ends before the capture does.
fn scan(flows: usize) -> Vec<Frame> {
    let frame = |i: usize| {
        let target = format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
        let probe = Packet::ipv4("192.0.2.1", &target).with(Transport::tcp(40000, 23).flags(tcp::SYN));
        Frame::new(1_700_000_000 * SECOND + i as u64 * (60 * SECOND / flows as u64), probe.build())
    };
    (0..flows).map(frame).collect()
}

/// A capture in memory.
struct Loaded {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

struct Place {
    start: usize,
    length: usize,
    wire_len: usize,
    link: u32,
    at: u64,
}

impl Loaded {
    fn read(path: &Path) -> Result<Self> {
        let mut reader = CaptureReader::open(path)?;
        let mut loaded = Self { bytes: Vec::new(), places: Vec::new() };
        while let Some(frame) = reader.next_frame()? {
            loaded.places.push(Place {
                start: loaded.bytes.len(),
                length: frame.data.len(),
                wire_len: frame.wire_len as usize,
                link: frame.link_type,
                at: frame.timestamp_ns,
            });
            loaded.bytes.extend_from_slice(frame.data);
        }
        Ok(loaded)
    }

    fn frames(&self) -> impl Iterator<Item = (SliceFrame<'_>, &Place)> {
        self.places.iter().map(|place| {
            let data = &self.bytes[place.start..place.start + place.length];
            (SliceFrame::new(data, place.wire_len), place)
        })
    }

    fn parse(&self) {
        for (frame, place) in self.frames() {
            std::hint::black_box(parse_link(&frame, place.link, ParseOptions::default()).ok());
        }
    }

    fn meter(&self) -> Result<Totals> {
        let mut flows = Flows::new(Timeouts::default());
        let mut give = |entry: &Entry, why| {
            std::hint::black_box((entry, why));
            Ok(())
        };
        let mut batch: Vec<Parsed> = Vec::with_capacity(TOGETHER);
        for (frame, place) in self.frames() {
            batch.push((parse_link(&frame, place.link, ParseOptions::default()), place.at));
            if batch.len() == TOGETHER {
                flows.packets(&batch, &mut give)?;
                batch.clear();
            }
        }
        flows.packets(&batch, &mut give)?;
        flows.finish(&mut give)
    }
}

/// Runs the agent on a capture.
struct Agent<'a> {
    path: &'a Path,
    output: PathBuf,
}

struct Ran {
    peak_kib: u64,
    most_living: u64,
}

impl Agent<'_> {
    fn run(&self, words: &[&str]) -> Result<Ran> {
        let said = self.output.with_extension("said");
        let mut child = Command::new(binary()?)
            .arg("pcap")
            .arg(self.path)
            .arg("--output")
            .arg(&self.output)
            .args(words)
            .stdin(Stdio::null())
            .stderr(File::create(&said)?)
            .spawn()?;
        let status = child.wait()?;
        let said = std::fs::read_to_string(said)?;
        ensure!(status.success(), "flowmeter failed: {said}");
        let number = |before: &str| -> Result<u64> {
            let rest =
                said.split(before).nth(1).with_context(|| format!("the agent does not say {before:?}"))?;
            Ok(rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse()?)
        };
        let (peak_kib, most_living) = (number("memory at most ")?, number("flows (at most ")?);
        Ok(Ran { peak_kib, most_living })
    }
}

/// Times of several runs.
struct Times(Vec<Duration>);

impl Times {
    fn of(runs: usize, mut run: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut times = Vec::new();
        for _ in 0..runs.max(1) {
            let start = Instant::now();
            run()?;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(Self(times))
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2].as_secs_f64()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (least, most) = (self.0[0].as_secs_f64(), self.0[self.0.len() - 1].as_secs_f64());
        write!(f, "{:.3} s [{least:.3} to {most:.3}]", self.median())
    }
}
