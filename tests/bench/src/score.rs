//! `bench score`: flows scored a second on one core, and what each part of it costs.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use flowmeter::record::FlowRecord;
use flowmeter::scoring::Batch;
use harness::test_programs::pin_to;

use flowmeter_bench::flows::{self, distinct};

/// Arguments of `bench score`.
#[derive(Args)]
pub struct Options {
    /// Flows that are scored.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    flows: usize,
    /// Runs of each measurement; the median is shown.
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    what: flows::Options,
}

/// The core that everything runs on.
const CPU: usize = 1;
/// Flows that the agent hands over at once when it has many.
const BATCH: usize = 4096;

/// Measures, and prints.
///
/// # Errors
/// The model or a capture cannot be read, or the model fails.
pub fn run(options: &Options) -> Result<()> {
    let mut scorer = options.what.scorer()?;
    let records = options.what.flows(options.flows, scorer.feature_set())?;
    let records = &records[..options.flows];
    pin_to(CPU)?;
    let width = scorer.model().inputs().len();
    let rows = scorer.finish(records, None).to_vec();
    println!(
        "{}, {width} inputs of {}; {} flows, {:.1} % of them unlike any other before; one core\n",
        scorer.name(),
        scorer.feature_set().id,
        records.len(),
        distinct(&rows, width) * 100.0
    );

    let each = |seconds: f64| seconds * 1e9 / records.len() as f64;
    let line = |what: &str, ns: f64| println!("{what:<58} {ns:>8.0} ns {:>10.0} flows/s", 1e9 / ns);
    let set = scorer.feature_set();
    line(
        "all features of the set, as for a table",
        each(median(options.runs, || {
            batches(records).for_each(|batch| drop(std::hint::black_box(Batch::of(batch, set))));
            Ok(())
        })?),
    );
    let finishing = each(median(options.runs, || {
        for batch in batches(records) {
            std::hint::black_box(scorer.finish(batch, None));
        }
        Ok(())
    })?);
    line("the model's inputs only, as single precision", finishing);
    let mut running = 0.0;
    for size in [1, 16, 64, 256, 1024, BATCH] {
        let mut scores = Vec::new();
        running = each(median(options.runs, || {
            for batch in rows.chunks(size * width) {
                scores.clear();
                scorer.model().score(batch, &mut scores)?;
            }
            Ok(())
        })?);
        line(&format!("ONNX Runtime, {size} at a time"), running);
    }
    let (mut malicious, mut explained) = (0, 0);
    let whole = each(median(options.runs, || {
        (malicious, explained) = (0, 0);
        for batch in batches(records) {
            for predictions in scorer.predict(batch, None)?.into_iter().flatten() {
                malicious += usize::from(predictions.unexplained || !predictions.reasons.is_empty());
                explained += usize::from(!predictions.reasons.is_empty());
            }
        }
        Ok(())
    })?);
    line("verdicts, reasons, ranges and drift", whole - finishing - running);
    line(&format!("all of it, {BATCH} at a time"), whole);
    println!(
        "\n{malicious} of {} called malicious, {explained} of them explained; reasons for one flow: {:.0} µs",
        records.len(),
        explaining(options.runs, &mut scorer, &rows)? * 1e6
    );
    Ok(())
}

fn batches(records: &[FlowRecord]) -> impl Iterator<Item = &[FlowRecord]> {
    records.chunks(BATCH)
}

/// Seconds to explain a flow, in the mean over some.
fn explaining(runs: usize, scorer: &mut flowmeter::scoring::Scorer, rows: &[f32]) -> Result<f64> {
    const SOME: usize = 100;
    let model = scorer.model();
    let width = model.inputs().len();
    Ok(median(runs, || {
        for row in rows.chunks_exact(width).take(SOME) {
            model.reasons(row, 3)?;
        }
        Ok(())
    })? / SOME as f64)
}

/// The median of several runs' times, in seconds.
fn median(runs: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
