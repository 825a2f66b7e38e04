//! Comma-separated values (RFC 4180). Statistics have no place in them.

use std::io::Write;

use anyhow::{Context as _, Result};

use super::table::{Column, Extent, columns};
use super::{Labels, Sink};
use crate::endpoint::write_address;
use crate::features::{Cell, FeatureSet, Kind};
use crate::record::Stage;
use crate::scoring::Scored;
use crate::stats::Stats;
use crate::timestamp::timestamp;

/// Writes a table with a header.
pub struct Csv {
    out: Box<dyn Write + Send>,
    columns: Vec<Column>,
    labels: Labels,
    row: Vec<u8>,
    times: TimeWriter,
}

impl Csv {
    /// A table on `out` with the features of `set`.
    ///
    /// # Errors
    /// The header cannot be written.
    pub fn new(
        out: Box<dyn Write + Send>,
        set: &'static FeatureSet,
        extent: Extent,
        labels: Labels,
    ) -> Result<Self> {
        let columns = columns(set, Extent { labelled: labels.is_some(), ..extent });
        let mut csv = Self { out, columns, labels, row: Vec::new(), times: TimeWriter::default() };
        for i in 0..csv.columns.len() {
            text(&mut csv.row, csv.columns[i].name());
            csv.row.push(b',');
        }
        csv.write_row()?;
        Ok(csv)
    }

    /// Writes what has been collected, whose last byte is a comma.
    fn write_row(&mut self) -> Result<()> {
        if let Some(last) = self.row.last_mut() {
            *last = b'\n';
        }
        let written = self.out.write_all(&self.row).context("cannot write the table");
        self.row.clear();
        written
    }
}

impl Sink for Csv {
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        if let Stage::Checkpoint { .. } = scored.record.stage {
            return Ok(());
        }
        let known = self.labels.of(scored);
        let row = &mut self.row;
        for column in &self.columns {
            match column {
                // Most columns are features: these do not go by way of a cell.
                Column::Feature(index, Kind::Integer, _) => integer(row, scored.features[*index] as i64),
                Column::Feature(index, Kind::Real, _) => real(row, scored.features[*index]),
                _ => match column.cell(scored, known) {
                    Cell::None => {}
                    Cell::Integer(number) => integer(row, number),
                    Cell::Real(number) => real(row, number),
                    Cell::Text(words) => text(row, words),
                    Cell::Owned(words) => text(row, &words),
                    Cell::Address(address) => write_address(row, address),
                    Cell::Time(time) => self.times.write(row, time),
                },
            }
            row.push(b',');
        }
        self.write_row()
    }

    fn stats(&mut self, stats: &Stats) -> Result<()> {
        stats.log();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().context("cannot write the table")
    }
}

/// Writes times. Flows that follow each other often begin in the same second, whose text is kept.
#[derive(Default)]
struct TimeWriter {
    second: u64,
    text: String,
}

impl TimeWriter {
    fn write(&mut self, row: &mut Vec<u8>, time: u64) {
        const SECOND: u64 = 1_000_000_000;
        if self.text.is_empty() || self.second != time / SECOND {
            self.second = time / SECOND;
            self.text = timestamp(self.second * SECOND);
        }
        // Nine digits, always: readers guess a column's format from its first cells.
        row.extend_from_slice(self.text.trim_end_matches('Z').as_bytes());
        row.push(b'.');
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(time % SECOND);
        row.resize(row.len() + 9 - text.len(), b'0');
        row.extend_from_slice(text.as_bytes());
        row.push(b'Z');
    }
}

#[inline]
fn integer(row: &mut Vec<u8>, number: i64) {
    // Most cells of most flows are one digit, and a call to copy it takes longer than to write it.
    if (0..10).contains(&number) {
        row.push(b'0' + number as u8);
        return;
    }
    row.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The shortest text that reads back as the same number, and as a real one: whole numbers have a point, too, so that
/// readers that guess a column's type from its first cells guess right.
#[inline]
fn real(row: &mut Vec<u8>, number: f64) {
    // Below 2^53 the conversion is exact.
    let whole = number as i64;
    if whole as f64 == number && whole.unsigned_abs() < 1 << 53 {
        integer(row, whole);
        row.extend_from_slice(b".0");
    } else {
        row.extend_from_slice(zmij::Buffer::new().format(number).as_bytes());
    }
}

/// Quoted where commas, quotes or line breaks ask for it.
fn text(row: &mut Vec<u8>, words: &str) {
    if !words.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        row.extend_from_slice(words.as_bytes());
        return;
    }
    row.push(b'"');
    for byte in words.bytes() {
        if byte == b'"' {
            row.push(b'"');
        }
        row.push(byte);
    }
    row.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_as_they_were() {
        for number in [0.0, -1.0, 0.1, 1.0 / 3.0, 1e-7, 9_007_199_254_740_993.0, 1e300, -2.5, 4_294_967_296.0]
        {
            let mut row = Vec::new();
            real(&mut row, number);
            let text = String::from_utf8(row).unwrap();
            assert_eq!(text.parse(), Ok(number), "{number} was written as {text}");
            assert!(text.contains(['.', 'e']), "{number} was written as {text}, a whole number");
        }
    }

    #[test]
    fn times_are_those_of_the_log() {
        let mut clock = TimeWriter::default();
        for time in [0, 1, 999_999_999, 1_000_000_000, 1_700_000_000_120_000_000, 1_700_000_000_000_000_001] {
            let mut row = Vec::new();
            clock.write(&mut row, time);
            let text = String::from_utf8(row).unwrap();
            assert_eq!(text.parse::<jiff::Timestamp>().unwrap(), timestamp(time).parse().unwrap());
            assert_eq!(text.len(), "2026-01-01T00:00:00.000000000Z".len(), "{text}");
        }
    }

    #[test]
    fn texts_read_back_as_they_were() {
        let hard = ["plain", "a,b", "say \"so\"", "two\nlines", ""];
        let mut row = Vec::new();
        for words in hard {
            text(&mut row, words);
            row.push(b',');
        }
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&row[..row.len() - 1]);
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(record.iter().collect::<Vec<_>>(), hard);
    }
}
