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
//! | `flowmeter.golden` | JSON object `{"input": [...], "score": x}` |

use anyhow::{Result, anyhow, bail, ensure};
use serde::Deserialize;

/// Gives the ordered names of a feature set by its id.
pub type KnownSets<'a> = &'a dyn Fn(&str) -> Option<Vec<&'static str>>;

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
}

impl Finding {
    /// All is well.
    pub fn passed(subject: &'static str, text: String) -> Self {
        Self { subject, outcome: Ok(text) }
    }

    /// Something is wrong.
    pub fn failed(subject: &'static str, text: String) -> Self {
        Self { subject, outcome: Err(text) }
    }

    /// Either.
    pub fn of(subject: &'static str, outcome: Result<String>) -> Self {
        Self { subject, outcome: outcome.map_err(|error| format!("{error:#}")) }
    }

    /// True if something is wrong.
    pub fn is_failure(&self) -> bool {
        self.outcome.is_err()
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
            ensure!(version == VERSION, "flowmeter.contract is {version}; this flowmeter knows {VERSION}");
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
                anyhow!("flowmeter.feature_set is {id}, which this flowmeter does not have; see `flowmeter features`")
            })?;
            Ok((id, names))
        });
        let set =
            keep(set, "feature_set", &mut note, |(id, names)| format!("{id}, {} features", names.len()));
        let columns = json::<Vec<String>>(get, "inputs")
            .and_then(|inputs| columns(&inputs, set.as_ref().map_or(&[], |(_, names)| names)));
        let columns = if set.is_some() {
            keep(columns, "inputs", &mut note, |columns| format!("{} of them", columns.len()))
        } else {
            None
        };
        let classes = json::<Vec<String>>(get, "classes").and_then(|classes| {
            ensure!(
                classes == ["benign", "malicious"],
                "flowmeter.classes is {classes:?}; it must be [\"benign\", \"malicious\"]"
            );
            Ok(())
        });
        let classes = keep(classes, "classes", &mut note, |()| "benign, malicious".to_owned());
        let thresholds = keep(thresholds(get), "thresholds", &mut note, |t| {
            format!("malicious from {}, benign below {}", t.malicious, t.benign)
        });
        let width = columns.as_ref().map(Vec::len);
        let ranges = keep(ranges(get, width), "ranges", &mut note, |r| format!("{} ranges", r.len()));
        let medians = match get("flowmeter.medians") {
            None => {
                note("medians", Ok("absent: malicious verdicts will have no reasons".to_owned()));
                Some(None)
            }
            Some(_) => {
                let medians = json::<Vec<f32>>(get, "medians").and_then(|m| same_length("medians", m, width));
                keep(medians, "medians", &mut note, |m| format!("{} medians", m.len())).map(Some)
            }
        };
        let golden = json::<Golden>(get, "golden").and_then(|golden| {
            let input = same_length("golden's input", golden.input, width)?;
            ensure!(
                (0.0..=1.0).contains(&golden.score),
                "flowmeter.golden's score is {}, no probability",
                golden.score
            );
            Ok(Golden { input, score: golden.score })
        });
        let golden =
            keep(golden, "golden vector", &mut note, |golden| format!("{} values", golden.input.len()));

        let (feature_set, _) = set?;
        classes?;
        let contract = Self {
            name: name?,
            feature_set,
            thresholds: thresholds?,
            ranges: ranges?,
            medians: medians?,
            golden: golden?,
        };
        Some((contract, columns?))
    }
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
        anyhow!("flowmeter.{key} is missing from the metadata; docs/models.md says how a model is exported")
    })
}

fn json<T: for<'a> Deserialize<'a>>(get: &dyn Fn(&str) -> Option<String>, key: &str) -> Result<T> {
    let text = text(get, key)?;
    serde_json::from_str(&text).map_err(|error| anyhow!("flowmeter.{key} cannot be read: {error}"))
}

fn number(get: &dyn Fn(&str) -> Option<String>, key: &str) -> Result<f64> {
    let text = text(get, key)?;
    let number: f64 = text.trim().parse().map_err(|_| anyhow!("flowmeter.{key} is {text:?}, no number"))?;
    ensure!((0.0..=1.0).contains(&number), "flowmeter.{key} is {number}; scores lie between 0 and 1");
    Ok(number)
}

fn thresholds(get: &dyn Fn(&str) -> Option<String>) -> Result<Thresholds> {
    let (malicious, benign) = (number(get, "threshold_malicious")?, number(get, "threshold_benign")?);
    ensure!(
        benign <= malicious,
        "flowmeter.threshold_benign {benign} lies above flowmeter.threshold_malicious {malicious}"
    );
    Ok(Thresholds { malicious, benign })
}

/// Index of each input in the set.
fn columns(inputs: &[String], names: &[&str]) -> Result<Vec<usize>> {
    ensure!(!inputs.is_empty(), "flowmeter.inputs is empty");
    let mut columns = Vec::with_capacity(inputs.len());
    for input in inputs {
        let Some(column) = names.iter().position(|name| name == input) else {
            bail!("flowmeter.inputs names {input:?}, which the feature set does not have");
        };
        ensure!(!columns.contains(&column), "flowmeter.inputs names {input:?} twice");
        columns.push(column);
    }
    Ok(columns)
}

fn ranges(get: &dyn Fn(&str) -> Option<String>, width: Option<usize>) -> Result<Vec<(f32, f32)>> {
    let ranges = same_length("ranges", json::<Vec<(f32, f32)>>(get, "ranges")?, width)?;
    if let Some(i) = ranges.iter().position(|(low, high)| low > high || !low.is_finite() || !high.is_finite())
    {
        bail!("flowmeter.ranges: the range of input {} is {:?}", i + 1, ranges[i]);
    }
    Ok(ranges)
}

/// Where the number of inputs is not known, that has been found already.
fn same_length<T>(what: &str, values: Vec<T>, width: Option<usize>) -> Result<Vec<T>> {
    if let Some(width) = width {
        ensure!(values.len() == width, "flowmeter.{what} has {} values for {width} inputs", values.len());
    }
    Ok(values)
}
