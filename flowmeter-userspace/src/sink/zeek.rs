//! Zeek's conn.log, as JSON and as tab-separated values. What a header-only sensor cannot know (service, history, missed
//! bytes) is unset. Field by field: docs/outputs.md.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flowmeter_common::flow::{Direction, tcp_seen};
use flowmeter_common::packet::protocol;
use serde::Serialize;

use super::{Sink, facts};
use crate::record::{FlowRecord, Stage};
use crate::scoring::Scored;
use crate::stats::Stats;

/// Digits and letters of an identifier.
const BASE_62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Of them, after the `C` of a connection.
const UID_DIGITS: usize = 17;
/// A cell without a value.
const UNSET: &str = "-";

/// The columns with Zeek's types: of the script base/protocols/conn, then those of its policy scripts for VLANs and
/// Community IDs, then FlowMeter's own.
const COLUMNS: [(&str, &str); 27] = [
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("proto", "enum"),
    ("service", "string"),
    ("duration", "interval"),
    ("orig_bytes", "count"),
    ("resp_bytes", "count"),
    ("conn_state", "string"),
    ("local_orig", "bool"),
    ("local_resp", "bool"),
    ("missed_bytes", "count"),
    ("history", "string"),
    ("orig_pkts", "count"),
    ("orig_ip_bytes", "count"),
    ("resp_pkts", "count"),
    ("resp_ip_bytes", "count"),
    ("tunnel_parents", "set[string]"),
    ("ip_proto", "count"),
    ("vlan", "int"),
    ("inner_vlan", "int"),
    ("community_id", "string"),
    ("flowmeter_verdict", "string"),
    ("flowmeter_score", "double"),
];

/// A connection. Zeek's originator is the initiator.
#[derive(Serialize)]
struct Connection {
    ts: f64,
    uid: String,
    #[serde(rename = "id.orig_h")]
    orig_h: IpAddr,
    #[serde(rename = "id.orig_p")]
    orig_p: u16,
    #[serde(rename = "id.resp_h")]
    resp_h: IpAddr,
    #[serde(rename = "id.resp_p")]
    resp_p: u16,
    proto: &'static str,
    duration: f64,
    orig_bytes: u64,
    resp_bytes: u64,
    conn_state: &'static str,
    orig_pkts: u64,
    orig_ip_bytes: u64,
    resp_pkts: u64,
    resp_ip_bytes: u64,
    ip_proto: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner_vlan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flowmeter_verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flowmeter_score: Option<f64>,
}

impl Connection {
    fn of(scored: &Scored<'_>) -> Self {
        let record = scored.record;
        let (forward, backward) = (record.forward(), record.backward());
        // Zeek has an ICMP message's type and code for ports, and 0 for what has none.
        let icmp = facts::icmp(record).map(|(message, code)| (message.into(), code.into()));
        let (orig_p, resp_p) = facts::ports(record).or(icmp).unwrap_or_default();
        let [vlan, inner_vlan] = record.vlans();
        Self {
            ts: seconds(record.first_seen()),
            uid: uid(record),
            orig_h: record.source().address,
            orig_p,
            resp_h: record.destination().address,
            resp_p,
            proto: match record.entry.key.protocol {
                protocol::TCP => "tcp",
                protocol::UDP => "udp",
                protocol::ICMP | protocol::ICMPV6 => "icmp",
                _ => "unknown_transport",
            },
            duration: seconds(record.duration()),
            orig_bytes: forward.payload_bytes,
            resp_bytes: backward.payload_bytes,
            conn_state: state(record.entry.key.protocol, forward, backward),
            orig_pkts: forward.packets,
            orig_ip_bytes: forward.bytes,
            resp_pkts: backward.packets,
            resp_ip_bytes: backward.bytes,
            ip_proto: record.entry.key.protocol,
            vlan,
            inner_vlan,
            community_id: record.community_id(),
            flowmeter_verdict: scored.verdict.map(|verdict| verdict.name()),
            flowmeter_score: scored.score,
        }
    }

