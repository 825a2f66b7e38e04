//! `flowmeter pcap`: captures to flows and verdicts.
//!
//! Captures are read on threads of their own, a few at a time; one thread finishes, scores and writes, capture after
//! capture in the order given, so that the output is the same however many are read at once. The queues between are
//! short: a reader that is ahead waits.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::SOME_FAILED;
use crate::cli::{ParsingArgs, PcapArgs, TimingArgs};
use crate::config::{Format, OutputConfig, ScoringConfig, parse_options, timeouts};
use crate::count::count;
use crate::output::{self, Inputs};
use crate::pipeline::Pipeline;
use crate::record::FlowRecord;
use crate::scoring::ScorerLoader;
use crate::sink::{self, Labels, table::Extent};
use crate::source::pcap::{self, Anomalies, Leap, ReadSettings, Summary};
use crate::stats::{Account, PipelineCounts};
use crate::timestamp::timestamp;
use crate::truth::Truth;

/// Flows that are finished and scored together: large enough for the model's fixed cost to vanish.
const BATCH: usize = 128;
/// Batches that wait for the writer, per capture: an eighth of a MiB each.
const QUEUE: usize = 3;
/// Captures up to which each has a line of its own in the diagnostics.
const FEW: usize = 16;

/// Exit code after Ctrl-C or SIGTERM, as shells give it for the former.
const INTERRUPTED: u8 = 130;

/// What a reader sends.
enum ReaderMessage {
    Flows(Vec<FlowRecord>),
    End(Box<Summary>),
}

/// Reads all captures; one that cannot be read is reported, and the others are read all the same.
///
/// # Errors
/// The model, the set or the output is wrong.
pub fn run(args: &PcapArgs) -> Result<ExitCode> {
    let output = OutputConfig::new(&args.writing, &args.output)?;
    let inputs = inputs(args);
    inputs.refuse(&args.output)?;
    if output.format == Format::Parquet {
        output::refuse_terminal(&args.output, "Parquet")?;
    }
    ensure!(
        args.label.is_none() || matches!(output.format, Format::Jsonl | Format::Csv | Format::Parquet),
        "--label needs a format with room for labels: jsonl, csv or parquet"
    );
    let labels = match &args.label {
        Some(path) => Labels::by(Truth::read(path)?),
        None => Labels::default(),
    };
    let scorers = ScoringConfig::new(&args.scoring).as_ref().map(ScorerLoader::new).transpose()?;
    let scorer = scorers.as_ref().map(ScorerLoader::load_first).transpose()?;
    ensure!(
        !args.checkpoints || (output.format == Format::Jsonl && scorer.is_some()),
        "--checkpoints writes verdicts on flows that live, which needs a model and `--format jsonl`: a table has one row a flow"
    );
    let extent = Extent { scored: scorer.is_some(), several: args.files.len() > 1, ..Extent::default() };
    let (out, pending) = output::create(&args.output, &inputs)?;
    let sink = sink::make(out, &output, extent, labels, false)?;
    let sink = sink::with_exports(sink, &output.ipfix, true)?;
    let mut pipeline = Pipeline::new(output.set, scorer, sink);
    let reading =
        CaptureOptions { checkpoints: args.checkpoints, ..CaptureOptions::new(&args.parsing, &args.timing) };
    let found = run_through(&args.files, &reading, args.jobs, &mut pipeline)?;
    // Dropped, it leaves what stood there before.
    if !found.nothing() {
        pending.keep()?;
    }
    Ok(found.report(pipeline.counts()))
}

/// Everything that is read, and must not be written over.
fn inputs(args: &PcapArgs) -> Inputs {
    let others = [&args.label, &args.scoring.model, &args.scoring.calibration, &args.scoring.onnxruntime];
    let files = args.files.iter().chain(others.into_iter().flatten());
    Inputs::of(files.map(PathBuf::as_path))
}

/// How captures are read, as it was asked for.
pub struct CaptureOptions<'a> {
    parsing: &'a ParsingArgs,
    timing: &'a TimingArgs,
    checkpoints: bool,
}

impl<'a> CaptureOptions<'a> {
    /// Flows as they end.
    pub fn new(parsing: &'a ParsingArgs, timing: &'a TimingArgs) -> Self {
        Self { parsing, timing, checkpoints: false }
    }
}

