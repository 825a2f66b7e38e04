//! Promise: one tolerance decides what a probability is, wherever a score is met; a batch is not lost for a row that has none;
//! and the exit code says that flows went unscored.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use anyhow::{Context as _, Result};
use harness::agent::run;
use harness::{fixture, runtime, samples};
use serde_json::Value;

/// What `flowmeter model check` says of a fixture, and its exit code.
fn check(name: &str) -> Result<(Option<i32>, String)> {
    let output = run(&["model".as_ref(), "check".as_ref(), fixture(name).as_os_str()])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

/// The log of all samples with this model: exit code, verdicts by name, and what was said.
fn verdicts(name: &str) -> Result<(Option<i32>, BTreeMap<String, usize>, String)> {
    let model = fixture(name);
    let mut words: Vec<&OsStr> = vec!["pcap".as_ref(), "--model".as_ref(), model.as_ref()];
    let samples = samples()?;
    words.extend(samples.iter().map(|path| path.as_os_str()));
    let output = run(&words)?;
    let mut verdicts = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let verdict = row["verdict"].as_str().context("a verdict")?.to_owned();
        assert_eq!(verdict == "none", row["score"].is_null(), "{row}");
        *verdicts.entry(verdict).or_default() += 1;
    }
    Ok((output.status.code(), verdicts, String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// A random forest's votes are summed in single precision, so that its highest score may be 1.0000001.
#[test]
fn a_golden_score_a_hair_above_one_is_a_probability() -> Result<()> {
    if runtime().is_none() {
        return Ok(());
    }
    let name = "random_forest_30_trees_golden_above_1.onnx";
    let (code, said) = check(name)?;
    assert_eq!(code, Some(0), "{said}");
    let (code, verdicts, said) = verdicts(name)?;
    assert_eq!((code, verdicts.get("none")), (Some(0), None), "{said}");
    Ok(())
}

#[test]
fn a_model_that_takes_one_row_at_a_time_is_refused_with_the_cause() -> Result<()> {
    if runtime().is_none() {
        return Ok(());
    }
    let (code, said) = check("fixed_batch_of_1.onnx")?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("failed  batch: ") && said.contains("free first dimension"), "{said}");
    let (code, verdicts, said) = verdicts("fixed_batch_of_1.onnx")?;
    assert_eq!(code, Some(1), "{said}");
    assert!(verdicts.is_empty() && said.contains("free first dimension"), "{said}");
    Ok(())
}

#[test]
fn a_row_without_a_score_is_counted_and_the_others_keep_theirs() -> Result<()> {
    if runtime().is_none() {
        return Ok(());
    }
    let (code, said) = check("nan_for_some_rows.onnx")?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("warning rows: ") && said.contains("least"), "{said}");
    let (code, verdicts, said) = verdicts("nan_for_some_rows.onnx")?;
    assert_eq!(code, Some(3), "{said}");
    let without = verdicts["none"];
    let with: usize = verdicts.iter().filter(|(name, _)| *name != "none").map(|(_, count)| count).sum();
    assert!(without > 100 && with > 100, "{verdicts:?}");
    assert!(said.contains(&format!("{without} flows could not be scored")), "{said}");
    Ok(())
}
