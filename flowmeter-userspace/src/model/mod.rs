//! The model: ONNX Runtime, the contract that a model file keeps, scores and verdicts.
//!
//! [`runtime`] finds and loads ONNX Runtime. [`contract`] reads what a model says of itself. This file runs the model.
//! [`drift`] tells whether living traffic still looks like what the model was trained on.

pub mod contract;
pub mod drift;
pub mod onnxruntime_pin;
pub mod runtime;

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use contract::{Contract, Finding, is_probability};
use flowmeter_common::prefilter::mark;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::{TensorElementType, TensorRef, ValueType};
pub use runtime::Runtime;

use crate::features::FeatureSet;

pub use contract::{KnownSets, Thresholds};

/// Largest difference between the golden vector's score and ours.
pub const GOLDEN_TOLERANCE: f64 = 1e-6;

/// What is said of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its score is below the benign threshold.
    Benign,
    /// Between the thresholds, or unlike anything the model was trained on.
    Unknown,
    /// Its score reaches the malicious threshold.
    Malicious,
}

impl Verdict {
    /// As it stands in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Benign => "benign",
            Self::Unknown => "unknown",
            Self::Malicious => "malicious",
        }
    }

    /// As it stands in a flow's slot.
    pub const fn number(self) -> u32 {
        match self {
            Self::Benign => mark::BENIGN,
            Self::Unknown => mark::UNKNOWN,
            Self::Malicious => mark::MALICIOUS,
        }
    }

    /// The verdict with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Benign, Self::Unknown, Self::Malicious].into_iter().find(|verdict| verdict.number() == number)
    }
}

/// A feature's value as models take it: single precision, finite.
pub fn to_input(value: f64) -> f32 {
    (value as f32).clamp(f32::MIN, f32::MAX)
}

/// What moved a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reason {
    /// Which of the model's inputs.
    pub input: usize,
    /// Its value.
    pub value: f32,
    /// What it is for the median benign flow of the training data.
    pub normal: f32,
    /// Between what values it is for nine tenths of them, if the model says.
    pub normal_range: Option<(f32, f32)>,
    /// How far it moved the score, in log-odds.
    pub effect: f64,
}

/// A model that has kept the contract.
pub struct Model {
    session: Session,
    contract: Contract,
    /// Index of each input in its feature set.
    columns: Vec<usize>,
    output: Output,
    /// Asks for that output only.
    options: RunOptions<HasSelectedOutputs>,
}

/// Where the probability of malicious is among the outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Output {
    name: String,
    /// Values a row: 2 (benign, malicious) or 1 (malicious).
    width: usize,
}

impl Model {
    /// Loads a model file and proves that it keeps the contract. `known` gives a feature set's names.
    ///
    /// # Errors
    /// The first thing that is wrong, with its name.
    pub fn load(path: &Path, runtime: &Runtime, known: KnownSets<'_>) -> Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read the model {}", path.display()))?;
        Self::from_bytes(&bytes, &path.display().to_string(), runtime, known)
    }

