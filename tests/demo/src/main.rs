//! The demo: replays recorded traffic at a watched interface, all within two namespaces, and explains the verdicts.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use harness::agent::{self, Agent, Outcome, Signal};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{self, Frame, Oversized, Pace, Sender};
use harness::row::{self, Books, Conversation, Counted};
use serde::Deserialize;
use serde_json::Value;

/// The interface that FlowMeter watches, and the one that the recorded packets leave from.
const WATCHED: &str = "fm-watched";
const SENDING: &str = "fm-sending";
/// What the issue of the demo asks for at least.
const VERDICTS_WANTED: u64 = 20;
/// The last packets are still on their way when the last was sent.
const SETTLE: Duration = Duration::from_millis(300);
/// Lines of the log that are shown, of each verdict.
const SHOWN: usize = 3;

/// Set by Ctrl-C and SIGTERM: everything winds up, guards remove what was made.
static STOP: AtomicBool = AtomicBool::new(false);

/// Shows FlowMeter at work: recorded everyday traffic and attacks pass an interface, verdicts come out.
///
/// Two network namespaces are made, joined by a virtual cable. FlowMeter watches one end; recorded packets of real
/// tools are sent from the other, as fast as they once came. Nothing leaves the machine, and nothing stays.
#[derive(Parser)]
#[command(name = "flowmeter-demo")]
struct Options {
    /// Keep FlowMeter's log in this file.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Print the summary only.
    #[arg(long)]
    quiet: bool,
    /// Folder with recorded captures and their manifest.csv.
    #[arg(long, value_name = "DIR", default_value_os_t = harness::sample_folder())]
    sample: PathBuf,
}

/// A row of manifest.csv.
#[derive(Deserialize)]
struct Recording {
    file: String,
    label: String,
    activity: String,
    description: String,
}

/// What became of an activity's flows.
#[derive(Default)]
struct Tally {
    flows: u64,
    malicious: u64,
    benign: u64,
    unknown: u64,
    none: u64,
}

impl Tally {
    fn add(&mut self, row: &Value) {
        self.flows += 1;
        match row["verdict"].as_str() {
            Some("malicious") => self.malicious += 1,
            Some("benign") => self.benign += 1,
            Some("unknown") => self.unknown += 1,
            _ => self.none += 1,
        }
    }

    fn verdicts(&self) -> u64 {
        self.malicious + self.benign + self.unknown
    }

    fn merge(&mut self, other: &Self) {
        self.flows += other.flows;
        self.malicious += other.malicious;
        self.benign += other.benign;
        self.unknown += other.unknown;
        self.none += other.none;
    }
}

