//! What a model says of itself, in its ONNX metadata, and whether that holds together.
//!
//! | key | value |
//! |---|---|
//! | `flowmeter.contract` | `1` |
//! | `flowmeter.name` | name and version, as it stands in the log |
//! | `flowmeter.feature_set` | id of a feature set |
//! | `flowmeter.inputs` | JSON array: names of the set's features, in the order of the model's columns |
//! | `flowmeter.classes` | JSON array: `["benign", "malicious"]` |
//! | `flowmeter.threshold_malicious` | score from which a flow is malicious |
//! | `flowmeter.threshold_benign` | score below which a flow is benign; between the two it is unknown |
//! | `flowmeter.ranges` | JSON array of `[least, greatest]` for each input; a flow outside of one is unknown |
//! | `flowmeter.medians` | JSON array: each input's median over benign flows; optional, reasons need it |
//! | `flowmeter.normal` | JSON array of `[5th, 95th percentile]` of each input over benign flows; optional, shown with reasons |
//! | `flowmeter.distribution` | JSON array of `{"edges": [...], "shares": [...]}` for each input, of the training flows; optional, [drift](super::drift) needs it |
//! | `flowmeter.golden` | JSON object `{"input": [...], "score": x}` |

use anyhow::{Result, anyhow, bail, ensure};
use serde::Deserialize;

use crate::count::count;

/// Gives the ordered names of a feature set by its id.
pub type KnownSets<'a> = &'a dyn Fn(&str) -> Option<Vec<&'static str>>;

/// Most bins of an input's distribution: bounds the memory that counts them.
pub const MAX_BINS: usize = 64;

/// How far outside of 0 to 1 a score may lie and still be a probability: 1,000 trees whose single-precision votes are
/// summed are off by at most 1,000 x 2^-24 = 6e-5.
pub const PROBABILITY_SLACK: f64 = 1e-4;

/// True for 0 to 1, and for what rounding has put a hair outside.
pub fn is_probability(score: f64) -> bool {
    (-PROBABILITY_SLACK..=1.0 + PROBABILITY_SLACK).contains(&score)
}

/// The only version of the contract.
const VERSION: &str = "1";

/// Scores at which verdicts change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Malicious from here on.
    pub malicious: f64,
    /// Benign below.
    pub benign: f64,
}

/// An input with its score.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Golden {
    /// One row.
    pub input: Vec<f32>,
    /// Probability of malicious.
    pub score: f64,
}

/// How the values of an input were spread in training: the share of flows up to and with the first edge, from there to the
/// second, and so on, and above the last.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Distribution {
    /// Edges between bins, rising; a bin includes its upper one.
    pub edges: Vec<f32>,
    /// Share of flows in each bin, one more than there are edges; their sum is 1.
    pub shares: Vec<f64>,
}

/// What a model says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// Name and version.
    pub name: String,
    /// Id of the feature set.
    pub feature_set: String,
    /// Scores at which verdicts change.
    pub thresholds: Thresholds,
    /// Least and greatest value of each input in training.
    pub ranges: Vec<(f32, f32)>,
    /// Each input's median over benign flows.
    pub medians: Option<Vec<f32>>,
    /// The range of each input over nine tenths of benign flows.
    pub normal: Option<Vec<(f32, f32)>>,
    /// How each input was spread in training.
    pub distribution: Option<Vec<Distribution>>,
    /// A row with its score.
    pub golden: Golden,
}

/// What was found about one part of the contract.
#[derive(Debug)]
pub struct Finding {
    /// The part.
    pub subject: &'static str,
    /// What was found, or what is wrong.
    pub outcome: Result<String, String>,
    /// What is wrong does not keep the model from being used.
    pub tolerable: bool,
}

impl Finding {
    /// All is well.
    pub fn passed(subject: &'static str, text: String) -> Self {
        Self { subject, outcome: Ok(text), tolerable: false }
    }

    /// Something is wrong.
    pub fn failed(subject: &'static str, text: String) -> Self {
        Self { subject, outcome: Err(text), tolerable: false }
    }

    /// Something is wrong that does not keep the model from being used.
    pub fn warning(subject: &'static str, text: String) -> Self {
        Self { subject, outcome: Err(text), tolerable: true }
    }

    /// Either.
    pub fn of(subject: &'static str, outcome: Result<String>) -> Self {
        Self { subject, outcome: outcome.map_err(|error| format!("{error:#}")), tolerable: false }
    }

    /// True if something is wrong.
    pub fn is_failure(&self) -> bool {
        self.outcome.is_err() && !self.tolerable
    }
}

