//! `flowmeter calibrate`: a network's own flows to a file of thresholds and of what is normal there.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use super::evaluate::write;
use super::{SOME_FAILED, feature_set, model, pcap};
use crate::calibration::estimate::{self, Estimate, PARTS, estimate};
use crate::calibration::{Budget, Calibration, Origin, Service};
use crate::cli::Calibrate;
use crate::features::FeatureSet;
use crate::flow_log::{self, Reading, Row, Source};
use crate::model::{Model, Runtime, to_input};
use crate::pipeline::Pipeline;
use crate::record::Stage;
use crate::scoring::{Scored, service};
use crate::sink::{Sink, timestamp};
use crate::stats::Stats;

/// Flows that are kept: at 4 bytes an input, some hundred MiB. Of more, every second is, or every fourth, and so on.
const MAX: usize = 400_000;
/// Flows scored together.
const BATCH: usize = 256;
/// A longer time without a flow is no time in which the network was watched.
const LONGEST_GAP: i64 = 3_600_000_000_000;
const DAY: f64 = 86_400e9;
/// Lines of a list in the report.
const LISTED: usize = 8;

/// A flow as it was read.
#[derive(Clone, Copy)]
struct Seen {
    /// Nanoseconds since the Unix epoch.
    time: i64,
    service: Service,
    /// Index of its source.
    source: u32,
}

/// Flows of the network, evenly thinned.
struct Flows {
    set: &'static FeatureSet,
    /// Index of each input in the set, and its name.
    columns: Vec<usize>,
    names: Vec<&'static str>,
    seen: Vec<Seen>,
    inputs: Vec<f32>,
    sources: HashMap<String, u32>,
    /// Of how many flows one is kept.
    each: u64,
    total: u64,
    without_features: u64,
    malformed: u64,
}

impl Flows {
    fn new(model: &Model, set: &'static FeatureSet) -> Self {
        Self {
            set,
            columns: model.inputs().to_vec(),
            names: model.input_names(set),
            seen: Vec::new(),
            inputs: Vec::new(),
            sources: HashMap::new(),
            each: 1,
            total: 0,
            without_features: 0,
            malformed: 0,
        }
    }

    /// Keeps a flow whose inputs `fill` appends; false if they are not there.
    fn push(
        &mut self,
        time: i64,
        service: Service,
        source: &str,
        fill: impl FnOnce(&Self, &mut Vec<f32>) -> bool,
    ) {
        let mut inputs = std::mem::take(&mut self.inputs);
        let before = inputs.len();
        let complete = fill(self, &mut inputs);
        self.total += u64::from(complete);
        self.without_features += u64::from(!complete);
        if complete && (self.total - 1).is_multiple_of(self.each) {
            let next = self.sources.len() as u32;
            let source = match self.sources.get(source) {
                Some(&index) => index,
                None => *self.sources.entry(source.to_owned()).or_insert(next),
            };
            self.seen.push(Seen { time, service, source });
        } else {
            inputs.truncate(before);
        }
        self.inputs = inputs;
        if self.seen.len() > MAX {
            self.thin();
        }
    }

    /// Keeps every second.
    fn thin(&mut self) {
        self.each *= 2;
        let width = self.columns.len();
        let mut keep = (0..).map(|i: usize| i.is_multiple_of(2));
        self.seen.retain(|_| keep.next() == Some(true));
        for i in 0..self.seen.len() {
            self.inputs.copy_within(2 * i * width..(2 * i + 1) * width, i * width);
        }
        self.inputs.truncate(self.seen.len() * width);
    }

    /// Takes a row of a log or table.
    fn take(&mut self, row: &dyn Row) {
        let is_flow = row.text("event").is_none_or(|event| event == "flow");
        if !is_flow || row.text("end_reason").as_deref() == Some("folded") {
            return;
        }
        let time = row.text("timestamp").and_then(|text| text.parse::<Timestamp>().ok());
        let number = |name: &str| row.number(name).filter(|number| (0.0..65_536.0).contains(number));
        let (Some(time), Some(protocol)) = (time, number("protocol")) else {
            self.malformed += 1;
            return;
        };
        let service = Service::of(protocol as u8, number("dst_port").unwrap_or(0.0) as u16);
        let time = i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
        let source = row.text("src_ip").unwrap_or_default();
        self.push(time, service, &source, |this, inputs| {
            this.names.iter().all(|name| {
                row.feature(name).is_some_and(|value| {
                    inputs.push(to_input(value));
                    true
                })
            })
        });
    }
}