    /// Writes the cells in the order of [`COLUMNS`].
    fn cells(&self, row: &mut String) -> fmt::Result {
        let text = |cell: Option<&str>| cell.unwrap_or(UNSET).to_owned();
        let number = |cell: Option<u16>| cell.map_or_else(|| UNSET.to_owned(), |number| number.to_string());
        write!(
            row,
            "{:.6}\t{}\t{}\t{}\t{}\t{}\t{}",
            self.ts, self.uid, self.orig_h, self.orig_p, self.resp_h, self.resp_p, self.proto
        )?;
        write!(
            row,
            "\t{UNSET}\t{:.6}\t{}\t{}\t{}\t{UNSET}\t{UNSET}\t{UNSET}\t{UNSET}",
            self.duration, self.orig_bytes, self.resp_bytes, self.conn_state
        )?;
        write!(
            row,
            "\t{}\t{}\t{}\t{}\t{UNSET}\t{}",
            self.orig_pkts, self.orig_ip_bytes, self.resp_pkts, self.resp_ip_bytes, self.ip_proto
        )?;
        writeln!(
            row,
            "\t{}\t{}\t{}\t{}\t{}",
            number(self.vlan),
            number(self.inner_vlan),
            text(self.community_id.as_deref()),
            text(self.flowmeter_verdict),
            self.flowmeter_score.map_or_else(|| UNSET.to_owned(), |score| score.to_string()),
        )
    }
}

/// Seconds, to the microsecond, as Zeek has them.
fn seconds(nanoseconds: u64) -> f64 {
    (nanoseconds / 1000) as f64 / 1e6
}

/// Zeek's form of an identifier: a `C`, and 17 digits of base 62.
fn uid(record: &FlowRecord) -> String {
    let [high, low] = [1, 2].map(|seed| u128::from(facts::number(record, seed)));
    let mut rest = high << 64 | low;
    let mut uid = String::with_capacity(1 + UID_DIGITS);
    uid.push('C');
    for _ in 0..UID_DIGITS {
        uid.push(BASE_62[(rest % 62) as usize].into());
        rest /= 62;
    }
    uid
}

/// The connection's state as Zeek documents `conn_state`
/// (<https://docs.zeek.org/en/master/scripts/base/protocols/conn/main.zeek.html>).
fn state(number: u8, originator: &Direction, responder: &Direction) -> &'static str {
    match number {
        protocol::TCP => tcp_state(originator, responder),
        protocol::UDP if originator.packets == 0 => "SHR",
        protocol::UDP if responder.packets == 0 => "S0",
        protocol::UDP => "SF",
        _ => "OTH",
    }
}

fn tcp_state(originator: &Direction, responder: &Direction) -> &'static str {
    // A side that has not sent a SYN is one whose beginning was not seen.
    let (tried, answered) = (originator.has(tcp_seen::SYN), responder.has(tcp_seen::SYN));
    let established = tried && answered && originator.has(tcp_seen::ESTABLISHED);
    let reset_by = |side: &Direction, other: &Direction| {
        side.has(tcp_seen::RST) && !other.has(tcp_seen::CLOSED_BY_RESET)
    };
    let closed = [originator, responder].map(|side| side.has(tcp_seen::FIN));
    if reset_by(responder, originator) {
        return match (tried, established) {
            (true, false) => "REJ",
            (false, _) => "RSTRH",
            (true, true) => "RSTR",
        };
    }
    if reset_by(originator, responder) {
        return if answered { "RSTO" } else { "RSTOS0" };
    }
    match closed {
        [true, true] => "SF",
        [true, false] => {
            if answered {
                "S2"
            } else {
                "SH"
            }
        }
        [false, true] => {
            if tried {
                "S3"
            } else {
                "SHR"
            }
        }
        [false, false] if established => "S1",
        [false, false] if tried && responder.packets == 0 => "S0",
        [false, false] => "OTH",
    }
}

/// How a line is written.
enum Style {
    Json,
    /// With the time of the last packet so far, once there is a header.
    Tabs(Option<u64>),
}

/// Writes conn.log.
pub struct Zeek {
    out: Box<dyn Write + Send>,
    style: Style,
    row: String,
}

impl Zeek {
    /// One JSON object a line on `out`.
    pub fn json(out: Box<dyn Write + Send>) -> Self {
        Self { out, style: Style::Json, row: String::new() }
    }

    /// Tab-separated values on `out`, between a header and a footer.
    pub fn tabs(out: Box<dyn Write + Send>) -> Self {
        Self { out, style: Style::Tabs(None), row: String::new() }
    }

    fn write_row(&mut self) -> Result<()> {
        let written = self.out.write_all(self.row.as_bytes()).context("cannot write conn.log");
        self.row.clear();
        written
    }
}

