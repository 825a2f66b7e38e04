//! Suricata's EVE format (eve.json): a `flow` event for each flow that has ended, an `alert` for each malicious one.
//!
//! What reads Suricata's output reads this. Field by field: docs/outputs.md; Suricata's own definition is etc/schema.json
//! in its repository, whose version 8 these lines keep.

mod limit;

use std::io::Write;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result};
use flowmeter_common::flow::tcp_seen;
use flowmeter_common::lifecycle::EndReason;
use flowmeter_common::packet::{protocol, tcp_flags};
use flowmeter_common::prefilter::mark;
use serde::Serialize;

use self::limit::AlertLimit;
use super::{Sink, facts};
use crate::count::count;
use crate::model::Verdict;
use crate::record::{FlowRecord, Stage};
use crate::scoring::{Explanation, Scored};
use crate::stats::Stats;

/// Signature identifiers of FlowMeter's own alerts: outside of those that rule writers share out among themselves.
pub const SIGNATURES: RangeInclusive<u64> = 9_100_001..=9_100_099;
/// A flow was malicious when it ended.
const AT_THE_END: Signature = Signature { id: *SIGNATURES.start(), text: "FlowMeter malicious flow" };
/// A flow is malicious while it lives.
const ALIVE: Signature =
    Signature { id: *SIGNATURES.start() + 1, text: "FlowMeter malicious flow, still alive" };
/// Bits of a flow_id: JSON's readers take larger numbers for real ones, and round them.
const ID_BITS: u32 = 53;

struct Signature {
    id: u64,
    text: &'static str,
}

/// Writes EVE.
pub struct Eve {
    out: Box<dyn Write + Send>,
    limit: AlertLimit,
    /// Alerts left out when that was last said.
    said: u64,
    /// True if the pre-filter drops what is malicious.
    blocks: bool,
}

impl Eve {
    /// Events on `out`. `blocks` says whether the packets of a flow are dropped once it is called malicious.
    pub fn new(out: Box<dyn Write + Send>, blocks: bool) -> Self {
        Self { out, limit: AlertLimit::default(), said: 0, blocks }
    }

    fn line(&mut self, event: &Event<'_>) -> Result<()> {
        serde_json::to_writer(&mut self.out, event).context("cannot write EVE")?;
        self.out.write_all(b"\n").context("cannot write EVE")
    }

    fn alert(&mut self, scored: &Scored<'_>, alive: bool) -> Result<()> {
        let (record, destination) = (scored.record, scored.record.destination());
        let service = (destination.port, record.entry.key.protocol);
        let Some(left_out) = self.limit.admit(record.source().address, service, record.last_seen()) else {
            return Ok(());
        };
        let signature = if alive { &ALIVE } else { &AT_THE_END };
        let texts = |texts: Vec<String>| Some(texts).filter(|texts| !texts.is_empty());
        let alert = EveAlert {
            action: if alive && self.blocks { "blocked" } else { "allowed" },
            gid: 1,
            signature_id: signature.id,
            rev: 1,
            signature: signature.text,
            category: "Malicious by its features",
            severity: severity(scored),
            metadata: AlertMetadata {
                flowmeter_score: texts(scored.score.iter().map(f64::to_string).collect()),
                flowmeter_threshold: texts(scored.threshold.iter().map(f64::to_string).collect()),
                flowmeter_model: texts(scored.model.iter().map(|&name| name.to_owned()).collect()),
                flowmeter_reason: texts(scored.reasons.iter().map(reason).collect()),
                flowmeter_left_out: texts(
                    (left_out != 0).then(|| left_out.to_string()).into_iter().collect(),
                ),
            },
        };
        self.line(&Event {
            direction: Some("to_server"),
            alert: Some(alert),
            flow: Counts { start: Some(timestamp(record.first_seen())), ..Counts::of(record) },
            ..Event::about(scored, "alert")
        })
    }

