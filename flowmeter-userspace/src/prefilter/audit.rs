//! What the pre-filter misses: the audit lane's flows, joined by Community ID with the alerts of the inspector behind it.

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::count::count;
use crate::sink::eve::SIGNATURES;

/// How far an alert may lie outside of its flow, in nanoseconds: an inspector notices an end later than FlowMeter, and
/// clocks are read apart.
const SLACK: i128 = 5_000_000_000;
/// How far the times of a flow's first packet may differ between two lines of the log, in nanoseconds.
const SAME: i128 = 1_000_000_000;
/// Most missed alerts that are listed.
const LISTED: usize = 20;

/// An alert of the inspector.
#[derive(Clone, Debug)]
struct Alert {
    at: i128,
    signature: String,
    matched: bool,
}

/// Alerts by Community ID.
#[derive(Debug, Default)]
pub struct Alerts {
    by_id: HashMap<String, Vec<Alert>>,
    without_id: u64,
}

impl Alerts {
    /// Reads Suricata's EVE output: lines of other events are passed over.
    ///
    /// # Errors
    /// A line is no JSON object, or no alert has a Community ID.
    pub fn read(eve: impl BufRead) -> Result<Self> {
        #[derive(Deserialize)]
        struct Event {
            event_type: String,
            timestamp: Option<String>,
            community_id: Option<String>,
            alert: Option<Value>,
        }
        let mut alerts = Self::default();
        for (line, number) in eve.lines().zip(1_u64..) {
            let line = line.with_context(|| format!("reading line {number}"))?;
            if line.trim().is_empty() {
                continue;
            }
            let event: Event = serde_json::from_str(&line)
                .with_context(|| format!("line {number} is not an event of Suricata"))?;
            // FlowMeter may write into the same file. Its own alerts say nothing of what the inspector finds.
            let own = event.alert.as_ref().and_then(|alert| alert["signature_id"].as_u64());
            if event.event_type != "alert" || own.is_some_and(|id| SIGNATURES.contains(&id)) {
                continue;
            }
            let (Some(id), Some(time)) = (event.community_id, event.timestamp) else {
                alerts.without_id += 1;
                continue;
            };
            let at = nanoseconds(&time).with_context(|| format!("line {number}"))?;
            let signature = event.alert.as_ref().and_then(|alert| alert["signature"].as_str()).unwrap_or("");
            alerts.by_id.entry(id).or_default().push(Alert {
                at,
                signature: signature.to_owned(),
                matched: false,
            });
        }
        ensure!(
            alerts.without_id == 0 || !alerts.by_id.is_empty(),
            "{} without a community_id: set `community-id: true` under `eve-log` in suricata.yaml",
            count(alerts.without_id, "alert")
        );
        Ok(alerts)
    }
}

/// A share with its 95 % interval (Clopper and Pearson, exact).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// What was found, of `of`.
    pub found: u64,
    /// Among how many.
    pub of: u64,
    /// The share, 0 to 1.
    pub share: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Rate {
    /// `found` of `of`, which is not 0.
    pub fn new(found: u64, of: u64) -> Self {
        let (low, high) = clopper_pearson(found, of);
        Self { found, of, share: found as f64 / of as f64, low, high }
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
}

/// An alert that the inspector would not have raised, had its flow not been in the audit lane.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Miss {
    /// The flow.
    pub community_id: String,
    /// What it was.
    pub signature: String,
}

/// What an audit says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Flows that ended cleared as benign.
    pub cleared: u64,
    /// Of the flows cleared: those in the audit lane, and among these, those with an alert after the verdict.
    pub miss_rate: Rate,
    /// Flows with alerts that the inspector raises in any case: not cleared, or before the verdict.
    pub caught: u64,
    /// Alerts of no flow of the log.
    pub unmatched_alerts: u64,
    /// Alerts without a Community ID.
    pub alerts_without_id: u64,
    /// What the inspector was spared.
    pub spared: Volume,
    /// What came.
    pub seen: Volume,
    /// Some of the alerts behind the rate.
    pub misses: Vec<Miss>,
}