fn main() -> ExitCode {
    match demo(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(options: &Options) -> Result<()> {
    ensure!(
        harness::is_root(),
        "the demo makes network namespaces and attaches a kernel program, so it needs root: run it with sudo"
    );
    catch_signals();
    let say = |text: &str| {
        if !options.quiet {
            eprintln!("{text}");
        }
    };
    let recordings = read_manifest(&options.sample)?;
    let captures = recordings
        .iter()
        .map(|recording| replay::read_capture(&options.sample.join(&recording.file)))
        .collect::<Result<Vec<_>>>()?;
    let frames = replay::merge(captures);
    let seconds = frames.last().map_or(0.0, |frame| frame.timestamp_ns as f64 / 1e9);

    let scratch = tempfile::tempdir().context("a folder for the log")?;
    let log = options.log.clone().unwrap_or_else(|| scratch.path().join("flowmeter.jsonl"));
    say("Making two network namespaces, joined by a virtual cable.");
    let network = Namespace::new("sends")?;
    let watcher = Namespace::new("watches")?;
    network.join(SENDING, &watcher, WATCHED, Chatter::None, Offload::Off)?;

    say(&format!("Starting: flowmeter live --interface {WATCHED} --log {}", log.display()));
    let agent = Agent::start(&watcher, &[WATCHED], &log, &[])?;
    say(&format!(
        "FlowMeter watches. Replaying {} recordings, {} packets, in {seconds:.0} s as they were recorded.",
        recordings.len(),
        thousands(frames.len() as u64)
    ));
    let (sent, truth) = send_and_wait(options, &network, &agent, &frames, seconds, &recordings)?;
    if STOP.load(Ordering::Relaxed) {
        bail!("stopped by a signal; everything made was removed");
    }
    std::thread::sleep(SETTLE);
    say("Stopping FlowMeter by Ctrl-C (SIGINT): it writes the flows that still live, and detaches.\n");
    let outcome = agent.stop(Signal::Interrupt)?;
    ensure!(outcome.status.success(), "flowmeter ended with {}; it said:\n{}", outcome.status, outcome.said);
    let books = row::identity(outcome.stats()?)?;

    let (tallies, shared) = tally(&outcome, &recordings, &truth)?;
    if !options.quiet {
        show_extract(&outcome);
    }
    show_summary(&recordings, &tallies, &shared, &books, sent);
    judge(&recordings, &tallies, &shared, &outcome)?;
    show_way_on(options, &log);
    Ok(())
}

fn read_manifest(folder: &Path) -> Result<Vec<Recording>> {
    let path = folder.join("manifest.csv");
    let mut reader = csv::Reader::from_path(&path).with_context(|| format!("opening {}", path.display()))?;
    let rows: Vec<Recording> = reader
        .deserialize()
        .collect::<Result<_, _>>()
        .with_context(|| format!("reading {}", path.display()))?;
    ensure!(!rows.is_empty(), "{} lists no recording", path.display());
    Ok(rows)
}

/// Which recording each flow belongs to, by what `flowmeter pcap` finds in the files; more than one is possible.
fn read_truth(folder: &Path, recordings: &[Recording]) -> Result<HashMap<Conversation, Vec<usize>>> {
    let mut truth: HashMap<Conversation, Vec<usize>> = HashMap::new();
    for (number, recording) in recordings.iter().enumerate() {
        for row in agent::pcap_rows(&[&folder.join(&recording.file)], &["--no-model"])? {
            if row["event"] == "flow" {
                let owners = truth.entry(Counted::of(&row)?.conversation()).or_default();
                if !owners.contains(&number) {
                    owners.push(number);
                }
            }
            if STOP.load(Ordering::Relaxed) {
                return Ok(truth);
            }
        }
    }
    Ok(truth)
}

/// Replays, shows how far it is, and finds out the truth meanwhile; returns packets sent and the truth.
fn send_and_wait(
    options: &Options,
    network: &Namespace,
    agent: &Agent,
    frames: &[Frame],
    seconds: f64,
    recordings: &[Recording],
) -> Result<(u64, HashMap<Conversation, Vec<usize>>)> {
    let begin = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            network.run(|| Sender::open(SENDING)?.send(frames, Pace::Times(1.0), Oversized::Refuse, &STOP))?
        });
        let truth = scope.spawn(|| read_truth(&options.sample, recordings));
        let mut next = begin;
        while !(sending.is_finished() && truth.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            // A new line every few seconds is enough for a file that nobody watches.
            if !options.quiet && Instant::now() >= next {
                next += Duration::from_millis(if terminal { 500 } else { 5000 });
                let lines = agent.rows().map_or(0, |rows| rows.len());
                let at = begin.elapsed().as_secs_f64().min(seconds);
                let line = format!("  {at:4.1} of {seconds:.1} s replayed, {lines} lines in the log");
                eprint!("{}", if terminal { format!("\r{line}\x1b[K") } else { format!("{line}\n") });
            }
        }
        if terminal && !options.quiet {
            eprintln!();
        }
        Ok((joined(sending.join())?, joined(truth.join())?))
    })
}

/// A thread's result; its panic goes on here.
fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Counts verdicts for each recording; flows of several recordings at once are counted apart.
fn tally(
    outcome: &Outcome,
    recordings: &[Recording],
    truth: &HashMap<Conversation, Vec<usize>>,
) -> Result<(Vec<Tally>, Tally)> {
    let mut tallies: Vec<Tally> = recordings.iter().map(|_| Tally::default()).collect();
    let mut shared = Tally::default();
    for row in outcome.flows() {
        match truth.get(&Counted::of(row)?.conversation()).map(Vec::as_slice) {
            Some([one]) => tallies[*one].add(row),
            _ => shared.add(row),
        }
    }
    Ok((tallies, shared))
}

/// Some lines of the log: one whole, more of them shortened.
fn show_extract(outcome: &Outcome) {
    let mut shown: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut starts = Vec::new();
    for row in outcome.flows() {
        let list = shown.entry(row["verdict"].as_str().unwrap_or("none")).or_default();
        // Many flows of a flood look alike; one line for each initiator and target is telling enough.
        let start = (row["verdict"].clone(), row["src_ip"].clone(), row["dst_ip"].clone());
        if list.len() < SHOWN && !starts.contains(&start) {
            starts.push(start);
            list.push(row);
        }
    }
    println!("From the log, shortened:");
    for row in shown.values().flatten() {
        println!("  {}", short(row));
    }
    let whole = shown.get("malicious").or_else(|| shown.values().next()).and_then(|rows| rows.first());
    if let Some(row) = whole {
        println!("\nA whole line of it:\n{row}");
    }
    println!();
}