    fn ended(&mut self, scored: &Scored<'_>, why: EndReason, alerted: bool) -> Result<()> {
        let record = scored.record;
        let (forward, backward) = (record.forward(), record.backward());
        let state = match (forward.packets, backward.packets) {
            // A closed connection may still have waited for stray packets when it was taken out.
            _ if forward.has(tcp_seen::CLOSED) || backward.has(tcp_seen::CLOSED) => "closed",
            (0, _) | (_, 0) => "new",
            _ => "established",
        };
        self.line(&Event {
            tcp: Tcp::of(record),
            flow: Counts {
                start: Some(timestamp(record.first_seen())),
                end: Some(timestamp(record.last_seen())),
                age: Some(record.duration() / 1_000_000_000),
                state: Some(state),
                reason: Some(end_reason(why)),
                alerted: Some(alerted),
                ..Counts::of(record)
            },
            metadata: Metadata::of(scored),
            ..Event::about(scored, "flow")
        })
    }

    /// Says how many alerts have been left out, if there are more than when that was last said.
    fn say_left_out(&mut self) {
        let (written, left_out) = self.limit.counts();
        if left_out != self.said {
            self.said = left_out;
            log::info!(
                "{} written, and {left_out} left out: one a minute stands for all of a source and service",
                count(written, "alert")
            );
        }
    }
}

impl Sink for Eve {
    fn takes_features(&self) -> bool {
        false
    }

    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        let malicious = scored.verdict == Some(Verdict::Malicious);
        match scored.record.stage {
            Stage::Checkpoint { .. } if malicious => self.alert(scored, true),
            Stage::Checkpoint { .. } => Ok(()),
            Stage::End(why) => {
                // A flow that was malicious while it lived has had its alert then.
                let before = mark::verdict(scored.record.entry.verdict) == mark::MALICIOUS;
                if malicious && !before {
                    self.alert(scored, false)?;
                }
                self.ended(scored, why, malicious || before)
            }
        }
    }

    fn stats(&mut self, stats: &Stats) -> Result<()> {
        stats.log();
        self.say_left_out();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().context("cannot write EVE")
    }

    fn finish(&mut self) -> Result<()> {
        self.say_left_out();
        self.flush()
    }
}

/// 1 (high) to 3 (low), by where the score lies between its threshold and 1.
fn severity(scored: &Scored<'_>) -> u8 {
    let (Some(score), Some(threshold)) = (scored.score, scored.threshold) else { return 3 };
    match (score - threshold) / (1.0 - threshold).max(f64::EPSILON) {
        margin if margin >= 0.9 => 1,
        margin if margin >= 0.5 => 2,
        _ => 3,
    }
}

/// A reason in one text.
fn reason(why: &Explanation) -> String {
    let Explanation { feature, value, unit, normal, .. } = why;
    format!("{feature}={value} {unit}, normally {normal}")
}

/// Why a flow ended, in Suricata's words.
fn end_reason(why: EndReason) -> &'static str {
    match why {
        EndReason::Idle | EndReason::Active => "timeout",
        EndReason::Fin | EndReason::Reset => "shutdown",
        EndReason::PortReuse => "tcp_reuse",
        EndReason::Shutdown | EndReason::EndOfCapture | EndReason::Pressure | EndReason::Folded => "forced",
    }
}

/// The protocol's name in Suricata, or its number.
fn protocol_name(number: u8) -> String {
    match number {
        protocol::ICMP => "ICMP",
        2 => "IGMP",
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::GRE => "GRE",
        50 => "ESP",
        protocol::AUTHENTICATION => "AH",
        protocol::ICMPV6 => "IPv6-ICMP",
        protocol::SCTP => "SCTP",
        other => return other.to_string(),
    }
    .to_owned()
}