/// Takes the flows of captures out of the pipeline.
struct Collector(Arc<Mutex<Flows>>);

impl Sink for Collector {
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        let record = scored.record;
        if matches!(record.stage, Stage::Checkpoint { .. }) || record.is_aggregate() {
            return Ok(());
        }
        let mut flows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = i64::try_from(record.first_seen()).unwrap_or(i64::MAX);
        let source = record.source().address.to_string();
        flows.push(time, service(record), &source, |this, inputs| {
            inputs.extend(this.columns.iter().map(|&column| to_input(scored.features[column])));
            true
        });
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
pub fn run(args: &Calibrate) -> Result<ExitCode> {
    let runtime = Runtime::load(args.onnxruntime.as_deref()).context("a calibration is made by scoring")?;
    let mut model = model(args.model.as_deref(), &runtime)?;
    let set = feature_set(model.feature_set())?;
    let mut flows = Flows::new(&model, set);
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
        code = pcap::run_through(
            &captures,
            &pcap::Reading::new(&args.parsing, &args.timing),
            None,
            &mut pipeline,
        )?;
        drop(pipeline);
        let Some(inner) = Arc::into_inner(shared) else {
            bail!("the flows are still in use; this is a defect of flowmeter")
        };
        flows = inner.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    if let Some(problem) = &reading.first_damage {
        log::warn!("{} rows cannot be read; the first: {problem}", reading.damaged);
        code = ExitCode::from(SOME_FAILED);
    }
    let (calibration, estimate) = calibrate(&mut model, &flows, args)?;
    write(&args.output, &calibration.write(&model, set)?)?;
    if args.output != Path::new("-") {
        write(Path::new("-"), &report(&model, &flows, &calibration, &estimate, &args.output))?;
    }
    Ok(code)
}

/// Scores the flows and finds what is normal.
fn calibrate(model: &mut Model, flows: &Flows, args: &Calibrate) -> Result<(Calibration, Estimate)> {
    if flows.seen.is_empty() {
        bail!(
            "no flow has all inputs of {} ({}); {} flows lack some: write logs with `--features`, and logs and tables with \
             `--set {}`, or name captures",
            model.name(),
            flows.names.len(),
            flows.without_features,
            flows.set.id
        );
    }
    if flows.without_features + flows.malformed != 0 {
        log::warn!(
            "left out: {} flows without all inputs of the model, {} rows without time or protocol",
            flows.without_features,
            flows.malformed
        );
    }
    let width = flows.columns.len();
    let mut scores = Vec::with_capacity(flows.seen.len());
    for rows in flows.inputs.chunks(BATCH * width) {
        model.score(rows, &mut scores)?;
    }
    let rows = flows.inputs.chunks_exact(width);
    let scored: Vec<estimate::Flow> = flows
        .seen
        .iter()
        .zip(rows.zip(scores))
        .map(|(seen, (row, score))| estimate::Flow {
            time: seen.time,
            service: seen.service,
            score: (!model.is_foreign(row)).then_some(f64::from(score)),
        })
        .collect();
    let days = covered(scored.iter().map(|flow| flow.time).collect()) / DAY;
    if days < 1.0 {
        log::warn!("the flows cover {:.1} hours; what is normal takes at least a day to see", days * 24.0);
    }
    let rate = match (args.rate, args.alerts_per_day) {
        (Some(rate), _) => rate,
        (None, alerts) => (alerts.unwrap_or_default() * days / flows.total as f64).min(1.0),
    };
    let estimate = estimate(&scored, &flows.inputs, model.thresholds(), rate);
    let end = |time: Option<i64>| timestamp(time.and_then(|t| t.try_into().ok()).unwrap_or(0));
    let origin = Origin {
        flows: flows.total,
        days,
        first: end(scored.iter().map(|flow| flow.time).min()),
        last: end(scored.iter().map(|flow| flow.time).max()),
        flowmeter: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let calibration = Calibration {
        thresholds: estimate.thresholds,
        services: estimate.services.clone(),
        origin,
        budget: Budget { rate, alerts_per_day: args.alerts_per_day },
    };
    Ok((calibration, estimate))
}

/// Nanoseconds during which the network was watched, as far as flows tell.
fn covered(mut times: Vec<i64>) -> f64 {
    times.sort_unstable();
    times.windows(2).map(|w| w[1].saturating_sub(w[0]).min(LONGEST_GAP) as f64).sum()
}

/// Alarms of one source in parts that were set aside.
#[derive(Default)]
struct Aside {
    alarms: u64,
    services: BTreeSet<Service>,
    first: Option<i64>,
}

/// What was found, and what to look at before it is used.
fn report(model: &Model, flows: &Flows, calibration: &Calibration, found: &Estimate, file: &Path) -> String {
    let mut text = String::new();
    let Calibration { origin, budget, thresholds, .. } = calibration;
    let (kept, scale) = (flows.seen.len(), flows.each as f64);
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "{} on {} flows in {:.2} days, {} to {}{}",
        model.name(),
        origin.flows,
        origin.days,
        origin.first,
        origin.last,
        if flows.each > 1 { format!(" (one in {} was looked at)", flows.each) } else { String::new() }
    );
    let day = |alarms: f64| if origin.days > 0.0 { alarms * scale / origin.days } else { 0.0 };
    let _ = writeln!(text, "\n{:34} {:>12} {:>12}", "", "model's own", "calibrated");
    let row = |text: &mut String, name: &str, before: f64, after: f64, digits: usize| {
        let _ = writeln!(text, "{name:34} {before:>12.digits$} {after:>12.digits$}");
    };
    row(&mut text, "malicious from score", model.thresholds().malicious, thresholds.malicious, 4);
    let (before, after) = (found.alarms.before as f64, found.alarms.after as f64);
    row(&mut text, "flows called malicious", before * scale, after * scale, 0);
    row(&mut text, "a day", day(before), day(after), 1);
    row(&mut text, "a day, without what was set aside", day(found.counted.0), day(found.counted.1), 1);
    let _ = writeln!(text, "{:34} {:>12} {:>12.1}", "budget a day", "", day(budget.rate * kept as f64));
    if found.counted.1 > budget.rate * kept as f64 {
        text.push_str("The budget is not kept: alarms come from many services with few flows each. Let it see more traffic.\n");
    }

    let mut quieter: Vec<_> =
        found.by_service.iter().filter(|(_, alarms)| alarms.after < alarms.before).collect();
    quieter.sort_by_key(|(_, alarms)| std::cmp::Reverse(alarms.before - alarms.after));
    if !quieter.is_empty() {
        text.push_str(
            "\nTaken for normal, since it is there all the time. Look at it once: is it what it should be?\n",
        );
    }
    for (service, alarms) in quieter.iter().take(LISTED) {
        let how = match found.services.get(service).and_then(|usual| usual.malicious) {
            Some(threshold) => format!("malicious from {threshold:.4} there"),
            None => "unknown instead, if alike".to_owned(),
        };
        let name = service.to_string();
        let _ = writeln!(text, "  {name:14} {} alarms become {}: {how}", alarms.before, alarms.after);
    }

    let mut aside: HashMap<u32, Aside> = HashMap::new();
    let own = model.thresholds().malicious;
    for (i, part) in found.parts.iter().enumerate() {
        if found.set_aside.contains(part) && found.scores[i].is_some_and(|score| score >= own) {
            let Seen { time, service, source } = flows.seen[i];
            let entry = aside.entry(source).or_default();
            entry.alarms += 1;
            entry.services.insert(service);
            entry.first = entry.first.map_or(Some(time), |first| Some(first.min(time)));
        }
    }
    let names: HashMap<u32, &str> =
        flows.sources.iter().map(|(name, index)| (*index, name.as_str())).collect();
    let mut aside: Vec<(&str, Aside)> = aside
        .into_iter()
        .map(|(source, aside)| (names.get(&source).copied().unwrap_or("?"), aside))
        .collect();
    aside.sort_by_key(|(source, aside)| (std::cmp::Reverse(aside.alarms), *source));
    if !aside.is_empty() {
        let _ = writeln!(
            text,
            "\nNot taken for normal: the {} of {PARTS} parts of the time with most alarms. It may have been an attack:",
            found.set_aside.len()
        );
    }
    for (source, Aside { alarms, services, first }) in aside.iter().take(LISTED) {
        let to = match services.first() {
            Some(one) if services.len() == 1 => one.to_string(),
            _ => format!("{} services", services.len()),
        };
        let first = timestamp(first.and_then(|time| time.try_into().ok()).unwrap_or(0));
        let _ = writeln!(text, "  {alarms} alarms from {source} to {to}, the first {first}");
    }
    let _ = writeln!(text, "\nwritten: {}; take it by `flowmeter live --calibration {0}`", file.display());
    text
}
