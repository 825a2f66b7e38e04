//! `flowmeter pcap`: captures to flows and verdicts.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::{feature_set, judge};
use crate::cli::{Format, Pcap};
use crate::pipeline::Pipeline;
use crate::record::FlowRecord;
use crate::sink::{self, Sink, csv::Csv, jsonl::JsonLines};
use crate::source::pcap::{self, Summary};
use crate::stats::{Account, PipelineCounts};

/// Flows that are finished and scored together: large enough for the model's fixed cost to vanish.
const BATCH: usize = 512;

/// Exit code when some captures could not be read to their end.
const SOME_FAILED: u8 = 3;

/// Reads all captures; one that cannot be read is reported, and the others are read all the same.
///
/// # Errors
/// The model, the set or the output is wrong.
pub fn run(args: &Pcap) -> Result<ExitCode> {
    let set = feature_set(&args.set)?;
    let judge = judge(&args.scoring, set)?;
    let out = sink::open(&args.output)?;
    let sink: Box<dyn Sink> = match args.format {
        Format::Jsonl => Box::new(JsonLines::new(out)),
        Format::Csv => Box::new(Csv::new(out, set)?),
    };
    let mut pipeline = Pipeline::new(set, judge, sink);
    let mut found = Found::default();
    for file in &args.files {
        match read(file, args, &mut pipeline) {
            Ok(summary) => found.take(file, summary),
            Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error),
        }
    }
    match pipeline.flush() {
        Err(error) if !is_broken_pipe(&error) => return Err(error),
        _ => {}
    }
    Ok(found.report(args.files.len(), pipeline.counts()))
}

/// What was found in all captures.
#[derive(Default)]
struct Found {
    failed: usize,
    stepped_back: u64,
    captures_stepping_back: usize,
}

impl Found {
    /// Says what is to be said of one capture.
    fn take(&mut self, file: &Path, summary: Summary) {
        let account = Account::new(&file.display().to_string(), &summary.counters);
        log::info!("{}; {} flows, at most {} at once", account.line(), summary.flows, summary.most_living);
        if !account.identity {
            log::error!("{}: the account is not balanced; this is a defect of flowmeter", file.display());
        }
        let irregular = summary.irregular;
        if irregular.time_stepped_back != 0 {
            self.stepped_back += irregular.time_stepped_back;
            self.captures_stepping_back += 1;
            log::info!("{}: time stepped back at {} packets", file.display(), irregular.time_stepped_back);
        }
        if irregular.cut_short {
            log::warn!("{}: the file ends within a packet; everything before it was read", file.display());
        }
        if let Some(problem) = irregular.problem {
            self.failed += 1;
            log::error!("{problem:#}");
        }
    }

    /// Says what is to be said of all of them.
    fn report(&self, files: usize, counts: PipelineCounts) -> ExitCode {
        if self.stepped_back != 0 {
            log::warn!(
                "time stepped back at {} packets of {} captures; they were taken to come at the time of the one before",
                self.stepped_back,
                self.captures_stepping_back
            );
        }
        log::info!(
            "flows: {} malicious, {} benign, {} unknown, {} not scored",
            counts.malicious,
            counts.benign,
            counts.unknown,
            counts.not_scored
        );
        match self.failed {
            0 => ExitCode::SUCCESS,
            all if all == files => ExitCode::FAILURE,
            _ => ExitCode::from(SOME_FAILED),
        }
    }
}

/// Takes one capture through all stages.
fn read(file: &Path, args: &Pcap, pipeline: &mut Pipeline) -> Result<Summary> {
    let name = file.display().to_string();
    let bar = progress_bar(file, &name);
    let mut batch: Vec<FlowRecord> = Vec::with_capacity(BATCH);
    let mut give = |record: FlowRecord| {
        batch.push(record);
        if batch.len() == BATCH {
            pipeline.process(&batch, |_| Some(&name))?;
            batch.clear();
        }
        Ok(())
    };
    let summary = pcap::read(file, &args.timing.timeouts(), &mut give, |position| bar.set_position(position));
    bar.finish_and_clear();
    let summary = summary?;
    pipeline.process(&batch, |_| Some(&name))?;
    Ok(summary)
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(file: &Path, name: &str) -> ProgressBar {
    let size = std::fs::metadata(file).map_or(0, |m| m.len());
    if !std::io::stderr().is_terminal() || size == 0 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}");
    let bar = ProgressBar::new(size).with_message(name.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Whoever read our output has had enough; that is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
}
