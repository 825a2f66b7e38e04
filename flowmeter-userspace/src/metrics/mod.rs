//! What each number of a `stats` line is called, means, and is as a metric: one table, from which the metrics and `status`
//! are printed, and which the line is held against.

mod exposition;
pub mod page;
mod table;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use self::exposition::{CONTENT_TYPE, encode};
pub use self::table::NUMBERS;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Grows until the agent ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// True or false; 1 or 0 as a metric.
    Flag,
    /// A text; the metric is 1 with the text under this label.
    State(&'static str),
    /// Texts of an object; the metric is 1 with these of its keys as labels.
    Info(&'static [&'static str]),
    /// Delays: quantiles in the line, buckets as a metric.
    Histogram,
}

/// How a number of the line is shown as a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As a metric of its own.
    Metric {
        /// Its name, without the suffix that its kind asks for.
        name: &'static str,
        /// What it is.
        kind: MetricKind,
        /// A label that tells it from other numbers under the name.
        label: Option<(&'static str, &'static str)>,
    },
    /// It follows from metrics; the text says from which.
    Derived(&'static str),
}

/// A number of a `stats` line.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// Where it stands in the line.
    pub key: &'static str,
    /// As which metric.
    pub shown: Shown,
    /// Its unit; empty for a mere number.
    pub unit: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// MetricLabels of a metric.
pub type MetricLabels = Vec<(String, String)>;

/// What of a line a key means.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundNumber<'a> {
    /// What the path went through.
    pub labels: MetricLabels,
    /// What stands there.
    pub value: &'a Value,
    /// Where it stands, with what the path went through: `interfaces.eth0.seen`.
    pub place: String,
}

impl Number {
    /// Everything that this number is in a line.
    pub fn find<'a>(&self, line: &'a Value) -> Vec<FoundNumber<'a>> {
        let mut found = vec![FoundNumber { labels: MetricLabels::new(), value: line, place: String::new() }];
        for step in self.key.split('.') {
            found = found.into_iter().flat_map(|at| follow(at, step)).collect();
        }
        found.retain(|found| !found.value.is_null());
        found
    }
}

/// Takes a step of a path.
fn follow<'a>(at: FoundNumber<'a>, step: &str) -> Vec<FoundNumber<'a>> {
    let go = |value: &'a Value, name: &str, label: Option<&str>| {
        let mut labels = at.labels.clone();
        labels.extend(label.map(|label| (label.to_owned(), name.to_owned())));
        let point = if at.place.is_empty() { "" } else { "." };
        FoundNumber { labels, value, place: format!("{}{point}{name}", at.place) }
    };
    if let Some(label) = step.strip_prefix('{').and_then(|step| step.strip_suffix('}')) {
        let Value::Object(all) = at.value else { return Vec::new() };
        return all.iter().map(|(key, value)| go(value, key, Some(label))).collect();
    }
    if let Some((key, label)) = step.strip_suffix(']').and_then(|step| step.split_once('[')) {
        let Some(Value::Array(all)) = at.value.get(key) else { return Vec::new() };
        let named =
            |element: &'a Value| element.get(label).and_then(Value::as_str).map(|name| (element, name));
        let inside = go(at.value, key, None);
        return all
            .iter()
            .filter_map(named)
            .map(|(element, name)| {
                let place = format!("{}.{name}", inside.place);
                FoundNumber { place, ..go(element, name, Some(label)) }
            })
            .collect();
    }
    at.value.get(step).map(|value| go(value, step, None)).into_iter().collect()
}
