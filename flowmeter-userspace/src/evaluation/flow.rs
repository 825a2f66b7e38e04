//! A labelled flow: what a row of a log or table says of it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::flow_log::Row;
use crate::model::Verdict;
use crate::truth::{KnownLabel, label};

/// A verdict on a flow, at its end or while it lived.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoggedVerdict {
    pub(super) score: f64,
    pub(super) verdict: Verdict,
    /// Bytes so far.
    pub(super) bytes: f64,
    /// Packets so far.
    pub(super) packets: f64,
}

/// A flow that counts.
#[derive(Clone, Debug)]
pub(super) struct LabelledFlow {
    pub(super) end: LoggedVerdict,
    /// At its checkpoints, in their order, as far as they were written.
    pub(super) checkpoints: Vec<LoggedVerdict>,
}

/// Flows that count, by source, category and whether they are malicious.
pub(super) type Groups = BTreeMap<(String, String, bool), Vec<LabelledFlow>>;

/// A part of a flow's traffic, and the verdict that stood when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) score: f64,
    pub(super) verdict: Verdict,
    /// Bytes and packets.
    pub(super) load: [f64; 2],
}

impl LabelledFlow {
    /// What a pre-filter could spare of it: the traffic after each checkpoint's verdict. If verdicts on living flows were not
    /// written, it is the flow as a whole, by its last verdict.
    pub(super) fn parts(&self, by_checkpoints: bool) -> Vec<Part> {
        if !by_checkpoints {
            let LoggedVerdict { score, verdict, bytes, packets } = self.end;
            return vec![Part { score, verdict, load: [bytes, packets] }];
        }
        let ends = self.checkpoints.iter().skip(1).chain([&self.end]);
        let part = |(at, end): (&LoggedVerdict, &LoggedVerdict)| Part {
            score: at.score,
            verdict: at.verdict,
            load: [(end.bytes - at.bytes).max(0.0), (end.packets - at.packets).max(0.0)],
        };
        self.checkpoints.iter().zip(ends).map(part).collect()
    }
}

/// The truth that stands in the flow itself.
pub(super) fn own_truth(row: &dyn Row) -> Result<Option<KnownLabel>> {
    let Some(text) = row.text("label") else { return Ok(None) };
    let observed = || row.text("observed").map_or_else(|| "all".to_owned(), Into::into);
    Ok(Some(KnownLabel {
        malicious: label(Some(&text))?,
        source: row.text("source").map_or_else(observed, Into::into),
        category: row.text("category").map_or_else(|| "all".to_owned(), Into::into),
    }))
}

/// The verdict in this row; None if there is none.
pub(super) fn logged_verdict(row: &dyn Row) -> Result<Option<LoggedVerdict>> {
    let verdict = match row.text("verdict").as_deref() {
        Some("malicious") => Verdict::Malicious,
        Some("benign") => Verdict::Benign,
        Some("unknown") => Verdict::Unknown,
        None | Some("none") => return Ok(None),
        Some(other) => bail!("invalid verdict {other:?}: expected malicious, benign, unknown or none"),
    };
    let Some(score) = row.number("score") else { return Ok(None) };
    if !(0.0..=1.0).contains(&score) {
        bail!("invalid score {score}: expected 0 to 1");
    }
    // The log and our own tables name them differently; tables of other tools have neither.
    let either = |one, other| row.number(one).or_else(|| row.number(other)).unwrap_or(0.0).max(0.0);
    Ok(Some(LoggedVerdict {
        score,
        verdict,
        bytes: either("flow_bytes", "bytes"),
        packets: either("flow_packets", "packets"),
    }))
}

/// What tells a flow from all others: the same while it lives and at its end.
pub(super) fn identity(row: &dyn Row) -> String {
    const COLUMNS: [&str; 12] = [
        "observed",
        "timestamp",
        "community_id",
        "src_ip",
        "src_port",
        "dst_ip",
        "dst_port",
        "protocol",
        "vlan",
        "inner_vlan",
        "tunnel",
        "tunnel_id",
    ];
    let mut identity = String::new();
    for column in COLUMNS {
        identity.push_str(row.text(column).as_deref().unwrap_or_default());
        identity.push('\n');
    }
    identity
}

/// A flow in words, for a message.
pub(super) fn describe(row: &dyn Row) -> String {
    let cell = |name: &str| row.text(name).map_or_else(|| "?".to_owned(), Into::into);
    format!(
        "{} port {} to {} port {} (protocol {}, observed {})",
        cell("src_ip"),
        cell("src_port"),
        cell("dst_ip"),
        cell("dst_port"),
        cell("protocol"),
        cell("observed")
    )
}
