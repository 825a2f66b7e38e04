//! What each stage of a flow's way costs, by criterion: parse, parse and update, features, scoring, CSV.
//!
//! `cargo bench --package flowmeter-bench` runs all, `... -- features` those that are named so. Without ONNX Runtime the scoring
//! is left out, which is said.

use std::hint::black_box;
use std::io::sink;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use criterion::{BatchSize, Criterion, Throughput};
use flowmeter::features::FeatureSet;
use flowmeter::scoring::{Batch, Scored};
use flowmeter::sink::Labels;
use flowmeter::sink::Sink as _;
use flowmeter::sink::csv::Csv;
use flowmeter::sink::table::Extent;
use flowmeter_bench::flows;
use flowmeter_bench::generated::{Loaded, generate};
use harness::replay::write_capture;

/// Packets and flows of the generated capture.
const CAPTURE: (usize, usize) = (200_000, 20_000);
/// Flows that are finished, scored and written at once.
const FLOWS: usize = 4096;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    capture(&mut criterion)?;
    records(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// The stages of a packet.
fn capture(criterion: &mut Criterion) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("generated.pcap");
    write_capture(&path, &generate(CAPTURE.0, CAPTURE.1))?;
    let loaded = Loaded::read(&path)?;
    let mut group = criterion.benchmark_group("packets");
    group.throughput(Throughput::Elements(loaded.packets() as u64)).sample_size(10);
    group.bench_function("parse", |bencher| bencher.iter(|| loaded.parse()));
    group.bench_function("parse and update", |bencher| bencher.iter(|| loaded.meter().map(black_box)));
    group.finish();
    Ok(())
}

/// The stages of a flow.
fn records(criterion: &mut Criterion) -> Result<()> {
    let set = FeatureSet::find("flowmeter/v2").context("the built-in model's set")?;
    let options = Options::parse_from(["stages"]).what;
    let records = options.flows(FLOWS, set)?;
    let records = &records[..FLOWS];
    let mut group = criterion.benchmark_group("flows");
    group.throughput(Throughput::Elements(FLOWS as u64)).sample_size(20);
    group.bench_function("features", |bencher| bencher.iter(|| black_box(Batch::of(records, set))));
    match options.scorer() {
        Ok(mut scorer) => {
            group.bench_function("scoring", |bencher| {
                bencher.iter(|| scorer.predict(records, None).map(|predictions| predictions.len()))
            });
        }
        Err(error) => eprintln!("flows/scoring is left out: {error:#}"),
    }
    let batch = Batch::of(records, set);
    group.bench_function("CSV", |bencher| {
        bencher.iter_batched(
            || Csv::new(Box::new(sink()), set, Extent::default(), Labels::default()),
            |table| -> Result<()> {
                let mut table = table?;
                for (index, record) in records.iter().enumerate() {
                    table.flow(&Scored {
                        record,
                        observed: Some("generated.pcap"),
                        features: batch.row(index),
                        verdict: None,
                        score: None,
                        threshold: None,
                        model: None,
                        reasons: &[],
                        unexplained: false,
                    })?;
                }
                table.finish()
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    Ok(())
}

/// The benchmarks' own words, at their defaults.
#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    what: flows::Options,
}
