//! What the pre-filter misses: the audit lane's flows, joined by Community ID with the alerts of the inspector behind it.

mod alerts;
mod interval;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

pub use self::alerts::Alerts;
use self::alerts::nanoseconds;
pub use self::interval::Rate;

/// How far an alert may lie outside of its flow, in nanoseconds: an inspector notices an end later than FlowMeter, and
/// clocks are read apart.
const SLACK: i128 = 5_000_000_000;
/// How far the times of a flow's first packet may differ between two lines of the log, in nanoseconds.
const SAME: i128 = 1_000_000_000;
/// How far the start of an agent may differ between two of its `stats` lines, in nanoseconds: the time of day is set now and
/// then.
const SAME_START: i128 = 2_000_000_000;
/// Most missed alerts that are listed.
const LISTED: usize = 20;

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

/// When the latest clearing verdict of a living flow was given.
struct Clearing {
    start: i128,
    at: i128,
}

/// A flow that has ended, and that the inspector has alerts of.
struct AlertedFlow {
    id: String,
    start: i128,
    last: i128,
    cleared: bool,
    audited: bool,
    /// When it was cleared, if the line that says so came before.
    clearing: Option<i128>,
}

/// The latest `stats` line of an agent's run.
struct Run {
    /// When the agent started; None if the line does not say.
    start: Option<i128>,
    stats: Value,
}

/// Joins the agent's logs with the alerts.
pub struct Audit {
    alerts: Alerts,
    clearings: HashMap<String, Vec<Clearing>>,
    flows: Vec<AlertedFlow>,
    cleared: u64,
    audited: u64,
    runs: Vec<Run>,
}

impl Audit {
    /// An audit by these alerts.
    pub fn new(alerts: Alerts) -> Self {
        Self {
            alerts,
            clearings: HashMap::new(),
            flows: Vec::new(),
            cleared: 0,
            audited: 0,
            runs: Vec::new(),
        }
    }

