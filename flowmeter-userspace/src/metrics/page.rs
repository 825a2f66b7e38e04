//! The reference page of the numbers, printed from their table.

use std::fmt::Write as _;

use super::{MetricKind, NUMBERS, Shown};

const HEAD: &str = "<!-- Printed from the table in flowmeter-userspace/src/metrics/table.rs; a test compares them. -->

# Metrics

`flowmeter live --metrics 9598` serves every number of the [`stats` line](log.md#stats) for Prometheus, as OpenMetrics
text:

| page | what it says |
|---|---|
| `/metrics` | the numbers, read when they are asked for; what the pipeline has done is at most 0.1 s old, drift 1 s |
| `/healthz` | 200 while heartbeats go through drain and pipeline and the interfaces are looked at; otherwise 503, and why |
| `/readyz` | 200 if it is healthy, every interface is watched, the model scores, packets arrive at the inspector, and the log can be written to; otherwise 503, and what is missing |
| `/stats` | the numbers as a `stats` line |

A port alone is on the loopback interface; `ADDRESS:PORT` names another. There is neither encryption nor a password:
leave both to a proxy. `--socket FILE` serves the same pages at a Unix socket.

`deploy/prometheus` has alert rules and a Grafana dashboard.

A name in braces or brackets stands for many, told apart by a label of that name. A counter that has never counted has no
series. Numbers without a metric follow from others.

| in the `stats` line | metric | kind | meaning |
|---|---|---|---|
";

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for number in NUMBERS {
        let (metric, kind) = match number.shown {
            Shown::Metric { name, kind, label } => (
                format!(
                    "`{}{}`",
                    full_name(name, kind),
                    label.map_or(String::new(), |(key, value)| format!("{{{key}=\"{value}\"}}"))
                ),
                kind_name(kind),
            ),
            Shown::Derived(how) => (how.to_owned(), "-"),
        };
        let unit = if number.unit.is_empty() { String::new() } else { format!(" ({})", number.unit) };
        // Writing to a text cannot fail.
        let _ = writeln!(page, "| `{}` | {metric} | {kind} | {}{unit} |", number.key, number.meaning);
    }
    page
}

/// The name with the suffix that OpenMetrics asks for.
pub fn full_name(name: &str, kind: MetricKind) -> String {
    match kind {
        MetricKind::Counter => format!("{name}_total"),
        MetricKind::Info(_) => format!("{name}_info"),
        MetricKind::Gauge | MetricKind::Flag | MetricKind::State(_) | MetricKind::Histogram => {
            name.to_owned()
        }
    }
}

fn kind_name(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Flag => "gauge, 0 or 1",
        MetricKind::State(_) => "gauge, 1",
        MetricKind::Info(_) => "info",
        MetricKind::Histogram => "histogram",
    }
}
