//! Flows that FlowMeter has written, read back: the verdict log and both tables, one [`Row`] a flow.
//!
//! The first bytes tell the format, as with captures. A row that cannot be read is counted and left out. A file that cannot
//! be read is an error: figures over half of the files would look like figures over all of them.

mod csv;
mod jsonl;
mod parquet;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::capture::is_capture;

/// Bytes read at a time.
const CHUNK: usize = 1 << 18;
/// What a Parquet file begins with.
const PARQUET: &[u8] = b"PAR1";

/// A line of a log or of a table.
pub trait Row {
    /// The cell of a column as text; None if there is no such column or nothing in it.
    fn text(&self, column: &str) -> Option<Cow<'_, str>>;

    /// The cell of a column as a number; None if it holds no number.
    fn number(&self, column: &str) -> Option<f64> {
        self.text(column)?.trim().parse().ok()
    }

    /// The value of a feature; None if features were not written.
    fn feature(&self, name: &str) -> Option<f64> {
        self.number(name)
    }
}

/// What a file was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Packets; nothing was read.
    Capture,
    /// Flows; all were read.
    Flows,
}

/// How reading went.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Rows read.
    pub rows: u64,
    /// Rows that are damaged and were left out.
    pub damaged: u64,
    /// Where and why, for the first of them.
    pub first_damage: Option<String>,
}

impl Reading {
    /// Notes a row that cannot be read.
    fn damage(&mut self, place: &str, problem: &dyn std::fmt::Display) {
        self.damaged += 1;
        self.first_damage.get_or_insert_with(|| format!("{place}: {problem}"));
    }
}

/// Opens a file that may be compressed by gzip or zstd, as rotated logs are; `-` is the standard input.
///
/// # Errors
/// It cannot be read.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut input: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::with_capacity(CHUNK, io::stdin().lock()))
    } else {
        Box::new(BufReader::with_capacity(CHUNK, File::open(path)?))
    };
    Ok(match input.fill_buf()? {
        [0x1f, 0x8b, ..] => {
            Box::new(BufReader::with_capacity(CHUNK, flate2::bufread::MultiGzDecoder::new(input)))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(BufReader::with_capacity(CHUNK, zstd::Decoder::with_buffer(input)?))
        }
        _ => input,
    })
}

/// Reads a file and hands each row to `take`; `-` is the standard input. A capture is recognised and not read.
///
/// # Errors
/// The file cannot be read, or is neither; `take` fails.
pub fn read(
    path: &Path,
    reading: &mut Reading,
    take: &mut dyn FnMut(&dyn Row) -> Result<()>,
) -> Result<Source> {
    let name = path.display();
    let mut input = open(path).with_context(|| format!("cannot open {name}"))?;
    let start = input.fill_buf().with_context(|| format!("cannot read {name}"))?;
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        None => bail!("{name} is empty"),
        Some(_) if is_capture(start) => return Ok(Source::Capture),
        Some(_) if start.starts_with(PARQUET) => {
            drop(input);
            ensure!(path.as_os_str() != "-", "a Parquet table cannot be read from a pipe: name its file");
            parquet::read(path, reading, take)?;
        }
        Some(b'{') => jsonl::read(input, &name.to_string(), reading, take)?,
        Some(_) if !start.contains(&0) => csv::read(input, &name.to_string(), reading, take)?,
        Some(_) => {
            bail!(
                "{name} begins with {:02x?}: expected a log (JSON lines), a table (CSV or Parquet) or a capture",
                &start[..start.len().min(8)]
            )
        }
    }
    Ok(Source::Flows)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn compressed_logs_are_read_as_plain_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "{\"event\":\"flow\",\"verdict\":\"benign\"}\n".repeat(3);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).expect("memory");
        let gzip = gzip.finish().expect("memory");
        let zstd = zstd::encode_all(text.as_bytes(), 1).expect("memory");
        let twice = [&gzip[..], &gzip].concat();
        for (packed, rows) in [(text.as_bytes(), 3), (&gzip, 3), (&zstd, 3), (&twice, 6)] {
            let path = folder.path().join("log");
            std::fs::write(&path, packed).expect("a file");
            let mut reading = Reading::default();
            let source = read(&path, &mut reading, &mut |_| Ok(())).expect("a log");
            assert_eq!((source, reading.rows, reading.damaged), (Source::Flows, rows, 0));
        }
        // Cut off: what can be read is not taken for all of it.
        let path = folder.path().join("cut");
        std::fs::write(&path, &gzip[..gzip.len() - 9]).expect("a file");
        assert!(open(&path).and_then(|mut log| log.read_to_end(&mut Vec::new())).is_err());
    }
}
