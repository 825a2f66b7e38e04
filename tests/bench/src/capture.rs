//! `bench capture`: the capture path does with a generated capture, as rates and ratios of one run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowmeter::source::pcap;
use flowmeter::source::pcap::flow_table::Totals;
use flowmeter_bench::generated::{Loaded, generate, scan};
use harness::agent::binary;
use harness::replay::write_capture;

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
    let packets = frames.packets() as f64;
    println!("capture: {} packets, {:.0} MB", frames.packets(), frames.bytes() as f64 / 1e6);

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
