//! What a calibration found, in words, and what to look at before it is used.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use super::estimate::{Estimate, PARTS};
use super::sample::{Sample, Seen};
use super::{Calibration, Service};
use crate::count::count;
use crate::model::Model;
use crate::timestamp::timestamp;

/// Lines of a list.
const LISTED: usize = 8;

/// What was found, and what to look at before `file` is used.
pub fn report(
    model: &Model,
    flows: &Sample,
    calibration: &Calibration,
    found: &Estimate,
    file: &Path,
) -> String {
    let mut text = String::new();
    summary(&mut text, model, flows, calibration, found);
    taken_for_normal(&mut text, found);
    set_aside(&mut text, model, flows, found);
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(text, "\nwritten: {}; take it by `flowmeter live --calibration {0}`", file.display());
    text
}

/// Where it comes from, and alarms before and after.
fn summary(text: &mut String, model: &Model, flows: &Sample, calibration: &Calibration, found: &Estimate) {
    let Calibration { origin, budget, thresholds, .. } = calibration;
    let (kept, scale) = (flows.seen.len(), flows.each as f64);
    let _ = writeln!(
        text,
        "{} on {} in {:.2} days, {} to {}{}",
        model.name(),
        count(origin.flows, "flow"),
        origin.days,
        origin.first,
        origin.last,
        if flows.each > 1 { format!(" (one in {} was looked at)", flows.each) } else { String::new() }
    );
    let day = |alarms: f64| if origin.days > 0.0 { alarms * scale / origin.days } else { 0.0 };
    let _ = writeln!(text, "\n{:34} {:>12} {:>12}", "", "model's own", "calibrated");
    let row = |text: &mut String, name: &str, before: f64, after: f64, digits: usize| {
        let _ = writeln!(text, "{name:34} {before:>12.digits$} {after:>12.digits$}");
    };
    row(text, "malicious from score", model.thresholds().malicious, thresholds.malicious, 4);
    let (before, after) = (found.alarms.before as f64, found.alarms.after as f64);
    row(text, "flows called malicious", before * scale, after * scale, 0);
    row(text, "a day", day(before), day(after), 1);
    row(text, "a day, without what was set aside", day(found.counted.0), day(found.counted.1), 1);
    let _ = writeln!(text, "{:34} {:>12} {:>12.1}", "budget a day", "", day(budget.rate * kept as f64));
    if found.counted.1 > budget.rate * kept as f64 {
        text.push_str("The budget is not kept: alarms come from many services with few flows each. Let it see more traffic.\n");
    }
}

/// Services whose alarms became fewer.
fn taken_for_normal(text: &mut String, found: &Estimate) {
    let mut quieter: Vec<_> =
        found.by_service.iter().filter(|(_, alarms)| alarms.after < alarms.before).collect();
    quieter.sort_by_key(|(_, alarms)| std::cmp::Reverse(alarms.before - alarms.after));
    if !quieter.is_empty() {
        text.push_str(
            "\nTaken for normal, since it is there all the time. Look at it once: is it what it should be?\n",
        );
    }
    for (service, alarms) in quieter.iter().take(LISTED) {
        let how = match found.services.get(service).and_then(|usual| usual.malicious) {
            Some(threshold) => format!("malicious from {threshold:.4} there"),
            None => "unknown instead, if alike".to_owned(),
        };
        let name = service.to_string();
        let before = count(alarms.before as u64, "alarm");
        let verb = if alarms.before == 1 { "becomes" } else { "become" };
        let _ = writeln!(text, "  {name:14} {before} {verb} {}: {how}", alarms.after);
    }
}

/// Alarms of one source in parts that were set aside.
#[derive(Default)]
struct Aside {
    alarms: u64,
    services: BTreeSet<Service>,
    first: Option<i64>,
}

/// Alarms that may have been an attack, by their source.
fn set_aside(text: &mut String, model: &Model, flows: &Sample, found: &Estimate) {
    let mut aside: HashMap<u32, Aside> = HashMap::new();
    let own = model.thresholds().malicious;
    for (i, part) in found.parts.iter().enumerate() {
        if found.set_aside.contains(part) && found.scores[i].is_some_and(|score| score >= own) {
            let Seen { time, service, source } = flows.seen[i];
            let entry = aside.entry(source).or_default();
            entry.alarms += 1;
            entry.services.insert(service);
            entry.first = entry.first.map_or(Some(time), |first| Some(first.min(time)));
        }
    }
    let names: HashMap<u32, &str> =
        flows.sources.iter().map(|(name, index)| (*index, name.as_str())).collect();
    let mut aside: Vec<(&str, Aside)> = aside
        .into_iter()
        .map(|(source, aside)| (names.get(&source).copied().unwrap_or("?"), aside))
        .collect();
    aside.sort_by_key(|(source, aside)| (std::cmp::Reverse(aside.alarms), *source));
    if !aside.is_empty() {
        let _ = writeln!(
            text,
            "\nNot taken for normal: the {} of {PARTS} parts of the time with most alarms. It may have been an attack:",
            found.set_aside.len()
        );
    }
    for (source, Aside { alarms, services, first }) in aside.iter().take(LISTED) {
        let to = match services.first() {
            Some(one) if services.len() == 1 => one.to_string(),
            _ => count(services.len() as u64, "service").to_string(),
        };
        let first = timestamp(first.and_then(|time| time.try_into().ok()).unwrap_or(0));
        let _ = writeln!(text, "  {} from {source} to {to}, the first {first}", count(*alarms, "alarm"));
    }
}