/// Joins the agent's log with the alerts.
///
/// # Errors
/// The log is not one of an agent with `--audit`, or no flow of it was audited.
pub fn audit(log: impl BufRead, mut alerts: Alerts) -> Result<Report> {
    /// When the latest clearing verdict of a living flow was given.
    struct Clearing {
        start: i128,
        at: i128,
    }
    let mut clearings: HashMap<String, Vec<Clearing>> = HashMap::new();
    let (mut cleared, mut audited, mut missed, mut caught) = (0, 0, 0, 0);
    let mut misses = Vec::new();
    let mut stats = None;
    for (line, number) in log.lines().zip(1_u64..) {
        let line = line.with_context(|| format!("reading line {number} of the log"))?;
        // The last line of an agent that was killed may be cut.
        let Ok(row) = serde_json::from_str::<Value>(&line) else {
            log::warn!("line {number} of the log is not a JSON object, and is left out");
            continue;
        };
        let event = row["event"].as_str().unwrap_or_default();
        if event == "stats" {
            stats = Some(row);
            continue;
        }
        let (Some(id), Some(start)) = (row["community_id"].as_str(), row["timestamp"].as_str()) else {
            continue;
        };
        let start = nanoseconds(start).with_context(|| format!("line {number} of the log"))?;
        let last = start + (row["duration"].as_f64().unwrap_or(0.0) * 1e9) as i128;
        let same = |clearing: &Clearing| (clearing.start - start).abs() <= SAME;
        if event == "verdict" {
            let of_id = clearings.entry(id.to_owned()).or_default();
            of_id.retain(|clearing| !same(clearing));
            if row["verdict"] == "benign" {
                of_id.push(Clearing { start, at: last });
            }
            continue;
        }
        if event != "flow" {
            continue;
        }
        let was_cleared = row["marked"] == "benign";
        let was_audited = was_cleared && row["audited"] == true;
        cleared += u64::from(was_cleared);
        audited += u64::from(was_audited);
        let clearing = clearings.get_mut(id).and_then(|of_id| {
            let at = of_id.iter().position(same)?;
            Some(of_id.swap_remove(at).at)
        });
        let Some(of_id) = alerts.by_id.get_mut(id) else {
            continue;
        };
        // Without the line of its verdict, the whole flow counts as after it: rather a miss too many.
        let decided = if was_cleared { clearing.unwrap_or(start - SLACK) } else { i128::MAX };
        let (mut before, mut after) = (false, None);
        for alert in of_id.iter_mut().filter(|a| a.at >= start - SLACK && a.at <= last + SLACK) {
            alert.matched = true;
            if alert.at <= decided {
                before = true;
            } else {
                after = Some(alert.signature.clone());
            }
        }
        match after {
            _ if before => caught += 1,
            // This flow is not in the audit lane: the inspector has second thoughts about what it saw before.
            Some(_) if !was_audited => caught += 1,
            Some(signature) => {
                missed += 1;
                if misses.len() < LISTED {
                    misses.push(Miss { community_id: id.to_owned(), signature });
                }
            }
            None => {}
        }
    }
    if let Some(inspector) = stats.as_ref().map(|stats| &stats["inspector"])
        && inspector["sent"].as_u64().unwrap_or(0) > 0
        && inspector["arrived"] == 0
    {
        bail!(
            "nothing of {} packets that were sent to {} arrived there, so that an inspector that raised no alert proves \
             nothing; see the agent's warnings",
            inspector["sent"],
            inspector["interface"].as_str().unwrap_or("the inspector")
        );
    }
    if audited == 0 {
        bail!(
            "no flow of this log was in the audit lane ({cleared} were cleared as benign); run `flowmeter live` with \
             --mode mirror or divert and --audit N, with N small enough for the traffic"
        );
    }
    let (spared, seen) = stats.as_ref().map_or_else(Default::default, volumes);
    Ok(Report {
        cleared,
        miss_rate: Rate::new(missed, audited),
        caught,
        unmatched_alerts: alerts.by_id.values().flatten().filter(|alert| !alert.matched).count() as u64,
        alerts_without_id: alerts.without_id,
        spared,
        seen,
        misses,
    })
}

