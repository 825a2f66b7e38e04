//! Reads rows of the verdict log: what a flow is called, what it counted, and whether the books balance.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One end of a flow: address and port.
pub type End = (IpAddr, u16);

/// A flow's name, the same whichever side began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conversation {
    /// IANA protocol number.
    pub protocol: u64,
    /// The smaller end.
    pub low: End,
    /// The larger end.
    pub high: End,
}

/// What a flow counted, with the direction in which it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counted {
    /// IANA protocol number.
    pub protocol: u64,
    /// Who began.
    pub source: End,
    /// With whom.
    pub destination: End,
    /// Packets from source to destination.
    pub packets_forward: u64,
    /// Packets back.
    pub packets_backward: u64,
    /// Bytes of IP packets from source to destination.
    pub bytes_forward: u64,
    /// Bytes back.
    pub bytes_backward: u64,
}

impl Counted {
    /// Of a `flow` or `verdict` row.
    pub fn of(row: &Value) -> Result<Self> {
        let counted = Self {
            protocol: number(row, "protocol")?,
            source: (address(row, "src_ip")?, number(row, "src_port")? as u16),
            destination: (address(row, "dst_ip")?, number(row, "dst_port")? as u16),
            packets_forward: number(row, "forward_packets")?,
            packets_backward: number(row, "backward_packets")?,
            bytes_forward: number(row, "forward_bytes")?,
            bytes_backward: number(row, "backward_bytes")?,
        };
        ensure!(
            number(row, "packets")? == counted.packets_forward + counted.packets_backward
                && number(row, "bytes")? == counted.bytes_forward + counted.bytes_backward,
            "the directions do not sum up to the flow: {row}"
        );
        Ok(counted)
    }

    /// The flow's name.
    pub fn conversation(&self) -> Conversation {
        let (low, high) = (self.source.min(self.destination), self.source.max(self.destination));
        Conversation { protocol: self.protocol, low, high }
    }
}

/// A whole number of a row.
pub fn number(row: &Value, name: &str) -> Result<u64> {
    row[name].as_u64().with_context(|| format!("`{name}` is missing or no number in {row}"))
}

/// A text of a row.
pub fn text<'a>(row: &'a Value, name: &str) -> Result<&'a str> {
    row[name].as_str().with_context(|| format!("`{name}` is missing or no text in {row}"))
}

fn address(row: &Value, name: &str) -> Result<IpAddr> {
    text(row, name)?.parse().with_context(|| format!("`{name}` of {row}"))
}

/// The accounting of a `stats` row, summed over interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Packets that reached a program.
    pub seen: u64,
    /// Packets counted in flows.
    pub counted: u64,
    /// Packets for which the table had no slot.
    pub folded: u64,
    /// Packets skipped for a reason.
    pub skipped: u64,
}

/// Reads a `stats` row and fails unless `seen = counted + folded + skipped` on every interface.
pub fn identity(stats: &Value) -> Result<Books> {
    let interfaces = stats["interfaces"].as_array().context("the `stats` row has no `interfaces`")?;
    ensure!(!interfaces.is_empty(), "the `stats` row names no interface: {stats}");
    let mut sum = Books::default();
    for entry in interfaces {
        let books = Books {
            seen: number(entry, "seen")?,
            counted: number(entry, "counted")?,
            folded: number(entry, "folded")?,
            skipped: number(entry, "skipped")?,
        };
        ensure!(
            books.seen == books.counted + books.folded + books.skipped,
            "the books do not balance: {entry}"
        );
        if let Some(reasons) = entry["skipped_by_reason"].as_object() {
            let by_reason: u64 = reasons.values().filter_map(Value::as_u64).sum();
            ensure!(
                by_reason == books.skipped,
                "the reasons sum up to {by_reason}, not to `skipped`: {entry}"
            );
        }
        sum.seen += books.seen;
        sum.counted += books.counted;
        sum.folded += books.folded;
        sum.skipped += books.skipped;
    }
    Ok(sum)
}
