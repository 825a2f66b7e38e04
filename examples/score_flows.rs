//! Scores the flows of a capture with a model of your own: any ONNX file that keeps the contract of docs/models.md.
//!
//!     cargo run --example score_flows -- tests/models/lightgbm.onnx tests/sample/scan-syn.pcap.zst

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use flowmeter::features::{FeatureSet, FlowView};
use flowmeter::model::{Model, Runtime, to_input};
use flowmeter::source::pcap;

fn main() -> Result<()> {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, capture] = words.as_slice() else { bail!("give two files: score_flows MODEL CAPTURE") };

    let runtime = Runtime::load(None)?;
    let mut model = Model::load(model, &runtime, &|id| FeatureSet::find(id).map(FeatureSet::names))?;
    let set = FeatureSet::find(model.feature_set()).context("the model names a feature set that exists")?;

    // A model takes some of its set's features, in an order of its own.
    let (mut flows, mut rows, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let settings = pcap::ReadSettings { context: set.context, ..pcap::ReadSettings::default() };
    let give = |flow: flowmeter::record::FlowRecord| {
        values.clear();
        set.values(&FlowView::new(&flow), &mut values);
        rows.extend(model.inputs().iter().map(|input| to_input(values[*input])));
        flows.push((flow.source(), flow.destination()));
        Ok(())
    };
    let summary = pcap::read(capture, &settings, &Arc::default(), give, |_| ())?;
    if let Some(problem) = summary.problem {
        return Err(problem);
    }

    let mut scores = Vec::new();
    model.score(&rows, &mut scores)?;
    let width = model.inputs().len();
    for (((source, destination), score), row) in flows.iter().zip(&scores).zip(rows.chunks(width)) {
        let verdict = model.verdict(f64::from(*score), row).name();
        println!(
            "{} -> {} {}: {verdict} ({score:.3})",
            source.address, destination.address, destination.port
        );
    }
    Ok(())
}