/// Takes captures through all stages; [`Found::report`] says what was found.
///
/// # Errors
/// The output is wrong.
pub fn run_through(
    files: &[PathBuf],
    reading: &CaptureOptions<'_>,
    jobs: Option<u16>,
    pipeline: &mut Pipeline,
) -> Result<Found> {
    let settings = ReadSettings {
        timeouts: timeouts(reading.timing),
        look: parse_options(reading.parsing),
        context: pipeline.needs_context(),
        checkpoints: reading.checkpoints,
    };
    let stop = stop_on_signal()?;
    let jobs = jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let mut found = Found { files: files.len(), scores: pipeline.scored().is_some(), ..Found::default() };
    read_all(files, &settings, jobs, &stop, pipeline, &mut found)?;
    // Says it if the model does not fit them.
    pipeline.drift();
    pipeline.finish()?;
    Ok(found)
}

/// Set at the first Ctrl-C or SIGTERM: what has been read so far is written out. The second ends the process at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
        (interrupt, signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?)
    };
    thread::spawn(move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    output::abandon_all();
                    std::process::exit(INTERRUPTED.into());
                }
                log::warn!("stopping; what has been read is written out (again to leave at once)");
            }
        });
    });
    Ok(stop)
}

/// Takes all captures through all stages.
fn read_all(
    files: &[PathBuf],
    settings: &ReadSettings,
    jobs: usize,
    stop: &Arc<AtomicBool>,
    pipeline: &mut Pipeline,
    found: &mut Found,
) -> Result<()> {
    let progress = Progress::new(files);
    let next = AtomicUsize::new(0);
    let (senders, receivers): (Vec<_>, Vec<_>) = files.iter().map(|_| sync_channel(QUEUE)).unzip();
    let outcome = thread::scope(|scope| {
        for _ in 0..jobs.min(files.len()) {
            // Readers take the captures in order, so that the one the writer waits for is always being read.
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(file), Some(sender)) = (files.get(i), senders.get(i)) else {
                        break;
                    };
                    read(file, settings, stop, sender, &progress);
                }
            });
        }
        // By value: when writing fails, the receivers are dropped and the readers find nobody to send to.
        for (file, receiver) in files.iter().zip(receivers) {
            write(file, receiver, pipeline, found, files.len())?;
        }
        Ok(())
    });
    progress.finish();
    outcome
}

/// Reads one capture on a reader's thread.
fn read(
    file: &Path,
    settings: &ReadSettings,
    stop: &Arc<AtomicBool>,
    sender: &SyncSender<ReaderMessage>,
    progress: &Progress,
) {
    let mut batch: Vec<FlowRecord> = Vec::with_capacity(BATCH);
    let send = |message| sender.send(message).map_err(|_| anyhow!("writing has ended"));
    let mut give = |record| {
        batch.push(record);
        if batch.len() < BATCH {
            return Ok(());
        }
        send(ReaderMessage::Flows(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))))
    };
    let mut before = 0;
    let summary = if stop.load(Ordering::Relaxed) {
        Ok(Summary { stopped: true, ..Summary::default() })
    } else {
        pcap::read(file, settings, stop, &mut give, |position| {
            progress.advance(position - before);
            before = position;
        })
    };
    // Failures here mean that the writer has failed, and says so itself.
    if let Ok(summary) = summary
        && send(ReaderMessage::Flows(batch)).is_ok()
    {
        let _ = send(ReaderMessage::End(Box::new(summary)));
    }
}

/// Finishes, scores and writes the flows of one capture.
fn write(
    file: &Path,
    receiver: Receiver<ReaderMessage>,
    pipeline: &mut Pipeline,
    found: &mut Found,
    files: usize,
) -> Result<()> {
    let name = file.display().to_string();
    for message in receiver {
        match message {
            ReaderMessage::Flows(flows) => {
                pipeline.process(&flows, |_| Some(&name))?;
            }
            ReaderMessage::End(summary) => {
                found.take(file, *summary, files <= FEW);
                return Ok(());
            }
        }
    }
    Err(anyhow!("the thread that read {name} has gone; this is a defect of flowmeter"))
}

/// What was found in all captures.
#[derive(Default)]
pub struct Found {
    files: usize,
    /// There is a model.
    scores: bool,
    packets: u64,
    flows: u64,
    most_living: usize,
    failed: usize,
    stopped: bool,
    stepped_back: u64,
    captures_stepping_back: u64,
    /// Packets whose stamp was not believed.
    leaps: u64,
    /// Times that a capture's clock was set.
    steps: u64,
}