impl Contract {
    /// Reads the contract through `get`, and the index of each input in its feature set. Adds a finding for each part;
    /// None if any is wrong.
    pub fn read(
        get: &dyn Fn(&str) -> Option<String>,
        known: KnownSets<'_>,
        findings: &mut Vec<Finding>,
    ) -> Option<(Self, Vec<usize>)> {
        let mut note = |subject, outcome: Result<String>| findings.push(Finding::of(subject, outcome));

        let version = text(get, "contract").and_then(|version| {
            ensure!(version == VERSION, "flowmeter.contract is {version}: expected {VERSION}");
            Ok(version)
        });
        let is_one = version.is_ok();
        note("contract", version.map(|version| format!("version {version}")));
        if !is_one {
            return None;
        }
        let name = keep(text(get, "name"), "name", &mut note, Clone::clone);
        let set = text(get, "feature_set").and_then(|id| {
            let names = known(&id).ok_or_else(|| {
                anyhow!("flowmeter.feature_set is {id}: expected one that `flowmeter features` lists")
            })?;
            Ok((id, names))
        });
        let set =
            keep(set, "feature_set", &mut note, |(id, names)| format!("{id}, {} features", names.len()));
        let columns = json::<Vec<String>>(get, "inputs")
            .and_then(|inputs| columns(&inputs, set.as_ref().map_or(&[], |(_, names)| names)));
        let columns = if set.is_some() {
            keep(columns, "inputs", &mut note, |columns| columns.len().to_string())
        } else {
            None
        };
        let classes = keep(classes(get), "classes", &mut note, |()| "benign, malicious".to_owned());
        let thresholds = keep(thresholds(get), "thresholds", &mut note, |t| {
            format!("malicious from {}, benign below {}", t.malicious, t.benign)
        });
        let inputs: Option<Vec<&str>> = match (&columns, &set) {
            (Some(columns), Some((_, names))) => Some(columns.iter().map(|&column| names[column]).collect()),
            _ => None,
        };
        let inputs = inputs.as_deref();
        let ranges =
            keep(ranges(get, "ranges", inputs), "ranges", &mut note, |r| format!("{} ranges", r.len()));
        let medians = optional(get, "medians", "malicious verdicts will have no reasons", &mut note, || {
            self::medians(get, inputs)
        });
        let normal = optional(get, "normal", "reasons will have no normal range", &mut note, || {
            self::ranges(get, "normal", inputs)
        });
        let distribution = optional(
            get,
            "distribution",
            "whether the model fits the network is told by the ranges alone",
            &mut note,
            || distributions(get, inputs),
        );
        let golden = keep(golden(get, inputs), "golden vector", &mut note, |golden| {
            format!("{} values", golden.input.len())
        });

        let (feature_set, _) = set?;
        classes?;
        let contract = Self {
            name: name?,
            feature_set,
            thresholds: thresholds?,
            ranges: ranges?,
            medians: medians?,
            normal: normal?,
            distribution: distribution?,
            golden: golden?,
        };
        Some((contract, columns?))
    }
}

fn classes(get: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    let classes = json::<Vec<String>>(get, "classes")?;
    ensure!(
        classes == ["benign", "malicious"],
        "flowmeter.classes is {classes:?}: expected [\"benign\", \"malicious\"]"
    );
    Ok(())
}

fn medians(get: &dyn Fn(&str) -> Option<String>, inputs: Option<&[&str]>) -> Result<Vec<f32>> {
    let medians = same_length("medians", json::<Vec<f32>>(get, "medians")?, inputs)?;
    each(&medians, inputs, "medians", |median| ensure_that(median.is_finite(), "is not a finite number"))?;
    Ok(medians)
}

fn golden(get: &dyn Fn(&str) -> Option<String>, inputs: Option<&[&str]>) -> Result<Golden> {
    let golden = json::<Golden>(get, "golden")?;
    let input = same_length("golden's input", golden.input, inputs)?;
    ensure!(is_probability(golden.score), "flowmeter.golden's score is {}: expected 0 to 1", golden.score);
    Ok(Golden { input, score: golden.score })
}

