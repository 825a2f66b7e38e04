//! `flowmeter doctor`: what this machine offers, and what `live` with the same options would find missing.
//!
//! Nothing is attached, and nothing is written: packets do not notice.

mod findings;
mod interface;
mod machine;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use self::findings::{Diagnoses, Diagnosis, Severity};
use crate::agent;
use crate::calibration::Calibration;
use crate::cli::{DoctorArgs, ScoringArgs};
use crate::config::{LiveConfig, Mode};
use crate::count::count;
use crate::features::FeatureSet;
use crate::kernel::{self, Devices};
use crate::model::Runtime;
use crate::prefilter::lists;
use crate::scoring::load_model;

/// Prints a line for each thing that live metering and scoring need.
///
/// # Errors
/// Nobody takes the lines. What is missing is printed, and the exit code says that something is.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let mut findings = Diagnoses::default();
    for check in kernel::checks() {
        let result = check.finding.map_err(|problem| anyhow::anyhow!(problem));
        findings.result(check.subject, result);
    }
    machine::look(&mut findings);
    // Without an interface the programs are loaded for the one that every machine has.
    let named = !args.live.interface.is_empty();
    let mut live = args.live.clone();
    if !named {
        live.interface = vec!["lo".to_owned()];
    }
    match LiveConfig::new(&live) {
        Ok(config) => {
            if named {
                let names: Vec<&str> = config.interfaces.iter().map(String::as_str).collect();
                interfaces(&names, &config, &mut findings);
            }
            machine::memory(&config, &mut findings);
            findings.result("kernel programs", agent::try_load(&config));
            findings.result("log", agent::try_outputs(&config));
            let (allow, deny) = (config.prefilter.allow.as_deref(), config.prefilter.deny.as_deref());
            if allow.is_some() || deny.is_some() {
                let rules =
                    lists::read(allow, deny).map(|rules| count(rules.len() as u64, "rule").to_string());
                findings.result("lists", rules);
            }
            machine::leftovers(config.pin.as_deref(), &mut findings);
        }
        Err(error) => findings.failed("options", format!("{error:#}")),
    }
    scoring(&args.live.scoring, &mut findings);
    let healthy = findings.0.iter().all(|finding| finding.state != Severity::Failed);
    // Where nobody reads any more, the exit code still says it.
    let _ = print(args.json, &findings);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(json: bool, findings: &Diagnoses) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{}", serde_json::to_string(&findings.0)?).context("cannot write");
    }
    for Diagnosis { subject, state, text } in &findings.0 {
        writeln!(out, "{}  {subject}: {text}", state.mark())?;
    }
    Ok(())
}

/// The interfaces that would be watched, and the inspector's.
fn interfaces(names: &[&str], config: &LiveConfig, findings: &mut Diagnoses) {
    let devices = match Devices::open() {
        Ok(devices) => devices,
        Err(error) => return findings.failed("interfaces", format!("{error:#}")),
    };
    for name in names {
        interface::look(name, config.egress, &devices, findings);
    }
    let Some(inspector) = &config.prefilter.inspector else { return };
    let subject = format!("inspector {inspector}");
    let found = kernel::find_inspector(inspector).and_then(|_| match config.prefilter.mode {
        Mode::Mirror => kernel::refuse_stacked(inspector, &config.interfaces),
        Mode::Watch | Mode::Divert | Mode::Block => Ok(()),
    });
    match (found, devices.by_name(inspector)) {
        (Err(error), _) | (Ok(()), Err(error)) => findings.failed(&subject, format!("{error:#}")),
        (Ok(()), Ok(Some(device))) if !device.running => findings.failed(
            &subject,
            format!("it is down or without carrier, so that every packet passes: ip link set dev {inspector} up, and its peer"),
        ),
        (Ok(()), Ok(Some(device))) if device.veth => findings.ok(
            &subject,
            "there, and up; the peer of a veth takes redirected packets only with GRO or an XDP program (ethtool -K PEER gro on)",
        ),
        (Ok(()), Ok(_)) => findings.ok(&subject, "there, and up"),
    }
}

/// Model, calibration and library.
fn scoring(scoring: &ScoringArgs, findings: &mut Diagnoses) {
    if scoring.no_model {
        return;
    }
    let runtime = match Runtime::load(scoring.onnxruntime.as_deref()) {
        Ok(runtime) => runtime,
        Err(error) => return findings.failed("onnxruntime", format!("{error:#}")),
    };
    findings.ok("onnxruntime", runtime.path().display().to_string());
    let model = load_model(scoring.model.as_deref(), &runtime);
    if let (Ok(model), Some(path)) = (&model, &scoring.calibration) {
        let calibration = FeatureSet::named(model.feature_set())
            .and_then(|set| Calibration::read(path, model, set))
            .map(|calibration| calibration.to_string());
        findings.result("calibration", calibration);
    }
    findings.result("model", model.map(|m| format!("{} for {}", m.name(), m.feature_set())));
}