/// A log line as a person would say it.
fn short(row: &Value) -> String {
    let end = |ip: &str, port: &str| {
        let address = row[ip].as_str().unwrap_or("?");
        let port = row[port].as_u64().unwrap_or(0);
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    let protocol = match row["protocol"].as_u64() {
        Some(1 | 58) => "icmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        other => other.unwrap_or(0).to_string(),
    };
    let reasons: Vec<String> = row["reasons"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|reason| {
            reason
                .as_str()
                .or_else(|| reason["feature"].as_str())
                .or_else(|| reason["name"].as_str())
                .map(str::to_owned)
        })
        .take(SHOWN)
        .collect();
    format!(
        "{:<9} {} {protocol} {} -> {}, {} packets, {} bytes{}{}",
        row["verdict"].as_str().unwrap_or("none"),
        row["score"].as_f64().map_or("-----".to_owned(), |score| format!("{score:.3}")),
        end("src_ip", "src_port"),
        end("dst_ip", "dst_port"),
        row["packets"].as_u64().unwrap_or(0),
        row["bytes"].as_u64().unwrap_or(0),
        if reasons.is_empty() { "" } else { "; by " },
        reasons.join(", ")
    )
}

fn show_summary(recordings: &[Recording], tallies: &[Tally], shared: &Tally, books: &Books, sent: u64) {
    println!(
        "{:<70} {:>6} {:>10} {:>7} {:>8}",
        "What it was in truth", "flows", "malicious", "benign", "unknown"
    );
    let line = |name: &str, tally: &Tally| {
        println!(
            "{name:<70} {:>6} {:>10} {:>7} {:>8}",
            tally.flows, tally.malicious, tally.benign, tally.unknown
        );
    };
    let mut totals = Vec::new();
    for (label, heading) in [("malicious", "Attacks"), ("benign", "Everyday use")] {
        println!("{heading}");
        let mut total = Tally::default();
        for (recording, tally) in
            recordings.iter().zip(tallies).filter(|(recording, _)| recording.label == label)
        {
            line(&format!("  {:<17} {}", recording.activity, clipped(&recording.description, 49)), tally);
            total.merge(tally);
        }
        line(&format!("  all of {}", heading.to_lowercase()), &total);
        totals.push(total);
    }
    if shared.flows > 0 {
        line("Flows that several recordings have, or none (left out of the judgement)", shared);
    }
    let none: u64 = tallies.iter().map(|tally| tally.none).sum::<u64>() + shared.none;
    if none > 0 {
        println!("{} flows got no verdict.", thousands(none));
    }
    println!();
    if let [attacks, everyday] = totals.as_slice() {
        println!(
            "FlowMeter called {} of {} attack flows malicious, and {} of {} everyday flows.",
            thousands(attacks.malicious),
            thousands(attacks.flows),
            thousands(everyday.malicious),
            thousands(everyday.flows)
        );
    }
    println!(
        "Every packet is accounted for: {} seen = {} counted + {} folded + {} skipped ({} were sent).",
        thousands(books.seen),
        thousands(books.counted),
        thousands(books.folded),
        thousands(books.skipped),
        thousands(sent)
    );
}

/// Fails unless the demo has shown what it is there to show.
fn judge(recordings: &[Recording], tallies: &[Tally], shared: &Tally, outcome: &Outcome) -> Result<()> {
    let verdicts = tallies.iter().map(Tally::verdicts).sum::<u64>() + shared.verdicts();
    ensure!(
        verdicts >= VERDICTS_WANTED,
        "only {verdicts} flows got a verdict, {VERDICTS_WANTED} are expected; flowmeter said:\n{}",
        outcome.said.trim_end()
    );
    let of = |label: &str, count: fn(&Tally) -> u64| -> u64 {
        recordings
            .iter()
            .zip(tallies)
            .filter(|(recording, _)| recording.label == label)
            .map(|(_, tally)| count(tally))
            .sum()
    };
    ensure!(of("malicious", |tally| tally.malicious) > 0, "no attack flow was called malicious");
    ensure!(of("benign", |tally| tally.benign) > 0, "no everyday flow was called benign");
    Ok(())
}

fn show_way_on(options: &Options, log: &Path) {
    println!();
    if options.log.is_some() {
        println!("The log is in {}: one JSON object a line, see docs for its fields.", log.display());
    } else {
        println!("To keep the log:              cargo xtask demo --log demo.jsonl");
    }
    println!("To watch an interface:        cargo xtask run -- live --interface eth0");
    println!("To read a capture file:       cargo xtask run -- pcap FILE --format jsonl --output -");
    println!("Namespaces, programs and the interface of this demo have been removed.");
    let _ = std::io::stdout().flush();
}

/// A text of at most so many characters.
fn clipped(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A number with a comma between thousands.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Ctrl-C and SIGTERM set [`STOP`] instead of ending the process, so that guards are dropped.
fn catch_signals() {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, stop as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}
