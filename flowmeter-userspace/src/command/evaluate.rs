//! `flowmeter evaluate`: labelled flows to a report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::SOME_FAILED;
use crate::cli::EvaluateArgs;
use crate::evaluation::{Evaluation, html, text::Text};
use crate::flow_log::{self, Reading, Source};
use crate::output::{Inputs, write};
use crate::truth::Truth;

/// Reads all flows and writes the report.
///
/// # Errors
/// A file cannot be read or written, or no flow can be evaluated.
pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    let inputs = Inputs::of(args.files.iter().chain(&args.truth).map(PathBuf::as_path));
    for output in [&args.json, &args.html].into_iter().flatten() {
        inputs.refuse(output)?;
    }
    inputs.refuse(Path::new("-"))?;
    if let (Some(json), Some(html)) = (&args.json, &args.html)
        && json == html
        && json != Path::new("-")
    {
        bail!("--json and --html name the same file, {}", json.display());
    }
    let truth = args.truth.as_deref().map(Truth::read).transpose()?;
    let mut evaluation = Evaluation::default();
    let mut reading = Reading::default();
    for file in &args.files {
        let mut take = |row: &dyn flow_log::Row| {
            evaluation.take(row, truth.as_ref());
            Ok(())
        };
        if flow_log::read(file, &mut reading, &mut take)? == Source::Capture {
            bail!(
                "{} is a capture: make flows of it first, with `flowmeter pcap {0} --output flows.jsonl`",
                file.display()
            );
        }
    }
    evaluation.damaged(reading.damaged);
    let malformed = evaluation.first_malformed().or(reading.first_damage.as_deref()).map(str::to_owned);
    let report = evaluation.report(args.base_rate)?;
    if let Some(problem) = &malformed {
        log::warn!("rows were left out; the first: {problem}");
    }
    if let Some(path) = &args.json {
        write(path, &inputs, &format!("{:#}\n", serde_json::to_value(&report)?))?;
    }
    if let Some(path) = &args.html {
        write(path, &inputs, &html::page(&report))?;
    }
    // Not beside what a program reads from the same place.
    if ![&args.json, &args.html].into_iter().flatten().any(|path| path == Path::new("-")) {
        write(Path::new("-"), &inputs, &Text(&report).to_string())?;
    }
    Ok(if malformed.is_some() { ExitCode::from(SOME_FAILED) } else { ExitCode::SUCCESS })
}
