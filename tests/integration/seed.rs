//! Deepfence FlowMeter's model, as `models/seed-39.onnx`, says of its own flows what that program said.

use anyhow::{Context as _, Result, ensure};
use flowmeter::features::FeatureSet;
use flowmeter::model::{Model, to_input};
use harness::{runtime, shipped_models};

/// Flows in the file of expected scores.
const FLOWS: usize = 249;
/// Largest difference of a probability.
const TOLERANCE: f64 = 1e-6;

#[test]
fn every_golden_vector_is_reproduced() -> Result<()> {
    let Some(runtime) = runtime() else { return Ok(()) };
    let known = |id: &str| FeatureSet::find(id).map(FeatureSet::names);
    let mut model = Model::load(&shipped_models().join("seed-39.onnx"), runtime, &known)?;
    let set = FeatureSet::find(model.feature_set()).context("the model's set is known")?;

    let mut golden = csv::Reader::from_path(shipped_models().join("seed-39-golden.csv"))?;
    let mut names = set.names();
    names.extend(["p", "label"]);
    assert_eq!(golden.headers()?, &csv::StringRecord::from(names), "the columns are the set's");
    assert_eq!(model.inputs(), (0..39).collect::<Vec<_>>(), "and the model takes them in that order");

    let (mut rows, mut expected) = (Vec::new(), Vec::new());
    for record in golden.records() {
        let record = record?;
        let numbers: Vec<f64> = record.iter().take(40).map(str::parse).collect::<Result<_, _>>()?;
        rows.extend(numbers[..39].iter().map(|value| to_input(*value)));
        expected.push((numbers[39], record[40].to_owned()));
    }
    ensure!(expected.len() == FLOWS, "{} flows in the file", expected.len());
    let mut scores = Vec::new();
    model.score(&rows, &mut scores)?;
    assert_eq!(scores.len(), FLOWS);
    let mut largest = 0.0_f64;
    for ((row, score), (p, label)) in rows.chunks(39).zip(&scores).zip(&expected) {
        let score = f64::from(*score);
        largest = largest.max((score - p).abs());
        assert_eq!(model.verdict(score, row).name(), label, "score {score}, expected {p}");
    }
    assert!(largest <= TOLERANCE, "largest difference of a probability: {largest:e}");
    println!("{FLOWS} flows, largest difference of a probability {largest:.1e}");
    Ok(())
}
