//! The verdict log: one JSON object a line.

use std::io::Write;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flowmeter_common::key::{kind, tunnel};
use flowmeter_common::prefilter::mark;
use serde::Serialize;

use super::{Labels, Sink};
use crate::model::Verdict;
use crate::record::Stage;
use crate::scoring::{Explanation, Scored};
use crate::stats::{AgentEvent, Stats};
use crate::timestamp::timestamp;
use crate::truth::KnownLabel;

/// Writes the log.
pub struct JsonLines {
    out: Box<dyn Write + Send>,
    /// Names of the features, if they are to be written.
    features: Option<Vec<&'static str>>,
    labels: Labels,
}

impl JsonLines {
    /// A log on `out`; with every flow's features if their names are given, and its label if that is known.
    pub fn new(out: Box<dyn Write + Send>, features: Option<Vec<&'static str>>, labels: Labels) -> Self {
        Self { out, features, labels }
    }

    fn line(&mut self, row: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.out, row).context("cannot write the log")?;
        self.out.write_all(b"\n").context("cannot write the log")
    }
}

/// A line about a flow. `src` is the initiator; bytes are those of IP packets; `duration` is in seconds.
#[derive(Serialize)]
struct FlowRow<'a> {
    /// `flow` if it has ended, `verdict` if it lives and its verdict has changed, `aggregate` for the sum of flows that
    /// found no slot.
    event: &'static str,
    /// Time of the first packet.
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<&'a str>,
    community_id: Option<String>,
    src_ip: Option<IpAddr>,
    src_port: Option<u16>,
    dst_ip: IpAddr,
    dst_port: u16,
    protocol: u8,
    vlan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner_vlan: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fragments: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel_id: Option<u32>,
    packets: u64,
    bytes: u64,
    forward_packets: u64,
    forward_bytes: u64,
    backward_packets: u64,
    backward_bytes: u64,
    duration: f64,
    end_reason: Option<&'static str>,
    verdict: &'static str,
    score: Option<f64>,
    threshold: Option<f64>,
    model: Option<&'a str>,
    stage: &'static str,
    /// The verdict that the kernel had for the flow when it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    marked: Option<&'static str>,
    /// True if the flow was in the audit lane.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    audited: bool,
    /// Updates that two CPUs made at once in one direction: packets and bytes are exact, other sums may lack some.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlapping_updates: Option<u32>,
    reasons: &'a [Explanation],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unexplained: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<FeatureValues<'a>>,
}

/// An object with a feature's value under its name.
struct FeatureValues<'a> {
    names: &'a [&'static str],
    values: &'a [f64],
}

impl Serialize for FeatureValues<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().zip(self.values))
    }
}

impl Sink for JsonLines {
    fn takes_features(&self) -> bool {
        self.features.is_some()
    }

    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        let record = scored.record;
        let (source, destination) = (record.source(), record.destination());
        let (forward, backward) = (record.forward(), record.backward());
        let [vlan, inner_vlan] = record.vlans();
        let tunnel = tunnel::name(record.entry.key.tunnel);
        let names = self.features.take();
        let labels = std::mem::take(&mut self.labels);
        let known = labels.of(scored);
        let one = !record.is_aggregate();
        let marked = record.entry.verdict;
        let (event, stage, end_reason) = match record.stage {
            Stage::End(why) => (if one { "flow" } else { "aggregate" }, "end", Some(why.name())),
            Stage::Checkpoint { .. } => ("verdict", "checkpoint", None),
        };
        let written = self.line(&FlowRow {
            event,
            timestamp: timestamp(record.first_seen()),
            observed: scored.observed,
            community_id: record.community_id(),
            src_ip: one.then_some(source.address),
            src_port: one.then_some(source.port),
            dst_ip: destination.address,
            dst_port: destination.port,
            protocol: record.entry.key.protocol,
            vlan,
            inner_vlan,
            fragments: record.entry.key.kind == kind::FRAGMENT,
            tunnel,
            tunnel_id: tunnel.map(|_| record.entry.key.tunnel_id),
            packets: forward.packets + backward.packets,
            bytes: forward.bytes + backward.bytes,
            forward_packets: forward.packets,
            forward_bytes: forward.bytes,
            backward_packets: backward.packets,
            backward_bytes: backward.bytes,
            duration: record.duration() as f64 / 1e9,
            end_reason,
            verdict: scored.verdict.map_or("none", |v| v.name()),
            score: scored.score,
            threshold: scored.threshold,
            model: scored.model,
            stage,
            marked: end_reason.and_then(|_| Verdict::from_number(mark::verdict(marked))).map(Verdict::name),
            audited: end_reason.is_some() && marked & mark::AUDITED != 0,
            overlapping_updates: match forward.overlaps.saturating_add(backward.overlaps) {
                overlaps if one && overlaps != 0 => Some(overlaps),
                _ => None,
            },
            reasons: scored.reasons,
            unexplained: scored.unexplained,
            label: known.and_then(KnownLabel::name),
            source: known.map(|known| known.source.as_str()),
            category: known.map(|known| known.category.as_str()),
            features: names.as_deref().map(|names| FeatureValues { names, values: scored.features }),
        });
        self.features = names;
        self.labels = labels;
        written
    }

    fn stats(&mut self, stats: &Stats) -> Result<()> {
        self.line(stats)
    }

    fn agent(&mut self, event: &AgentEvent) -> Result<()> {
        self.line(event)
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().context("cannot write the log")
    }
}
