//! The table holds every number of a line, and what is printed from it is right.

use std::collections::BTreeMap;

use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::lifecycle::EndReason;
use flowmeter_common::prefilter::{Cause, Outcome, PrefilterCounters};
use serde_json::{Value, json};

use super::page::{full_name, page};
use super::{MetricKind, NUMBERS, Shown, encode};
use crate::config::Mode;
use crate::latency::{Delays, Quantiles};
use crate::stats::{
    Account, AgentStats, DelayStats, DriftStats, FlowCounts, InspectorStats, LinkState, LogCounts,
    PipelineCounts, PrefilterStats, QueueStats, ScoringStats, Shift, Stats,
};

/// A line with everything that a line can have.
fn full() -> Stats {
    let mut counters =
        InterfaceCounters { seen: 30, counted: 20, counted_bytes: 2000, folded: 4, ..Default::default() };
    counters.contended = 1;
    counters.skipped[3] = 6;
    let mut arrived = PrefilterCounters::default();
    arrived.count(Cause::BenignFirst, Outcome::Dropped, 29, 2900);
    arrived.count(Cause::Stale, Outcome::Passed, 1, 100);
    let mut account = Account::new("eth0", &counters);
    account.state = Some(LinkState { attached: true, link: "up" });
    account.set_prefilter(PrefilterStats::new(
        Mode::Divert,
        &arrived,
        &PrefilterCounters::default(),
        30,
        true,
    ));
    let mut delays = Delays::default();
    delays.add(1_500_000);
    let delay =
        DelayStats { latest: Quantiles { count: 1, p50: 1.5, p99: 1.5, max: 1.5 }, all: delays.all() };
    let mut pipeline = PipelineCounts { benign: 5, malicious: 2, checkpoints: 9, ..Default::default() };
    pipeline.ended_by_reason.add(EndReason::Idle);
    Stats {
        event: "stats",
        timestamp: "2026-01-01T00:00:00Z".to_owned(),
        agent: AgentStats {
            version: "1.2.3",
            host: "sensor".to_owned(),
            uptime: 1.5,
            healthy: true,
            ..Default::default()
        },
        identity: account.identity,
        interfaces: vec![account],
        flows: FlowCounts { opened: 9, ended: 7, living: 2, evicted: 1, slots: 100 },
        pipeline,
        scoring: Some(ScoringStats {
            model: "a \"model\"".to_owned(),
            feature_set: "flowmeter/v2",
            working: true,
            rows: 16,
            seconds: 0.25,
            rows_per_second: 64.0,
            checkpoint_delay_ms: delay.clone(),
            end_delay_ms: delay,
        }),
        drift: Some(DriftStats {
            flows: 7,
            outside: 0.5,
            shift: Some(0.25),
            worst: vec![Shift { feature: "duration", psi: 1.25 }],
            model_fits: Some(false),
        }),
        events_lost: 1,
        torn_reads: 2,
        context_pushed_out: 3,
        queues: QueueStats { living: 1, ended: 2 },
        inspector: Some(InspectorStats { interface: "ids0".to_owned(), sent: 8, arrived: 7, reached: true }),
        log: Some(LogCounts { errors: 1, lost: 2, held: 3 }),
        last: false,
    }
}

/// Places of all numbers and truths of a value, lists by the name of what tells their elements apart.
fn leaves(value: &Value, place: &str, all: &mut Vec<String>) {
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match value {
        Value::Number(_) | Value::Bool(_) => all.push(place.to_owned()),
        Value::Object(keys) => keys.iter().for_each(|(key, value)| leaves(value, &below(key), all)),
        Value::Array(elements) => {
            for element in elements {
                let name = element.get("interface").or(element.get("feature")).and_then(Value::as_str);
                leaves(element, &below(name.expect("elements have names")), all);
            }
        }
        Value::String(_) | Value::Null => {}
    }
}

#[test]
fn every_number_of_a_line_is_in_the_table_and_each_of_the_table_in_a_line() {
    let line = serde_json::to_value(full()).expect("a line");
    let mut all = Vec::new();
    leaves(&line, "", &mut all);
    assert!(all.len() > 60, "{all:?}");
    let mut defined: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for number in NUMBERS {
        let found = number.find(&line);
        assert!(!found.is_empty(), "{} is in no line", number.key);
        for found in found {
            defined.entry(found.place).or_default().push(number.key);
        }
    }
    for place in all {
        let keys = defined.get(&place).map_or(&[][..], Vec::as_slice);
        // The totals by outcome stand beside what has a place of its own.
        assert!(!keys.is_empty(), "{place} is not in the table");
        let own: Vec<_> = keys.iter().filter(|key| !key.contains("{outcome}") || keys.len() == 1).collect();
        assert_eq!(own.len(), 1, "{place}: {keys:?}");
    }
}

