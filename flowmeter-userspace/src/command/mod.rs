//! The subcommands: each puts the stages together for one way of use.

pub mod adapt;
pub mod audit;
pub mod calibrate;
pub mod config;
pub mod doctor;
pub mod evaluate;
pub mod live;
pub mod manual;
pub mod pcap;
pub mod setup;
pub mod status;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::cli::{FeaturesArgs, ReferenceArg};
use crate::features::{FeatureSet, SETS};
use crate::model::{Model, Runtime};

/// Exit code when some captures or rows could not be read, or some flows not be scored.
pub const SOME_FAILED: u8 = 3;

/// Prints the reference of a set, or what sets there are.
///
/// # Errors
/// There is no such set.
pub fn features(args: &FeaturesArgs) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match &args.set {
        Some(id) => {
            let set = FeatureSet::named(id)?;
            match args.format {
                ReferenceArg::Markdown => write!(out, "{}", set.page())?,
                ReferenceArg::Json => writeln!(out, "{:#}", serde_json::to_value(set.reference())?)?,
            }
        }
        None => {
            writeln!(out, "Feature sets; `flowmeter features --set ID` prints one:\n")?;
            for set in SETS {
                writeln!(out, "{:<14} {:>3} columns", set.id, set.identity.len() + set.names().len())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a model file and prints what was found of each part of the contract.
///
/// # Errors
/// The file cannot be read, or ONNX Runtime not be loaded.
pub fn check_model(file: &Path, onnxruntime: Option<&Path>) -> Result<ExitCode> {
    let runtime = Runtime::load(onnxruntime)?;
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let known = |id: &str| FeatureSet::find(id).map(FeatureSet::names);
    let (model, findings) = Model::examine(&bytes, &runtime, &known);
    let mut out = io::stdout().lock();
    let mut warned = false;
    for finding in findings {
        match finding.outcome {
            Ok(text) => writeln!(out, "ok      {}: {text}", finding.subject)?,
            Err(text) if finding.tolerable => {
                warned = true;
                writeln!(out, "warning {}: {text}", finding.subject)?;
            }
            Err(text) => writeln!(out, "failed  {}: {text}", finding.subject)?,
        }
    }
    Ok(match model {
        None => ExitCode::FAILURE,
        Some(_) if warned => ExitCode::from(SOME_FAILED),
        Some(_) => ExitCode::SUCCESS,
    })
}
