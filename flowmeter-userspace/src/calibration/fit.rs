//! Fits a calibration to a sample of a network's flows.

use anyhow::{Result, bail};

use super::estimate::{self, Estimate, estimate};
use super::sample::Sample;
use super::{Budget, Calibration, Origin};
use crate::count::count;
use crate::model::Model;
use crate::timestamp::timestamp;

/// Flows scored together.
const BATCH: usize = 256;
/// If no flow comes for longer than this, the network was not watched.
const LONGEST_GAP: i64 = 3_600_000_000_000;
const DAY: f64 = 86_400e9;

/// False alarms that are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    /// A share of all flows.
    Share(f64),
    /// Flows a day.
    PerDay(f64),
}

/// Scores the flows and finds what is normal.
///
/// # Errors
/// No flow has the inputs of the model, or the model fails.
pub fn fit(model: &mut Model, flows: &Sample, allowed: Allowed) -> Result<(Calibration, Estimate)> {
    if flows.seen.is_empty() {
        bail!(
            "no flow has all {} of {}, {} without: write logs with `--features`, and logs and tables with `--set {}`, or \
             give captures",
            count(flows.names.len() as u64, "input"),
            model.name(),
            count(flows.without_features, "flow"),
            flows.set.id
        );
    }
    if flows.without_features + flows.malformed != 0 {
        log::warn!(
            "left out: {} without all inputs of the model, {} without time or protocol",
            count(flows.without_features, "flow"),
            count(flows.malformed, "row")
        );
    }
    let width = flows.columns.len();
    let mut scores = Vec::with_capacity(flows.seen.len());
    for rows in flows.inputs.chunks(BATCH * width) {
        model.score(rows, &mut scores)?;
    }
    let rows = flows.inputs.chunks_exact(width);
    let scored: Vec<estimate::ScoredFlow> = flows
        .seen
        .iter()
        .zip(rows.zip(scores))
        .map(|(seen, (row, score))| estimate::ScoredFlow {
            time: seen.time,
            service: seen.service,
            score: (!model.is_foreign(row) && !score.is_nan()).then_some(f64::from(score)),
        })
        .collect();
    let days = covered(scored.iter().map(|flow| flow.time).collect()) / DAY;
    if days < 1.0 {
        log::warn!("the flows cover {:.1} hours: it takes at least a day to see what is normal", days * 24.0);
    }
    let budget = match allowed {
        Allowed::Share(rate) => Budget { rate, alerts_per_day: None },
        Allowed::PerDay(alerts) => {
            Budget { rate: (alerts * days / flows.total as f64).min(1.0), alerts_per_day: Some(alerts) }
        }
    };
    let estimate = estimate(&scored, &flows.inputs, model.thresholds(), budget.rate);
    let end = |time: Option<i64>| timestamp(time.and_then(|t| t.try_into().ok()).unwrap_or(0));
    let origin = Origin {
        flows: flows.total,
        days,
        first: end(scored.iter().map(|flow| flow.time).min()),
        last: end(scored.iter().map(|flow| flow.time).max()),
        flowmeter: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let calibration =
        Calibration { thresholds: estimate.thresholds, services: estimate.services.clone(), origin, budget };
    Ok((calibration, estimate))
}

/// Nanoseconds during which the network was watched, as far as flows tell.
fn covered(mut times: Vec<i64>) -> f64 {
    times.sort_unstable();
    times.windows(2).map(|w| w[1].saturating_sub(w[0]).min(LONGEST_GAP) as f64).sum()
}
