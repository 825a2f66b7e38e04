//! `flowmeter audit`: what the pre-filter misses, by the inspector's own alerts.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::cli::AuditArgs;
use crate::count::count;
use crate::flow_log;
use crate::prefilter::audit::{Alerts, Audit, Report};

/// Joins the log with the alerts and prints what comes of it.
///
/// # Errors
/// A file cannot be read, or says nothing about what is missed.
pub fn run(args: &AuditArgs) -> Result<ExitCode> {
    let inputs = args.log.iter().chain(&args.eve).filter(|path| path.as_os_str() == "-");
    ensure!(inputs.count() <= 1, "the standard input is named twice: only one of --log and --eve can be `-`");
    let open = |path: &Path| flow_log::open(path).with_context(|| format!("cannot read {}", path.display()));
    let mut alerts = Alerts::default();
    for path in &args.eve {
        alerts.add(open(path)?).with_context(|| path.display().to_string())?;
    }
    alerts.check().with_context(|| names(&args.eve))?;
    let mut joined = Audit::new(alerts);
    for path in &args.log {
        joined.add(open(path)?).with_context(|| path.display().to_string())?;
    }
    let report = joined.report().with_context(|| names(&args.log))?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of files, for a message about all of them.
fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn print(out: &mut impl io::Write, report: &Report) -> Result<()> {
    let rate = report.miss_rate;
    let unseen = report.cleared - rate.of;
    let percent = |share: f64| format!("{:.3} %", 100.0 * share);
    let part = |a: u64, b: u64| {
        if b == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * a as f64 / b as f64) }
    };
    writeln!(
        out,
        "flows cleared as benign   {}, of which the audit lane showed {} to the inspector",
        report.cleared, rate.of
    )?;
    writeln!(out, "alerts after the verdict  in {} of these", rate.found)?;
    writeln!(
        out,
        "miss rate                 {} of the flows cleared (95 % interval {} to {})",
        percent(rate.share),
        percent(rate.low),
        percent(rate.high)
    )?;
    writeln!(
        out,
        "that is                   about {:.0} ({:.0} to {:.0}) of {} that the inspector did not see",
        rate.share * unseen as f64,
        rate.low * unseen as f64,
        rate.high * unseen as f64,
        count(unseen, "flow")
    )?;
    writeln!(out, "flows with alerts         {} that the inspector saw in any case", report.caught)?;
    writeln!(
        out,
        "spared                    {} of the packets, {} of the bytes",
        part(report.spared.packets, report.seen.packets),
        part(report.spared.bytes, report.seen.bytes)
    )?;
    if report.unmatched_alerts + report.alerts_without_id != 0 {
        writeln!(
            out,
            "not joined                {} of no flow in the log, {} without a Community ID",
            count(report.unmatched_alerts, "alert"),
            report.alerts_without_id
        )?;
    }
    for miss in &report.misses {
        writeln!(out, "missed                    {}  {}", miss.community_id, miss.signature)?;
    }
    Ok(())
}
