//! Comma-separated values: who, the verdict, and every feature of a set. Statistics have no place in it.

use std::io::Write;

use anyhow::{Context as _, Result};

use super::{Sink, timestamp};
use crate::features::FeatureSet;
use crate::record::Stage;
use crate::stats::Stats;
use crate::verdict::Scored;

/// Columns before the features.
pub const IDENTITY: [&str; 14] = [
    "observed",
    "timestamp",
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
    "protocol",
    "vlan",
    "end_reason",
    "flow_packets",
    "flow_bytes",
    "verdict",
    "score",
    "model",
];

/// Writes a table with a header.
pub struct Csv {
    out: csv::Writer<Box<dyn Write + Send>>,
    fields: csv::StringRecord,
}

impl Csv {
    /// A table on `out` with the features of `set`.
    ///
    /// # Errors
    /// The header cannot be written.
    pub fn new(out: Box<dyn Write + Send>, set: &FeatureSet) -> Result<Self> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(IDENTITY.into_iter().chain(set.names())).context("cannot write the table")?;
        Ok(Self { out, fields: csv::StringRecord::new() })
    }
}

impl Sink for Csv {
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        let record = scored.record;
        let Stage::End(why) = record.stage else {
            return Ok(());
        };
        let (source, destination) = (record.source(), record.destination());
        let fields = &mut self.fields;
        fields.clear();
        fields.push_field(scored.observed.unwrap_or(""));
        fields.push_field(&timestamp(record.first_seen()));
        fields.push_field(&source.address.to_string());
        fields.push_field(&source.port.to_string());
        fields.push_field(&destination.address.to_string());
        fields.push_field(&destination.port.to_string());
        fields.push_field(&record.entry.key.protocol.to_string());
        fields.push_field(&record.vlans()[0].map_or(String::new(), |vlan| vlan.to_string()));
        fields.push_field(why.name());
        fields.push_field(&record.entry.state.packets().to_string());
        fields.push_field(&record.entry.state.bytes().to_string());
        fields.push_field(scored.verdict.map_or("none", |v| v.name()));
        fields.push_field(&scored.score.map_or(String::new(), |score| score.to_string()));
        fields.push_field(scored.model.unwrap_or(""));
        let mut buffer = ryu_text::Buffer::default();
        for &value in scored.features {
            fields.push_field(buffer.text(value));
        }
        self.out.write_record(&*fields).context("cannot write the table")
    }

    fn stats(&mut self, _stats: &Stats) -> Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().context("cannot write the table")
    }
}

/// The shortest text that reads back as the same number.
mod ryu_text {
    use std::fmt::Write as _;

    #[derive(Default)]
    pub struct Buffer(String);

    impl Buffer {
        pub fn text(&mut self, value: f64) -> &str {
            self.0.clear();
            // Writing to a String cannot fail. Rust prints the shortest round-trip form, without an exponent.
            let _ = write!(self.0, "{value}");
            &self.0
        }
    }
}