/// Suricata's form of RFC 3339: microseconds always, and an offset without a colon.
fn timestamp(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_or_else(|_| "invalid".to_owned(), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.6f+0000").to_string())
}

/// A line. Its fields stand in Suricata's order.
#[derive(Serialize)]
struct Event<'a> {
    /// Time of the last packet.
    timestamp: String,
    flow_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_iface: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcap_filename: Option<&'a str>,
    event_type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vlan: Vec<u16>,
    src_ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    dest_ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    ip_v: u8,
    proto: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<Tcp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<EveAlert>,
    flow: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

impl<'a> Event<'a> {
    /// What every event says of its flow.
    fn about(scored: &Scored<'a>, event_type: &'static str) -> Self {
        let record = scored.record;
        let key = &record.entry.key;
        let ports = facts::ports(record);
        let icmp = facts::icmp(record);
        // Captures have no interfaces.
        let (interface, capture) =
            if key.interface == 0 { (None, scored.observed) } else { (scored.observed, None) };
        Self {
            timestamp: timestamp(record.last_seen()),
            flow_id: facts::number(record, 0) >> (u64::BITS - ID_BITS),
            in_iface: interface,
            pcap_filename: capture,
            event_type,
            vlan: record.vlans().into_iter().flatten().collect(),
            src_ip: record.source().address,
            src_port: ports.map(|(source, _)| source),
            dest_ip: record.destination().address,
            dest_port: ports.map(|(_, destination)| destination),
            ip_v: key.ip_version,
            proto: protocol_name(key.protocol),
            icmp_type: icmp.map(|(message, _)| message),
            icmp_code: icmp.map(|(_, code)| code),
            community_id: record.community_id(),
            direction: None,
            tcp: None,
            alert: None,
            flow: Counts::of(record),
            metadata: None,
        }
    }
}

#[derive(Serialize)]
struct EveAlert {
    action: &'static str,
    gid: u8,
    signature_id: u64,
    rev: u8,
    signature: &'static str,
    category: &'static str,
    severity: u8,
    metadata: AlertMetadata,
}

/// What Suricata's rules say of themselves, and FlowMeter of its verdict: each a list of texts.
#[derive(Serialize)]
struct AlertMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    flowmeter_score: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flowmeter_threshold: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flowmeter_model: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flowmeter_reason: Option<Vec<String>>,
    /// Alerts of this source and service that the last one stood for.
    #[serde(skip_serializing_if = "Option::is_none")]
    flowmeter_left_out: Option<Vec<String>>,
}

/// Packets and bytes, and of a flow that has ended when and why. The server is the destination.
#[derive(Default, Serialize)]
struct Counts {
    pkts_toserver: u64,
    pkts_toclient: u64,
    bytes_toserver: u64,
    bytes_toclient: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    /// Whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alerted: Option<bool>,
}

impl Counts {
    fn of(record: &FlowRecord) -> Self {
        let (forward, backward) = (record.forward(), record.backward());
        Self {
            pkts_toserver: forward.packets,
            pkts_toclient: backward.packets,
            bytes_toserver: forward.bytes,
            bytes_toclient: backward.bytes,
            ..Self::default()
        }
    }
}

/// The flags of a connection: octets in hexadecimal, and one by one.
#[derive(Serialize)]
struct Tcp {
    tcp_flags: String,
    tcp_flags_ts: String,
    tcp_flags_tc: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    syn: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fin: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rst: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    psh: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ack: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    urg: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ecn: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cwr: bool,
}

impl Tcp {
    fn of(record: &FlowRecord) -> Option<Self> {
        let to_server = facts::flags(record, record.forward())?;
        let to_client = facts::flags(record, record.backward())?;
        let all = to_server | to_client;
        let hexadecimal = |flags: u8| format!("{flags:02x}");
        let has = |flag: u8| all & flag != 0;
        Some(Self {
            tcp_flags: hexadecimal(all),
            tcp_flags_ts: hexadecimal(to_server),
            tcp_flags_tc: hexadecimal(to_client),
            syn: has(tcp_flags::SYN),
            fin: has(tcp_flags::FIN),
            rst: has(tcp_flags::RST),
            psh: has(tcp_flags::PSH),
            ack: has(tcp_flags::ACK),
            urg: has(tcp_flags::URG),
            ecn: has(tcp_flags::ECE),
            cwr: has(tcp_flags::CWR),
        })
    }
}

/// What rules leave in a flow: a bit for its verdict, so that it can be searched for where there is no alert.
#[derive(Serialize)]
struct Metadata {
    flowbits: Vec<String>,
}

impl Metadata {
    fn of(scored: &Scored<'_>) -> Option<Self> {
        let verdict = scored.verdict.map(|verdict| format!("flowmeter.{}", verdict.name()));
        let aggregate = scored.record.is_aggregate().then(|| "flowmeter.aggregate".to_owned());
        let flowbits: Vec<_> = verdict.into_iter().chain(aggregate).collect();
        (!flowbits.is_empty()).then_some(Self { flowbits })
    }
}
