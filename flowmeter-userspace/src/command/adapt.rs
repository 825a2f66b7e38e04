//! `flowmeter adapt`: a network's own flows to a model that knows them, with its thresholds.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

use super::{SOME_FAILED, pcap};
use crate::adapt::aside::groups;
use crate::adapt::library::Library;
use crate::adapt::sample::{Own, OwnSample};
use crate::adapt::words::{OperatorWord, Words};
use crate::adapt::{Learned, learn, model_file};
use crate::cli::AdaptArgs;
use crate::features::FeatureSet;
use crate::flow_log::{self, Reading, Row, Source};
use crate::model::{Model, Runtime};
use crate::output::{Inputs, create, write};
use crate::pipeline::Pipeline;
use crate::record::Stage;
use crate::scoring::Scored;
use crate::sink::Sink;
use crate::stats::Stats;
use crate::timestamp::timestamp;

/// Groups that are listed, and reasons that are given for each.
const LISTED: usize = 20;
const REASONS: usize = 3;
/// Flows below which the report says what a small network gets.
const SMALL: f64 = 1000.0;

/// Takes the flows of captures out of the pipeline.
struct OwnFlowCollector(Arc<Mutex<OwnSample>>);

impl Sink for OwnFlowCollector {
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        let record = scored.record;
        if !matches!(record.stage, Stage::Checkpoint { .. }) && !record.is_aggregate() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).add(record, scored.features);
        }
        Ok(())
    }

    fn stats(&mut self, _: &Stats) -> Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Reads the network's flows, learns them, writes the model and says what was set aside.
///
/// # Errors
/// A file is wrong, there are too few flows to learn from, or the model cannot be written.
pub fn run(args: &AdaptArgs) -> Result<ExitCode> {
    let words = [&args.was_attack, &args.was_fine];
    let inputs = Inputs::of(args.files.iter().chain(words.into_iter().flatten()).map(PathBuf::as_path));
    inputs.refuse(&args.output)?;
    inputs.refuse(Path::new("-"))?;
    let runtime = Runtime::load(args.onnxruntime.as_deref())
        .context("a model is proved by scoring with it before it is used")?;
    let library = Library::built_in()?;
    let words = Words::read(args.was_attack.as_deref(), args.was_fine.as_deref())?;
    let mut code = ExitCode::SUCCESS;
    let sample = read(args, &library, words, &mut code)?;
    let (total, malformed, without) = (sample.total, sample.malformed, sample.without_features);
    if malformed + without != 0 {
        log::warn!(
            "left out: {without} flows without all inputs of the library, {malformed} rows without time, addresses or protocol"
        );
    }
    ensure!(
        total != 0,
        "no flow has all {} inputs of the library: write logs with `--features`, and logs and tables with `--set {}`, or name \
         captures",
        library.width(),
        library.set.id
    );
    let own = sample.into_flows();
    let learned = learn(&own, &library, args.rate)?;
    let bytes = model_file(&learned, &library)?;
    let (mut model, findings) =
        Model::examine(&bytes, &runtime, &|id| FeatureSet::find(id).map(FeatureSet::names));
    let Some(model) = &mut model else {
        let problem = findings.iter().find_map(|finding| finding.outcome.as_ref().err());
        bail!("the model that was learned is refused ({problem:?}); this is a defect of flowmeter")
    };
    put(&args.output, &inputs, &bytes)?;
    write(Path::new("-"), &inputs, &report(model, &own, &learned, &library, args, total)?)?;
    Ok(code)
}

