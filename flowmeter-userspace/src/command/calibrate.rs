//! `flowmeter calibrate`: a network's own flows to a file of thresholds and of what is normal there.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use super::{SOME_FAILED, pcap};
use crate::calibration::fit::{Allowed, fit};
use crate::calibration::report::report;
use crate::calibration::sample::Sample;
use crate::cli::CalibrateArgs;
use crate::count::count;
use crate::features::FeatureSet;
use crate::flow_log::{self, Reading, Row, Source};
use crate::model::Runtime;
use crate::output::{Inputs, write};
use crate::pipeline::Pipeline;
use crate::record::Stage;
use crate::scoring::{Scored, load_model, service};
use crate::sink::Sink;
use crate::stats::Stats;

/// Takes the flows of captures out of the pipeline.
struct Collector(Arc<Mutex<Sample>>);

impl Sink for Collector {
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        let record = scored.record;
        if matches!(record.stage, Stage::Checkpoint { .. }) || record.is_aggregate() {
            return Ok(());
        }
        let mut flows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = i64::try_from(record.first_seen()).unwrap_or(i64::MAX);
        let source = record.source().address.to_string();
        flows.add(time, service(record), &source, scored.features);
        Ok(())
    }

    fn stats(&mut self, _: &Stats) -> Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Reads the network's flows, and writes what is normal there.
///
/// # Errors
/// The model, a file or the output is wrong, or no flow has the model's inputs.
pub fn run(args: &CalibrateArgs) -> Result<ExitCode> {
    let files = args.files.iter().chain(&args.model).chain(&args.onnxruntime);
    let inputs = Inputs::of(files.map(PathBuf::as_path));
    inputs.refuse(&args.output)?;
    let runtime = Runtime::load(args.onnxruntime.as_deref()).context("a calibration is made by scoring")?;
    let mut model = load_model(args.model.as_deref(), &runtime)?;
    let set = FeatureSet::named(model.feature_set())?;
    let mut flows = Sample::new(&model, set);
    let mut reading = Reading::default();
    let mut captures: Vec<PathBuf> = Vec::new();
    for file in &args.files {
        let mut take = |row: &dyn Row| {
            flows.take(row);
            Ok(())
        };
        if flow_log::read(file, &mut reading, &mut take)? == Source::Capture {
            captures.push(file.clone());
        }
    }
    let mut code = ExitCode::SUCCESS;
    if !captures.is_empty() {
        let shared = Arc::new(Mutex::new(flows));
        let mut pipeline = Pipeline::new(set, None, Box::new(Collector(Arc::clone(&shared))));
        let found = pcap::run_through(
            &captures,
            &pcap::CaptureOptions::new(&args.parsing, &args.timing),
            None,
            &mut pipeline,
        )?;
        code = found.report(pipeline.counts());
        drop(pipeline);
        let Some(inner) = Arc::into_inner(shared) else {
            bail!("the flows are still in use: this is a defect of flowmeter")
        };
        flows = inner.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    if let Some(problem) = &reading.first_damage {
        log::warn!("{} cannot be read; the first: {problem}", count(reading.damaged, "row"));
        code = ExitCode::from(SOME_FAILED);
    }
    let allowed = match (args.rate, args.alerts_per_day) {
        (Some(rate), _) => Allowed::Share(rate),
        (None, alerts) => Allowed::PerDay(alerts.unwrap_or_default()),
    };
    let (calibration, estimate) = fit(&mut model, &flows, allowed)?;
    write(&args.output, &inputs, &calibration.write(&model, set)?)?;
    if args.output != Path::new("-") {
        write(Path::new("-"), &inputs, &report(&model, &flows, &calibration, &estimate, &args.output))?;
    }
    Ok(code)
}
