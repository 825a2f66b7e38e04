//! `flowmeter doctor`: what this machine offers, and what is missing.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;

use crate::calibration::Calibration;
use crate::cli::ScoringArgs;
use crate::features::FeatureSet;
use crate::kernel;
use crate::model::Runtime;
use crate::scoring::load_model;

/// Prints a line for each thing that live metering and scoring need.
///
/// # Errors
/// None at present; what is missing is printed, and the exit code says that something is.
pub fn run(scoring: &ScoringArgs) -> Result<ExitCode> {
    let mut healthy = true;
    let mut line = |subject: &str, finding: Result<String, String>| {
        let mark = if finding.is_ok() { "ok     " } else { "failed " };
        healthy &= finding.is_ok();
        let (Ok(text) | Err(text)) = finding;
        // Where nobody reads any more, the exit code still says it.
        let _ = writeln!(io::stdout(), "{mark}  {subject}: {text}");
    };
    for check in kernel::checks() {
        line(check.subject, check.finding);
    }
    if scoring.no_model {
        return Ok(exit_code(healthy));
    }
    match Runtime::load(scoring.onnxruntime.as_deref()) {
        Ok(runtime) => {
            line("onnxruntime", Ok(runtime.path().display().to_string()));
            let model = load_model(scoring.model.as_deref(), &runtime);
            if let (Ok(model), Some(path)) = (&model, &scoring.calibration) {
                let calibration = FeatureSet::named(model.feature_set())
                    .and_then(|set| Calibration::read(path, model, set))
                    .map(|calibration| calibration.to_string());
                line("calibration", calibration.map_err(|e| format!("{e:#}")));
            }
            line(
                "model",
                model.map(|m| format!("{} for {}", m.name(), m.feature_set())).map_err(|e| format!("{e:#}")),
            );
        }
        Err(error) => line("onnxruntime", Err(format!("{error:#}"))),
    }
    Ok(exit_code(healthy))
}

fn exit_code(healthy: bool) -> ExitCode {
    if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