/// Notes an outcome and keeps its value.
fn keep<T>(
    outcome: Result<T>,
    subject: &'static str,
    note: &mut impl FnMut(&'static str, Result<String>),
    describe: impl Fn(&T) -> String,
) -> Option<T> {
    match outcome {
        Ok(value) => {
            note(subject, Ok(describe(&value)));
            Some(value)
        }
        Err(error) => {
            note(subject, Err(error));
            None
        }
    }
}

fn text(get: &dyn Fn(&str) -> Option<String>, key: &str) -> Result<String> {
    get(&format!("flowmeter.{key}")).ok_or_else(|| {
        anyhow!("flowmeter.{key} is missing from the metadata: docs/models.md tells how to export a model")
    })
}

fn json<T: for<'a> Deserialize<'a>>(get: &dyn Fn(&str) -> Option<String>, key: &str) -> Result<T> {
    let text = text(get, key)?;
    serde_json::from_str(&text).map_err(|error| anyhow!("flowmeter.{key} cannot be read: {error}"))
}

fn number(get: &dyn Fn(&str) -> Option<String>, key: &str) -> Result<f64> {
    let text = text(get, key)?;
    let number: f64 = text
        .trim()
        .parse()
        .map_err(|_| anyhow!("flowmeter.{key} is {text:?}: expected a number from 0 to 1"))?;
    ensure!((0.0..=1.0).contains(&number), "flowmeter.{key} is {number}: expected 0 to 1");
    Ok(number)
}

fn thresholds(get: &dyn Fn(&str) -> Option<String>) -> Result<Thresholds> {
    let (malicious, benign) = (number(get, "threshold_malicious")?, number(get, "threshold_benign")?);
    ensure!(
        benign <= malicious,
        "flowmeter.threshold_benign, {benign}, lies above flowmeter.threshold_malicious, {malicious}"
    );
    Ok(Thresholds { malicious, benign })
}

/// Index of each input in the set.
fn columns(inputs: &[String], names: &[&str]) -> Result<Vec<usize>> {
    ensure!(!inputs.is_empty(), "flowmeter.inputs is empty");
    let mut columns = Vec::with_capacity(inputs.len());
    for input in inputs {
        let Some(column) = names.iter().position(|name| name == input) else {
            bail!("flowmeter.inputs names {input:?}, which is not in the feature set");
        };
        ensure!(!columns.contains(&column), "flowmeter.inputs names {input:?} twice");
        columns.push(column);
    }
    Ok(columns)
}

/// A part that a model may leave out: `Some(None)` if it does, and then `without` is what follows.
fn optional<T>(
    get: &dyn Fn(&str) -> Option<String>,
    key: &'static str,
    without: &str,
    note: &mut impl FnMut(&'static str, Result<String>),
    read: impl FnOnce() -> Result<Vec<T>>,
) -> Option<Option<Vec<T>>> {
    if get(&format!("flowmeter.{key}")).is_none() {
        note(key, Ok(format!("absent: {without}")));
        return Some(None);
    }
    keep(read(), key, note, |values| count(values.len() as u64, "input").to_string()).map(Some)
}

fn ranges(
    get: &dyn Fn(&str) -> Option<String>,
    key: &str,
    inputs: Option<&[&str]>,
) -> Result<Vec<(f32, f32)>> {
    let ranges = same_length(key, json::<Vec<(f32, f32)>>(get, key)?, inputs)?;
    each(&ranges, inputs, key, |(low, high)| {
        let holds = low <= high && low.is_finite() && high.is_finite();
        ensure_that(holds, &format!("is [{low}, {high}]: expected [least, greatest]"))
    })?;
    Ok(ranges)
}

fn distributions(get: &dyn Fn(&str) -> Option<String>, inputs: Option<&[&str]>) -> Result<Vec<Distribution>> {
    let all = same_length("distribution", json::<Vec<Distribution>>(get, "distribution")?, inputs)?;
    each(&all, inputs, "distribution", |Distribution { edges, shares }| {
        ensure_that(
            edges.len() < MAX_BINS,
            &format!("has {} edges: expected at most {}", edges.len(), MAX_BINS - 1),
        )?;
        ensure_that(
            shares.len() == edges.len() + 1,
            &format!("has {} shares: expected {}, one more than edges", shares.len(), edges.len() + 1),
        )?;
        ensure_that(
            edges.iter().all(|edge| edge.is_finite()) && edges.is_sorted_by(|a, b| a < b),
            "has edges that do not rise",
        )?;
        let sum: f64 = shares.iter().sum();
        ensure_that(
            shares.iter().all(|share| *share >= 0.0) && (sum - 1.0).abs() < 1e-3,
            &format!("has shares whose sum is {sum}: expected 1, and no share below 0"),
        )
    })?;
    Ok(all)
}

fn ensure_that(holds: bool, otherwise: &str) -> Result<()> {
    ensure!(holds, "{otherwise}");
    Ok(())
}

/// Checks each input's value; the message names the input.
fn each<T>(values: &[T], inputs: Option<&[&str]>, key: &str, check: impl Fn(&T) -> Result<()>) -> Result<()> {
    for (i, value) in values.iter().enumerate() {
        let name = inputs.and_then(|inputs| inputs.get(i)).copied().unwrap_or("?");
        check(value)
            .map_err(|error| anyhow!("flowmeter.{key}: the one of input {}, {name:?}, {error}", i + 1))?;
    }
    Ok(())
}

/// Where the inputs are not known, that has been found already.
fn same_length<T>(what: &str, values: Vec<T>, inputs: Option<&[&str]>) -> Result<Vec<T>> {
    if let Some(inputs) = inputs {
        ensure!(
            values.len() == inputs.len(),
            "flowmeter.{what} has {}: expected {}, one for each input",
            count(values.len() as u64, "value"),
            inputs.len()
        );
    }
    Ok(values)
}