/// What was spared, and what was seen, by a `stats` line.
fn volumes(stats: &Value) -> (Volume, Volume) {
    let (mut spared, mut seen) = (Volume::default(), Volume::default());
    for account in stats["interfaces"].as_array().into_iter().flatten() {
        let of = |value: &Value| value.as_u64().unwrap_or(0);
        // Logs of version 0.1 have the older key.
        let prefilter = account.get("prefilter").unwrap_or(&account["reaction"]);
        spared.packets += of(&prefilter["spared"]["packets"]);
        spared.bytes += of(&prefilter["spared"]["bytes"]);
        seen.packets += of(&account["seen"]);
        seen.bytes += of(&account["counted_bytes"]) + of(&account["folded_bytes"]);
    }
    (spared, seen)
}

/// Nanoseconds since the Unix epoch of a time as our log has it, or as EVE has it (`+0000` without a colon).
fn nanoseconds(time: &str) -> Result<i128> {
    let read = time.parse().or_else(|_| jiff::Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", time));
    Ok(read.with_context(|| format!("invalid time {time:?}: expected RFC 3339"))?.as_nanosecond())
}

/// The exact 95 % interval of a share of which `k` of `n` were found (Clopper and Pearson, 1934): the shares at which so
/// few, or so many, have a probability of 2.5 % each.
fn clopper_pearson(k: u64, n: u64) -> (f64, f64) {
    const TAIL: f64 = 0.025;
    let low = if k == 0 { 0.0 } else { solve(|p| 1.0 - at_most(k - 1, n, p) < TAIL) };
    let high = if k == n { 1.0 } else { solve(|p| at_most(k, n, p) > TAIL) };
    (low, high)
}

/// The share up to which `below` is true.
fn solve(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if below(middle) { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// Probability of at most `k` in `n` trials that each succeed with probability `p`.
fn at_most(k: u64, n: u64, p: f64) -> f64 {
    if p <= 0.0 {
        return 1.0;
    }
    // By logarithms: the first term alone may be smaller than any number.
    let (odds, mut term) = ((p / (1.0 - p)).ln(), n as f64 * (-p).ln_1p());
    let mut sum = term.exp();
    for i in 0..k {
        term += odds + ((n - i) as f64 / (i + 1) as f64).ln();
        sum += term.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against published values of the exact interval: 0 of 10, 1 of 10 and 5 of 10 by Clopper and Pearson's tables, and
    /// 0 of n, where the upper end is 1 - 0.025^(1/n).
    #[test]
    fn intervals_are_those_of_the_tables() {
        for (k, n, low, high) in [
            (0, 10, 0.0, 0.30849710781876083),
            (1, 10, 0.002528578544454, 0.445016117028195),
            (5, 10, 0.187086028447398, 0.812913971552602),
            (10, 10, 0.691502892181239, 1.0),
        ] {
            let (found_low, found_high) = clopper_pearson(k, n);
            assert!((found_low - low).abs() < 1e-9 && (found_high - high).abs() < 1e-9, "{k} of {n}");
        }
        for n in [1_u64, 100, 100_000] {
            let (low, high) = clopper_pearson(0, n);
            assert!(low == 0.0 && (high - (1.0 - 0.025_f64.powf(1.0 / n as f64))).abs() < 1e-9);
        }
        let (low, high) = clopper_pearson(50_000, 100_000);
        assert!((low - 0.4969).abs() < 1e-4 && (high - 0.5031).abs() < 1e-4, "{low} {high}");
    }

    fn flow(id: &str, marked: &str, audited: bool) -> String {
        format!(
            r#"{{"event":"flow","timestamp":"2026-11-23T10:00:00Z","community_id":"{id}","duration":60.0,"marked":"{marked}","audited":{audited}}}"#
        )
    }

    fn verdict(id: &str) -> String {
        format!(
            r#"{{"event":"verdict","timestamp":"2026-11-23T10:00:00.000001Z","community_id":"{id}","duration":1.5,"verdict":"benign"}}"#
        )
    }

    fn alert(id: &str, at: &str) -> String {
        format!(
            r#"{{"timestamp":"2026-11-23T{at}+0000","event_type":"alert","community_id":"{id}","alert":{{"signature":"S {id}"}}}}"#
        )
    }

    #[test]
    fn alerts_count_by_flow_lane_and_time() {
        let log = [
            verdict("a"),
            flow("a", "benign", true),  // alert after the verdict: missed
            verdict("b"),
            flow("b", "benign", true),  // alert before it only: caught
            flow("c", "benign", false), // not audited, late alert: caught
            flow("d", "malicious", false), // caught
            flow("e", "benign", true),  // none
            flow("f", "benign", true),  // alert of another time: not its own
            r#"{"event":"stats","interfaces":[{"seen":100,"counted_bytes":900,"folded_bytes":100,"prefilter":{"spared":{"packets":60,"bytes":800}}}]}"#.to_owned(),
        ]
        .join("\n");
        let eve = [
            alert("a", "10:00:30.000000"),
            alert("b", "10:00:01.000000"),
            alert("c", "10:00:30.000000"),
            alert("d", "10:00:02.000000"),
            alert("f", "11:00:00.000000"),
            r#"{"event_type":"flow"}"#.to_owned(),
        ]
        .join("\n");
        let report = audit(log.as_bytes(), Alerts::read(eve.as_bytes()).expect("EVE")).expect("an audit");
        assert_eq!((report.cleared, report.miss_rate.found, report.miss_rate.of), (5, 1, 4));
        assert_eq!((report.caught, report.unmatched_alerts), (3, 1));
        assert_eq!((report.spared.packets, report.seen.bytes), (60, 1000));
        assert_eq!(report.misses, [Miss { community_id: "a".to_owned(), signature: "S a".to_owned() }]);
    }

    #[test]
    fn own_alerts_are_passed_over() {
        let with_id = |id: u64, flow: &str| {
            alert(flow, "10:00:30.000000")
                .replace(r#""alert":{"#, &format!(r#""alert":{{"signature_id":{id},"#))
        };
        let eve = [with_id(9_100_001, "a"), with_id(9_100_002, "a"), with_id(2_001_219, "b")].join("\n");
        let log = [flow("a", "benign", true), flow("b", "benign", true)].join("\n");
        let report = audit(log.as_bytes(), Alerts::read(eve.as_bytes()).expect("EVE")).expect("an audit");
        assert_eq!((report.miss_rate.found, report.miss_rate.of), (1, 2));
        assert_eq!(report.misses, [Miss { community_id: "b".to_owned(), signature: "S b".to_owned() }]);
    }

    #[test]
    fn a_blind_inspector_proves_nothing() {
        let audited = |arrived: u64| {
            let stats = format!(
                r#"{{"event":"stats","interfaces":[],"inspector":{{"interface":"ids0","sent":500,"arrived":{arrived},"reached":false}}}}"#
            );
            audit([flow("a", "benign", true), stats].join("\n").as_bytes(), Alerts::default())
        };
        assert!(audited(499).is_ok());
        let problem = format!("{:#}", audited(0).expect_err("blind"));
        assert!(problem.contains("500 packets") && problem.contains("ids0"), "{problem}");
    }

    #[test]
    fn logs_and_alerts_that_say_nothing_are_refused() {
        let without = r#"{"event_type":"alert","timestamp":"2026-11-23T10:00:00.000000+0000"}"#;
        assert!(
            format!("{:#}", Alerts::read(without.as_bytes()).expect_err("no id"))
                .contains("community-id: true")
        );
        let log = flow("a", "benign", false);
        let problem = audit(log.as_bytes(), Alerts::default()).expect_err("none audited");
        assert!(format!("{problem:#}").contains("--audit N"));
        assert!(Alerts::read("nonsense".as_bytes()).is_err());
    }

    #[test]
    fn the_key_of_older_logs_is_read() {
        for key in ["prefilter", "reaction"] {
            let line = format!(
                r#"{{"interfaces":[{{"seen":9,"{key}":{{"spared":{{"packets":7,"bytes":700}}}}}}]}}"#
            );
            let (spared, seen) = volumes(&serde_json::from_str(&line).expect("JSON"));
            assert_eq!((spared.packets, spared.bytes, seen.packets), (7, 700, 9), "{key}");
        }
    }
}
