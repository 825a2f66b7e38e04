//! A `stats` line as OpenMetrics text, which Prometheus scrapes.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use serde_json::Value;

use super::{MetricKind, MetricLabels, NUMBERS, Number, Shown};
use crate::latency::Buckets;
use crate::stats::Stats;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The numbers of a line as text.
///
/// # Errors
/// The line has what JSON cannot hold.
pub fn encode(stats: &Stats) -> anyhow::Result<String> {
    let line = serde_json::to_value(stats)?;
    let delays = stats.scoring.as_ref().map(|scoring| {
        [
            ("scoring.checkpoint_delay_ms", scoring.checkpoint_delay_ms.all.clone()),
            ("scoring.end_delay_ms", scoring.end_delay_ms.all.clone()),
        ]
    });
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers { line, delays: delays.into_iter().flatten().collect() }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// A line's numbers.
#[derive(Debug)]
struct Numbers {
    line: Value,
    delays: Vec<(&'static str, Buckets)>,
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in NUMBERS.chunk_by(|a, b| name(a).is_some() && name(a) == name(b)) {
            let Some(Shown::Metric { name, kind, .. }) = family.first().map(|number| number.shown) else {
                continue;
            };
            if family.iter().all(|number| number.find(&self.line).is_empty()) {
                continue;
            }
            let (name, unit) = unit_of(name);
            let mut metric =
                encoder.encode_descriptor(name, family[0].meaning, unit.as_ref(), type_of(kind))?;
            for number in family {
                self.number(number, kind, &mut metric)?;
            }
        }
        Ok(())
    }
}

impl Numbers {
    fn number(&self, number: &Number, kind: MetricKind, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        let Shown::Metric { label, .. } = number.shown else { return Ok(()) };
        for found in number.find(&self.line) {
            let mut labels = found.labels;
            labels.extend(label.map(|(key, value)| (key.to_owned(), value.to_owned())));
            match kind {
                MetricKind::Counter => counter(metric, &labels, found.value)?,
                MetricKind::Gauge => gauge(metric, &labels, found.value.as_f64())?,
                MetricKind::Flag => {
                    gauge(metric, &labels, found.value.as_bool().map(|yes| f64::from(u8::from(yes))))?
                }
                MetricKind::State(key) => {
                    labels.extend(found.value.as_str().map(|state| (key.to_owned(), state.to_owned())));
                    gauge(metric, &labels, Some(1.0))?;
                }
                MetricKind::Info(keys) => {
                    let text =
                        |key: &&str| Some(((*key).to_owned(), found.value.get(*key)?.as_str()?.to_owned()));
                    let texts: MetricLabels = keys.iter().filter_map(text).collect();
                    metric.encode_info(&texts)?;
                }
                MetricKind::Histogram => {
                    let delays = self.delays.iter().find(|(key, _)| *key == number.key);
                    let Some((_, delays)) = delays else { continue };
                    metric.encode_histogram::<MetricLabels>(
                        delays.sum,
                        delays.count,
                        &delays.buckets,
                        None,
                    )?;
                }
            }
        }
        Ok(())
    }
}

fn counter(metric: &mut MetricEncoder<'_>, labels: &MetricLabels, value: &Value) -> fmt::Result {
    let mut each = metric.encode_family(labels)?;
    match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => each.encode_counter::<MetricLabels, u64, u64>(&whole, None),
        (None, Some(number)) => each.encode_counter::<MetricLabels, f64, u64>(&number, None),
        (None, None) => Ok(()),
    }
}

fn gauge(metric: &mut MetricEncoder<'_>, labels: &MetricLabels, value: Option<f64>) -> fmt::Result {
    match value {
        Some(value) => metric.encode_family(labels)?.encode_gauge(&value),
        None => Ok(()),
    }
}

fn name(number: &Number) -> Option<&'static str> {
    match number.shown {
        Shown::Metric { name, .. } => Some(name),
        Shown::Derived(_) => None,
    }
}

/// The name without its unit, and the unit, which the encoder puts back.
fn unit_of(name: &str) -> (&str, Option<Unit>) {
    match (name.strip_suffix("_seconds"), name.strip_suffix("_bytes")) {
        (Some(name), _) => (name, Some(Unit::Seconds)),
        (None, Some(name)) => (name, Some(Unit::Bytes)),
        (None, None) => (name, None),
    }
}

fn type_of(kind: MetricKind) -> MetricType {
    match kind {
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Gauge | MetricKind::Flag | MetricKind::State(_) => MetricType::Gauge,
        MetricKind::Info(_) => MetricType::Info,
        MetricKind::Histogram => MetricType::Histogram,
    }
}