/// The sample of all that was named.
fn read(args: &AdaptArgs, library: &Library, words: Words, code: &mut ExitCode) -> Result<OwnSample> {
    let mut sample = OwnSample::new(library.inputs(), library.columns.clone(), words);
    let mut reading = Reading::default();
    let mut captures: Vec<PathBuf> = Vec::new();
    for file in &args.files {
        let mut take = |row: &dyn Row| {
            sample.take(row);
            Ok(())
        };
        if flow_log::read(file, &mut reading, &mut take)? == Source::Capture {
            captures.push(file.clone());
        }
    }
    if !captures.is_empty() {
        let shared = Arc::new(Mutex::new(sample));
        let mut pipeline = Pipeline::new(library.set, None, Box::new(OwnFlowCollector(Arc::clone(&shared))));
        let options = pcap::CaptureOptions::new(&args.parsing, &args.timing);
        *code = pcap::run_through(&captures, &options, None, &mut pipeline)?.report(pipeline.counts());
        drop(pipeline);
        let Some(inner) = Arc::into_inner(shared) else {
            bail!("the flows are still in use; this is a defect of flowmeter")
        };
        sample = inner.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    if let Some(problem) = &reading.first_damage {
        log::warn!("{} rows cannot be read; the first: {problem}", reading.damaged);
        *code = ExitCode::from(SOME_FAILED);
    }
    Ok(sample)
}

/// Puts the model in place at once, so that an agent which is told to load it again never sees half of it.
fn put(path: &Path, inputs: &Inputs, bytes: &[u8]) -> Result<()> {
    let (mut out, pending) = create(path, inputs)?;
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .with_context(|| format!("cannot write the model {}", path.display()))?;
    pending.keep()
}

/// What was learned, and what to look at before the model is used.
fn report(
    model: &mut Model,
    own: &[Own],
    learned: &Learned,
    library: &Library,
    args: &AdaptArgs,
    total: u64,
) -> Result<String> {
    let mut text = String::new();
    let time = |own: Option<&Own>| timestamp(own.and_then(|own| own.seen.time.try_into().ok()).unwrap_or(0));
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "{} flows, {} to {}{}",
        total,
        time(own.first()),
        time(own.last()),
        if own.len() as u64 == total {
            String::new()
        } else {
            format!(" ({} were kept to learn from)", own.len())
        }
    );
    let _ = writeln!(
        text,
        "malicious from score {:.4}, benign below {:.4}; flows called malicious, of those learned: {:.3} % (budget {:.3} %)",
        learned.malicious,
        learned.benign,
        100.0 * learned.expected.max(0.0),
        100.0 * args.rate
    );
    if (total as f64) < SMALL {
        text.push_str(
            "The network is small: its flows count less, and its threshold stays high, until it has shown some thousand flows. \
             What it has not shown yet may still look like an attack.\n",
        );
    }
    let groups = groups(own, &learned.aside, &learned.scores);
    if groups.is_empty() {
        text.push_str("\nNothing was set aside.\n");
    } else {
        text.push_str(
            "\nSet aside, not learned as normal, since it looks like an attack to a model that learned from other times:\n",
        );
    }
    let names = library.inputs();
    for group in groups.iter().take(LISTED) {
        let flow = &own[group.clearest.0];
        let said = if flow.seen.word == Some(OperatorWord::Attack) { "; an attack, as you said" } else { "" };
        let _ = writeln!(text, "  {group}{said}");
        let reasons = model.reasons(&flow.row, REASONS)?;
        let reasons: Vec<String> = reasons
            .iter()
            .map(|reason| format!("{} {} (usual {})", names[reason.input], reason.value, reason.normal))
            .collect();
        if !reasons.is_empty() {
            let _ = writeln!(text, "      because of {}", reasons.join(", "));
        }
    }
    if groups.len() > LISTED {
        let _ = writeln!(text, "  and {} more groups", groups.len() - LISTED);
    }
    if !groups.is_empty() {
        text.push_str(
            "If a group is fine, name it in a file (a Community ID, or a prefix and port, a line) and give it by --was-fine; if \
             it was an attack, by --was-attack.\n",
        );
    }
    text.push_str("\nWhat is there all the time is taken for normal, an attack too.\n");
    let _ = writeln!(text, "written: {}; take it by `flowmeter live --model {0}`", args.output.display());
    Ok(text)
}