    /// Loads a model from memory; `name` is for messages.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_bytes(bytes: &[u8], name: &str, runtime: &Runtime, known: KnownSets<'_>) -> Result<Self> {
        let (model, findings) = Self::examine(bytes, runtime, known);
        if let Some(problem) = findings
            .iter()
            .find_map(|finding| finding.outcome.as_ref().err().filter(|_| finding.is_failure()))
        {
            bail!("{name} is refused: {problem} (`flowmeter model check` lists everything that is wrong)");
        }
        model.with_context(|| format!("{name} is refused"))
    }

    /// Looks at everything the contract asks for, and says what was found for each; the model, if all is well.
    pub fn examine(bytes: &[u8], runtime: &Runtime, known: KnownSets<'_>) -> (Option<Self>, Vec<Finding>) {
        let mut findings = Vec::new();
        let session = match open(bytes, runtime) {
            Ok(session) => session,
            Err(error) => {
                findings.push(Finding::failed("file", format!("{error:#}")));
                return (None, findings);
            }
        };
        findings.push(Finding::passed("file", format!("{} bytes of ONNX", bytes.len())));
        let contract = match session.metadata() {
            Ok(metadata) => Contract::read(&|key| metadata.custom(key), known, &mut findings),
            Err(error) => {
                findings.push(Finding::failed("metadata", format!("the metadata cannot be read: {error}")));
                None
            }
        };
        let output = find_output(&session).and_then(|output| {
            let only = OutputSelector::no_default().with(&output.name);
            Ok((output, RunOptions::new().map_err(plain)?.with_outputs(only)))
        });
        findings.push(Finding::of(
            "output",
            output
                .as_ref()
                .map(|(output, _)| format!("{:?} holds the probability", output.name))
                .map_err(copy),
        ));
        let Some((contract, columns)) = contract else {
            return (None, findings);
        };
        let shape = check_input(&session, columns.len());
        findings.push(Finding::of("input", shape.map(|()| format!("float32, {} columns", columns.len()))));
        let (Ok((output, options)), false) = (output, findings.iter().any(Finding::is_failure)) else {
            return (None, findings);
        };
        let mut model = Self { session, contract, columns, output, options };
        let golden = model.prove_golden();
        findings.push(Finding::of("golden", golden));
        if !findings.iter().any(Finding::is_failure) {
            findings.push(Finding::of("batch", model.prove_batch()));
            findings.push(model.probe());
        }
        if findings.iter().any(Finding::is_failure) { (None, findings) } else { (Some(model), findings) }
    }

    /// Name and version.
    pub fn name(&self) -> &str {
        &self.contract.name
    }

    /// Id of the feature set whose columns it takes.
    pub fn feature_set(&self) -> &str {
        &self.contract.feature_set
    }

    /// Index of each input in the feature set.
    pub fn inputs(&self) -> &[usize] {
        &self.columns
    }

    /// Names of the inputs, which are features of `set`.
    pub fn input_names(&self, set: &FeatureSet) -> Vec<&'static str> {
        let names = set.names();
        self.columns.iter().map(|&column| names[column]).collect()
    }

    /// Scores at which verdicts change.
    pub fn thresholds(&self) -> Thresholds {
        self.contract.thresholds
    }

    /// The median benign flow of the training data, if the model names it.
    pub fn medians(&self) -> Option<&[f32]> {
        self.contract.medians.as_deref()
    }

    /// How each input was spread in training, if the model says.
    pub fn distribution(&self) -> Option<&[contract::Distribution]> {
        self.contract.distribution.as_deref()
    }

    /// Appends the probability of malicious for each row of `rows`, which holds all rows' inputs one after the other. A row
    /// for which the model gives none gets NaN: the others of its batch are not lost for it.
    ///
    /// # Errors
    /// ONNX Runtime fails for every row.
    pub fn score(&mut self, rows: &[f32], scores: &mut Vec<f32>) -> Result<()> {
        let width = self.columns.len();
        ensure!(rows.len().is_multiple_of(width), "{} values do not fill whole rows of {width}", rows.len());
        let before = scores.len();
        let problem = match self.run(rows, scores) {
            Ok(()) => {
                scores[before..].iter_mut().for_each(|score| *score = probability(*score));
                return Ok(());
            }
            Err(problem) => problem,
        };
        // One row may have made all fail: each on its own.
        let mut failed = 0;
        scores.truncate(before);
        for row in rows.chunks_exact(width) {
            if self.run(row, scores).is_err() {
                failed += 1;
                scores.push(f32::NAN);
            }
        }
        if failed * width == rows.len() {
            scores.truncate(before);
            return Err(problem);
        }
        scores[before..].iter_mut().for_each(|score| *score = probability(*score));
        Ok(())
    }

    /// Runs the model once; scores are appended as it gives them.
    fn run(&mut self, rows: &[f32], scores: &mut Vec<f32>) -> Result<()> {
        let width = self.columns.len();
        let count = rows.len() / width;
        if count == 0 {
            return Ok(());
        }
        let input =
            TensorRef::from_array_view(([count, width], rows)).context("cannot hand the rows over")?;
        let outputs =
            self.session.run_with_options(ort::inputs![input], &self.options).context("the model failed")?;
        let each = self.output.width;
        let (_, values) =
            outputs[0].try_extract_tensor::<f32>().context("the model's output is not float32")?;
        ensure!(values.len() == count * each, "the model gave {} values for {count} flows", values.len());
        scores.extend(values.chunks_exact(each).map(|row| row[each - 1]));
        Ok(())
    }

    /// The score that it promises for its golden vector.
    pub fn golden_score(&self) -> f64 {
        self.contract.golden.score
    }

    /// The verdict on a flow with this score and these inputs.
    pub fn verdict(&self, score: f64, row: &[f32]) -> Verdict {
        self.verdict_by(self.contract.thresholds, score, row)
    }

    /// The verdict by other thresholds.
    pub fn verdict_by(&self, thresholds: Thresholds, score: f64, row: &[f32]) -> Verdict {
        let Thresholds { malicious, benign } = thresholds;
        if self.is_foreign(row) {
            Verdict::Unknown
        } else if score >= malicious {
            Verdict::Malicious
        } else if score < benign {
            Verdict::Benign
        } else {
            Verdict::Unknown
        }
    }

    /// True if an input lies outside of all that the model was trained on.
    pub fn is_foreign(&self, row: &[f32]) -> bool {
        row.iter().zip(&self.contract.ranges).any(|(value, (low, high))| value < low || value > high)
    }

    /// The `most` inputs that moved the score of this row up most, see [`effects`](Self::effects). Empty if the model names
    /// no medians.
    ///
    /// # Errors
    /// ONNX Runtime fails.
    pub fn reasons(&mut self, row: &[f32], most: usize) -> Result<Vec<Reason>> {
        let effects = self.effects(row)?;
        let Contract { medians: Some(medians), normal, .. } = &self.contract else {
            return Ok(Vec::new());
        };
        let mut reasons: Vec<Reason> = effects
            .into_iter()
            .enumerate()
            .filter(|(_, effect)| *effect > 0.0)
            .map(|(input, effect)| Reason {
                input,
                value: row[input],
                normal: medians[input],
                normal_range: normal.as_ref().map(|normal| normal[input]),
                effect,
            })
            .collect();
        reasons.sort_by(|a, b| b.effect.total_cmp(&a.effect));
        reasons.truncate(most);
        Ok(reasons)
    }

    /// How far each input moved the score of this row away from that of the median benign flow, in log-odds. It is the mean
    /// of two effects: how far the row's score falls when the row is given the median's value, and how far the median's
    /// score rises when it is given the row's value. These are the first and the last step of Shapley's value. The first
    /// step alone would not do: where two inputs say the same, neither would seem to matter. `cargo xtask bench reasons`
    /// compares with the whole. Empty if the model names no medians.
    ///
    /// # Errors
    /// ONNX Runtime fails.
    pub fn effects(&mut self, row: &[f32]) -> Result<Vec<f64>> {
        let Some(medians) = self.contract.medians.clone() else {
            return Ok(Vec::new());
        };
        let changed: Vec<usize> = (0..row.len()).filter(|&i| row[i] != medians[i]).collect();
        let mut rows = Vec::with_capacity((changed.len() + 1) * 2 * row.len());
        // The row, then a copy for each input that differs, with that input replaced; the median flow likewise.
        for (whole, other) in [(row, &medians[..]), (&medians[..], row)] {
            rows.extend_from_slice(whole);
            for &i in &changed {
                let start = rows.len();
                rows.extend_from_slice(whole);
                rows[start + i] = other[i];
            }
        }
        let mut scores = Vec::with_capacity((changed.len() + 1) * 2);
        self.score(&rows, &mut scores)?;
        let (falls, rises) = scores.split_at(changed.len() + 1);
        let mut effects = vec![0.0; row.len()];
        for (k, &input) in changed.iter().enumerate() {
            let fall = log_odds(falls[0]) - log_odds(falls[k + 1]);
            let rise = log_odds(rises[k + 1]) - log_odds(rises[0]);
            effects[input] = f64::midpoint(fall, rise);
        }
        Ok(effects)
    }

    fn prove_golden(&mut self) -> Result<String> {
        let golden = self.contract.golden.clone();
        let mut scores = Vec::new();
        self.run(&golden.input, &mut scores)?;
        let score = f64::from(scores[0]);
        ensure!(
            is_probability(score),
            "the model gave {score}, which is no probability: expected a score from 0 to 1"
        );
        let difference = (score.clamp(0.0, 1.0) - golden.score.clamp(0.0, 1.0)).abs();
        ensure!(
            difference <= GOLDEN_TOLERANCE,
            "the golden vector scores {} here, but the model says {}; the model was changed after its contract was \
             written, or its operators do not behave as where it was trained",
            score,
            golden.score
        );
        Ok(format!("scores {} as promised", golden.score))
    }

    /// Flows come in batches: two rows together must score as each alone.
    fn prove_batch(&mut self) -> Result<String> {
        let input = self.contract.golden.input.clone();
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        self.run(&input, &mut alone)?;
        self.run(&[input.as_slice(), &input].concat(), &mut together).context(
            "two rows at once fail, and one alone does not: export the model with a free first dimension \
             (`[None, columns]`, a dynamic axis)",
        )?;
        let same = together.iter().all(|score| f64::from((score - alone[0]).abs()) <= GOLDEN_TOLERANCE);
        ensure!(same, "a row alone scores {}, and twice in a batch {together:?}", alone[0]);
        Ok("two rows at once score as one alone".to_owned())
    }

    /// Rows at the edges of what the model was trained on, of which every one should have a score.
    fn probe(&mut self) -> Finding {
        let Contract { golden, medians, ranges, .. } = &self.contract;
        let mut rows = vec![
            ("the golden vector", golden.input.clone()),
            ("all inputs zero", vec![0.0; ranges.len()]),
            ("all inputs at their least", ranges.iter().map(|(low, _)| *low).collect()),
            ("all inputs at their greatest", ranges.iter().map(|(_, high)| *high).collect()),
        ];
        rows.extend(medians.clone().map(|medians| ("the medians", medians)));
        let mut scores = Vec::new();
        let all: Vec<f32> = rows.iter().flat_map(|(_, row)| row.iter().copied()).collect();
        if let Err(problem) = self.score(&all, &mut scores) {
            return Finding::warning(
                "rows",
                format!("none of {} rows could be scored: {problem:#}", rows.len()),
            );
        }
        let failed: Vec<&str> = rows
            .iter()
            .zip(&scores)
            .filter(|(_, score)| score.is_nan())
            .map(|((name, _), _)| *name)
            .collect();
        match failed.as_slice() {
            [] => Finding::passed(
                "rows",
                format!("{} rows at the edges of its ranges have a score", rows.len()),
            ),
            failed => Finding::warning(
                "rows",
                format!(
                    "{} of {} rows have no probability as their score: {}; flows like them go unscored",
                    failed.len(),
                    rows.len(),
                    failed.join(", ")
                ),
            ),
        }
    }
}