impl Sink for Zeek {
    fn takes_features(&self) -> bool {
        false
    }

    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        if let Stage::Checkpoint { .. } = scored.record.stage {
            return Ok(());
        }
        let connection = Connection::of(scored);
        match &mut self.style {
            Style::Json => {
                serde_json::to_writer(&mut self.out, &connection).context("cannot write conn.log")?;
                self.row.push('\n');
            }
            Style::Tabs(latest) => {
                let at = scored.record.last_seen();
                // Zeek opens a log when there is something to write, by the traffic's clock.
                if latest.is_none() {
                    header(&mut self.row, at);
                }
                *latest = Some(latest.map_or(at, |latest| latest.max(at)));
                // Writing to a String cannot fail.
                let _ = connection.cells(&mut self.row);
            }
        }
        self.write_row()
    }

    fn stats(&mut self, stats: &Stats) -> Result<()> {
        stats.log();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().context("cannot write conn.log")
    }

    fn finish(&mut self) -> Result<()> {
        if let Style::Tabs(latest) = &mut self.style
            && let Some(latest) = latest.take()
        {
            self.row = format!("#close\t{}\n", day_and_time(latest));
            self.write_row()?;
        }
        self.flush()
    }
}

/// The lines before the first connection.
fn header(text: &mut String, opened: u64) {
    text.push_str(
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n",
    );
    text.push_str(&format!("#open\t{}\n#fields", day_and_time(opened)));
    for (name, _) in COLUMNS {
        text.extend(["\t", name]);
    }
    text.push_str("\n#types");
    for (_, kind) in COLUMNS {
        text.extend(["\t", kind]);
    }
    text.push('\n');
}

/// A time as Zeek's headers have it, in UTC.
fn day_and_time(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_or_else(|_| UNSET.to_owned(), |t| t.strftime("%Y-%m-%d-%H-%M-%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A direction that has sent this many packets and shown these bits.
    fn side(packets: u64, seen: u32) -> Direction {
        Direction { packets, tcp_seen: seen, ..Direction::EMPTY }
    }

    #[test]
    fn states_are_those_that_zeek_documents() {
        use tcp_seen::{CLOSED, CLOSED_BY_RESET, ESTABLISHED as UP, FIN, RST, SYN};
        let reset = RST | CLOSED | CLOSED_BY_RESET;
        let rows = [
            ("S0", "attempt without an answer", side(1, SYN), side(0, 0)),
            ("S1", "established and not ended", side(2, SYN | UP), side(1, SYN)),
            ("SF", "begun and ended as it should be", side(3, SYN | UP | FIN), side(3, SYN | UP | FIN)),
            ("REJ", "attempt refused", side(1, SYN), side(1, reset)),
            ("REJ", "answered and reset by the responder at once", side(1, SYN), side(2, SYN | reset)),
            ("S2", "ended by the originator alone", side(3, SYN | UP | FIN), side(1, SYN)),
            ("S3", "ended by the responder alone", side(2, SYN | UP), side(2, SYN | UP | FIN)),
            ("RSTO", "reset by the originator", side(3, SYN | UP | reset), side(1, SYN)),
            ("RSTR", "reset by the responder", side(2, SYN | UP), side(2, SYN | UP | reset)),
            ("RSTO", "reset by both, the originator first", side(3, SYN | UP | reset), side(2, SYN | RST)),
            ("RSTR", "reset by both, the responder first", side(3, SYN | UP | RST), side(2, SYN | reset)),
            ("RSTOS0", "SYN and reset without an answer", side(2, SYN | reset), side(0, 0)),
            ("RSTRH", "SYN+ACK and reset; no SYN seen", side(0, 0), side(2, SYN | reset)),
            ("SH", "SYN and FIN without an answer", side(2, SYN | FIN), side(0, 0)),
            ("SHR", "SYN+ACK and FIN; no SYN seen", side(0, 0), side(2, SYN | FIN)),
            ("OTH", "the middle of a connection", side(4, UP), side(4, UP)),
        ];
        for (expected, what, originator, responder) in rows {
            assert_eq!(tcp_state(&originator, &responder), expected, "{what}");
        }
        let (some, none) = (side(1, 0), side(0, 0));
        assert_eq!(state(protocol::UDP, &some, &some), "SF");
        assert_eq!(state(protocol::UDP, &some, &none), "S0");
        assert_eq!(state(protocol::UDP, &none, &some), "SHR");
        assert_eq!(state(protocol::ICMP, &some, &some), "OTH");
    }
}