impl Found {
    /// Says what is to be said of one capture.
    fn take(&mut self, file: &Path, summary: Summary, few: bool) {
        let totals = summary.totals;
        let account = Account::new(&file.display().to_string(), &totals.counters);
        let level = if few { log::Level::Info } else { log::Level::Debug };
        log::log!(
            level,
            "{}; {}, at most {} at once",
            account.line(),
            count(totals.flows, "flow"),
            totals.most_living
        );
        if !account.identity {
            log::error!("{}: the account is not balanced; this is a defect of flowmeter", file.display());
        }
        self.packets += totals.counters.seen;
        self.flows += totals.flows;
        self.most_living = self.most_living.max(totals.most_living);
        self.stopped |= summary.stopped;
        if totals.time_stepped_back != 0 {
            self.stepped_back += totals.time_stepped_back;
            self.captures_stepping_back += 1;
            let packets = count(totals.time_stepped_back, "packet");
            log::log!(level, "{}: time stepped back at {packets}", file.display());
        }
        if let Some(note) = summary.note {
            log::error!("{}: {note}", file.display());
        }
        say_clock(file, &summary.clock);
        self.leaps += summary.clock.leaps;
        self.steps += summary.clock.steps;
        if summary.cut_short {
            log::warn!("{}: the file ends within a packet; everything before it was read", file.display());
        }
        if let Some(problem) = summary.problem {
            self.failed += 1;
            log::error!("{problem:#}");
        }
    }

    /// True if no capture could be read at all.
    pub fn nothing(&self) -> bool {
        self.failed == self.files && self.packets == 0 && !self.stopped
    }

    /// Says what is to be said of all of them.
    pub fn report(&self, counts: PipelineCounts) -> ExitCode {
        let files = self.files;
        if self.stepped_back != 0 {
            log::warn!(
                "time stepped back at {} of {}; each was given the time of the packet before it",
                count(self.stepped_back, "packet"),
                count(self.captures_stepping_back, "capture")
            );
        }
        if self.leaps + self.steps != 0 {
            log::warn!(
                "clocks were wrong: {} with a stamp of its own, {} of a clock",
                count(self.leaps, "packet"),
                count(self.steps, "step")
            );
        }
        log::info!(
            "{}, {}, {} (at most {} at once): {} malicious, {} benign, {} unknown, {} not scored",
            count(files as u64, "capture"),
            count(self.packets, "packet"),
            count(self.flows, "flow"),
            self.most_living,
            counts.malicious,
            counts.benign,
            counts.unknown,
            counts.not_scored
        );
        if let Some(kib) = peak_memory() {
            log::info!("memory at most {kib} KiB");
        }
        match self.failed {
            _ if self.stopped => ExitCode::from(INTERRUPTED),
            0 if self.scores && counts.not_scored != 0 => {
                log::error!("{} could not be scored", count(counts.not_scored, "flow"));
                ExitCode::from(SOME_FAILED)
            }
            0 => ExitCode::SUCCESS,
            all if all == files => ExitCode::FAILURE,
            _ => ExitCode::from(SOME_FAILED),
        }
    }
}

/// Says once of a capture where its clock was wrong: what is told of its flows' times depends on it.
fn say_clock(file: &Path, clock: &Anomalies) {
    let more = |number: u64, word: &'static str| match number {
        0 | 1 => String::new(),
        more => format!(" ({} in all)", count(more, word)),
    };
    if let Some(Leap { packet, before, stamp }) = clock.first_leap {
        log::error!(
            "{}: packet {packet} is stamped {} between packets of {}: its time is taken to be theirs{}",
            file.display(),
            timestamp(stamp),
            timestamp(before),
            more(clock.leaps, "such packet")
        );
    }
    if let Some(Leap { packet, before, stamp }) = clock.first_step {
        log::error!(
            "{}: the clock was set at packet {packet}, from {} to {}: durations go on as if it had not been{}",
            file.display(),
            timestamp(before),
            timestamp(stamp),
            more(clock.steps, "step")
        );
    }
}

/// Most memory that this process has used so far, in KiB, as the kernel counts it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// A bar over the bytes of all captures on a terminal, nothing elsewhere.
struct Progress {
    bar: ProgressBar,
    read: AtomicU64,
}

impl Progress {
    fn new(files: &[PathBuf]) -> Self {
        let size = files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|m| m.len()).sum();
        let style =
            ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {elapsed} gone, {eta} to go");
        let bar = match style {
            Ok(style) if std::io::stderr().is_terminal() && size != 0 => {
                let bar = ProgressBar::new(size).with_style(style);
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            }
            _ => ProgressBar::hidden(),
        };
        Self { bar, read: AtomicU64::new(0) }
    }

    fn advance(&self, bytes: u64) {
        self.bar.set_position(self.read.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