/// A score as a probability; NaN if it is none.
fn probability(score: f32) -> f32 {
    // A sum of trees may be rounded to a hair outside of 0 to 1.
    match is_probability(score.into()) {
        true => score.clamp(0.0, 1.0),
        false => f32::NAN,
    }
}

/// Log-odds of a probability, kept finite.
pub fn log_odds(probability: f32) -> f64 {
    let p = f64::from(probability).clamp(1e-7, 1.0 - 1e-7);
    (p / (1.0 - p)).ln()
}

fn open(bytes: &[u8], runtime: &Runtime) -> Result<Session> {
    ensure!(!bytes.is_empty(), "the file is empty");
    let builder = Session::builder(runtime.environment()).map_err(plain)?;
    // Flows come in batches from one thread. More threads would fight with the capture over the same cores.
    let mut builder = builder.with_intra_threads(1).map_err(plain)?;
    builder
        .commit_from_memory(bytes)
        .map_err(plain)
        .context("this is not an ONNX model that the runtime can load")
}

/// An error's text, where the error itself is still needed.
fn copy(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// ort's errors may hold what cannot be sent between threads, so only their text is kept.
fn plain<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

fn check_input(session: &Session, columns: usize) -> Result<()> {
    let [input] = session.inputs() else { bail!("it has {} inputs: expected 1", session.inputs().len()) };
    let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
        bail!("its input is not a tensor: expected float32 of shape [N, columns]")
    };
    ensure!(*ty == TensorElementType::Float32, "its input has the type {ty}: expected float32");
    ensure!(
        shape.len() == 2 && (shape[1] == columns as i64 || shape[1] < 0),
        "its input has the shape {shape}: expected [N, {columns}], since flowmeter.inputs names {columns} columns"
    );
    Ok(())
}

fn find_output(session: &Session) -> Result<Output> {
    let floats: Vec<(&str, &ort::value::Shape)> = session
        .outputs()
        .iter()
        .filter_map(|output| match output.dtype() {
            ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Some((output.name(), shape)),
            _ => None,
        })
        .collect();
    let [(name, shape)] = floats[..] else {
        bail!(
            "it has {} float32 outputs: expected 1, the probability (exports of scikit-learn and LightGBM need \
             zipmap=False)",
            floats.len()
        );
    };
    let width = match shape.len() {
        1 => 1,
        2 if shape[1] == 1 || shape[1] == 2 => shape[1] as usize,
        _ => bail!("its output has the shape {shape}: expected [N], [N,1] or [N,2] (benign, malicious)"),
    };
    Ok(Output { name: name.to_owned(), width })
}