    /// Takes a log. Of rotated logs the oldest comes first.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn add(&mut self, log: impl BufRead) -> Result<()> {
        for (line, number) in log.lines().zip(1_u64..) {
            let line = line.with_context(|| format!("reading line {number} of the log"))?;
            // The last line of an agent that was killed may be cut.
            let Ok(row) = serde_json::from_str::<Value>(&line) else {
                log::warn!("line {number} of the log is not a JSON object, and is left out");
                continue;
            };
            match row["event"].as_str().unwrap_or_default() {
                "stats" => self.stats(row),
                // What the agent before has counted is counted on.
                "agent" if row["what"] == "adoption" => drop(self.runs.pop()),
                "verdict" => self.verdict(&row).with_context(|| format!("line {number} of the log"))?,
                "flow" => self.flow(&row).with_context(|| format!("line {number} of the log"))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn stats(&mut self, stats: Value) {
        let written = stats["timestamp"].as_str().and_then(|time| nanoseconds(time).ok());
        let uptime = stats["agent"]["uptime"].as_f64().map(|seconds| (seconds * 1e9) as i128);
        let start = written.zip(uptime).map(|(written, uptime)| written - uptime);
        let same = |run: &&mut Run| match (run.start, start) {
            (Some(a), Some(b)) => (a - b).abs() <= SAME_START,
            // Logs of version 0.1 do not say: counters that grow are those of one run.
            _ => seen(&run.stats) <= seen(&stats),
        };
        match self.runs.last_mut().filter(same) {
            Some(run) => *run = Run { start, stats },
            None => self.runs.push(Run { start, stats }),
        }
    }

    fn verdict(&mut self, row: &Value) -> Result<()> {
        let Some((id, start, last)) = times(row)? else { return Ok(()) };
        // Of flows without alerts it does not matter when they were cleared.
        if !self.alerts.by_id.contains_key(id) {
            return Ok(());
        }
        let of_id = self.clearings.entry(id.to_owned()).or_default();
        of_id.retain(|clearing| (clearing.start - start).abs() > SAME);
        if row["verdict"] == "benign" {
            of_id.push(Clearing { start, at: last });
        }
        Ok(())
    }

    fn flow(&mut self, row: &Value) -> Result<()> {
        let Some((id, start, last)) = times(row)? else { return Ok(()) };
        let cleared = row["marked"] == "benign";
        let audited = cleared && row["audited"] == true;
        self.cleared += u64::from(cleared);
        self.audited += u64::from(audited);
        if self.alerts.by_id.contains_key(id) {
            let clearing = self.take_clearing(id, start);
            self.flows.push(AlertedFlow { id: id.to_owned(), start, last, cleared, audited, clearing });
        }
        Ok(())
    }

    /// When this flow was cleared.
    fn take_clearing(&mut self, id: &str, start: i128) -> Option<i128> {
        let of_id = self.clearings.get_mut(id)?;
        let at = of_id.iter().position(|clearing| (clearing.start - start).abs() <= SAME)?;
        Some(of_id.swap_remove(at).at)
    }

    /// What comes of it.
    ///
    /// # Errors
    /// The logs are not of an agent with `--audit`, no flow of them was audited, or nothing reached the inspector.
    pub fn report(mut self) -> Result<Report> {
        self.refuse_blind()?;
        if self.audited == 0 {
            bail!(
                "no flow of this log was in the audit lane ({} were cleared as benign); run `flowmeter live` with --mode mirror or \
                 divert and --audit N, with N small enough for the traffic",
                self.cleared
            );
        }
        let (mut missed, mut caught, mut misses) = (0, 0, Vec::new());
        for flow in std::mem::take(&mut self.flows) {
            // The line that says so may come later where logs do not follow each other.
            let clearing = flow.clearing.or_else(|| self.take_clearing(&flow.id, flow.start));
            // Without the line of its verdict, the whole flow counts as after it: rather a miss too many.
            let decided = if flow.cleared { clearing.unwrap_or(flow.start - SLACK) } else { i128::MAX };
            let (mut before, mut after) = (false, None);
            let of_id = self.alerts.by_id.get_mut(&flow.id).into_iter().flatten();
            for alert in of_id.filter(|a| a.at >= flow.start - SLACK && a.at <= flow.last + SLACK) {
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
                Some(_) if !flow.audited => caught += 1,
                Some(signature) => {
                    missed += 1;
                    if misses.len() < LISTED {
                        misses.push(Miss { community_id: flow.id, signature });
                    }
                }
                None => {}
            }
        }
        let (mut spared, mut seen) = (Volume::default(), Volume::default());
        for (of_run, seen_by_run) in self.runs.iter().map(|run| volumes(&run.stats)) {
            spared.add(of_run);
            seen.add(seen_by_run);
        }
        let alerts = self.alerts.by_id.values().flatten();
        Ok(Report {
            cleared: self.cleared,
            miss_rate: Rate::new(missed, self.audited),
            caught,
            unmatched_alerts: alerts.filter(|alert| !alert.matched).count() as u64,
            alerts_without_id: self.alerts.without_id,
            spared,
            seen,
            misses,
        })
    }

    /// Refuses logs in which nothing reached the inspector.
    fn refuse_blind(&self) -> Result<()> {
        let sum = |key: &str| -> u64 {
            self.runs.iter().filter_map(|run| run.stats["inspector"][key].as_u64()).sum()
        };
        if sum("sent") == 0 || sum("arrived") != 0 {
            return Ok(());
        }
        let inspector = self.runs.iter().find_map(|run| run.stats["inspector"]["interface"].as_str());
        bail!(
            "nothing of {} packets that were sent to {} arrived there, so that an inspector that raised no alert proves nothing; see \
             the agent's warnings",
            sum("sent"),
            inspector.unwrap_or("the inspector")
        )
    }
}

impl Volume {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Community ID, start and end of the flow of a line; None for flows without an ID.
fn times(row: &Value) -> Result<Option<(&str, i128, i128)>> {
    let (Some(id), Some(start)) = (row["community_id"].as_str(), row["timestamp"].as_str()) else {
        return Ok(None);
    };
    let start = nanoseconds(start)?;
    Ok(Some((id, start, start + (row["duration"].as_f64().unwrap_or(0.0) * 1e9) as i128)))
}

/// Packets that a `stats` line says were seen.
fn seen(stats: &Value) -> u64 {
    let (_, seen) = volumes(stats);
    seen.packets
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