#[test]
fn names_are_those_of_openmetrics_and_stand_together() {
    let mut kinds: BTreeMap<&str, (usize, MetricKind)> = BTreeMap::new();
    for (at, number) in NUMBERS.iter().enumerate() {
        let Shown::Metric { name, kind, .. } = number.shown else { continue };
        assert!(name.starts_with("flowmeter_") || name.starts_with("process_"), "{name}");
        assert!(
            name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_') && !name.ends_with("_total"),
            "{name}"
        );
        match number.unit {
            "s" => assert!(name.ends_with("_seconds"), "{name}"),
            "B" => assert!(name.ends_with("_bytes"), "{name}"),
            _ => assert!(!name.ends_with("_seconds") && !name.ends_with("_bytes"), "{name}"),
        }
        if let Some((before, other)) = kinds.insert(name, (at, kind)) {
            assert_eq!((before + 1, other), (at, kind), "{name} stands together and is of one kind");
        }
    }
}

#[test]
fn the_text_has_what_the_line_has() {
    let stats = full();
    let text = encode(&stats).expect("text");
    for line in [
        "# TYPE flowmeter_packets counter",
        "flowmeter_packets_total{interface=\"eth0\",outcome=\"counted\"} 20",
        "flowmeter_packets_total{interface=\"eth0\",outcome=\"folded\"} 4",
        "flowmeter_packets_total{interface=\"eth0\",outcome=\"skipped\"} 6",
        "# UNIT flowmeter_bytes bytes",
        "flowmeter_bytes_total{interface=\"eth0\",outcome=\"counted\"} 2000",
        "flowmeter_folded_packets_total{interface=\"eth0\",cause=\"contended\"} 1",
        "flowmeter_prefilter_packets_total{interface=\"eth0\",cause=\"benign@first\",outcome=\"dropped\"} 29",
        "flowmeter_interface_link{interface=\"eth0\",link=\"up\"} 1.0",
        "flowmeter_verdicts_total{verdict=\"malicious\"} 2",
        "flowmeter_flows_ended_total{reason=\"idle\"} 1",
        "flowmeter_scoring_seconds_total 0.25",
        "flowmeter_verdict_delay_seconds_count 1",
        "flowmeter_verdict_delay_seconds_bucket{le=\"0.001024\"} 0",
        "flowmeter_verdict_delay_seconds_bucket{le=\"0.004096\"} 1",
        "flowmeter_verdict_delay_seconds_bucket{le=\"+Inf\"} 1",
        "flowmeter_model_drift_psi{feature=\"duration\"} 1.25",
        "flowmeter_model_fits 0.0",
        "flowmeter_build_info{version=\"1.2.3\"} 1",
        "flowmeter_model_info{model=\"a \\\"model\\\"\",feature_set=\"flowmeter/v2\"} 1",
        "flowmeter_log_held_bytes 3.0",
        "flowmeter_account_balanced 1.0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let mut once = families.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(families.len(), once.len(), "each family once: {families:?}");
    for number in NUMBERS {
        let Shown::Metric { name, kind, .. } = number.shown else { continue };
        assert!(text.contains(&full_name(name, kind)), "{name} is not in\n{text}");
    }
}

#[test]
fn what_a_line_does_not_have_is_left_out() {
    let stats =
        Stats { scoring: None, drift: None, inspector: None, log: None, interfaces: Vec::new(), ..full() };
    let text = encode(&stats).expect("text");
    for absent in ["flowmeter_model", "flowmeter_inspector", "flowmeter_log", "flowmeter_packets", "delay"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    assert!(text.contains("flowmeter_flows_living 2.0"));
}

/// `FLOWMETER_OVERWRITE=1` with this test prints the page anew.
#[test]
fn the_page_is_printed_from_the_table() {
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("FLOWMETER_OVERWRITE").is_some() {
        std::fs::write(&place, page()).expect("the page");
    }
    let found = std::fs::read_to_string(&place).expect("docs/metrics.md");
    assert_eq!(found, page(), "docs/metrics.md differs; FLOWMETER_OVERWRITE=1 prints it anew");
}

#[test]
fn a_path_goes_through_lists_and_objects() {
    let line = json!({"interfaces": [{"interface": "a", "skipped_by_reason": {"not_ip": 3, "busy": 4}}, {"interface": "b"}]});
    let number = NUMBERS.iter().find(|number| number.key.ends_with("{reason}")).expect("a number");
    let found: Vec<_> =
        number.find(&line).into_iter().map(|found| (found.place, found.labels.len())).collect();
    assert_eq!(
        found,
        [
            ("interfaces.a.skipped_by_reason.busy".to_owned(), 2),
            ("interfaces.a.skipped_by_reason.not_ip".to_owned(), 2)
        ]
    );
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let known: Vec<String> = NUMBERS
        .iter()
        .filter_map(|number| match number.shown {
            Shown::Metric { name, kind: MetricKind::Histogram, .. } => Some(format!("{name}_bucket")),
            Shown::Metric { name, kind, .. } => Some(full_name(name, kind)),
            Shown::Derived(_) => None,
        })
        .collect();
    for file in ["alerts.yml", "alerts_test.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(folder.join(file)).expect(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> =
            words.filter(|word| word.starts_with("flowmeter_") || word.starts_with("process_")).collect();
        assert!(named.len() > 10, "{file}");
        for name in named {
            assert!(known.iter().any(|other| other == name), "{file}: there is no metric {name}");
        }
    }
}
