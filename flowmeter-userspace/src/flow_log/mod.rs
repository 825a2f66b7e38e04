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

use anyhow::{Context as _, Result, bail};

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
    let mut input: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::with_capacity(CHUNK, io::stdin().lock()))
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        Box::new(BufReader::with_capacity(CHUNK, file))
    };
    let start = input.fill_buf().with_context(|| format!("cannot read {name}"))?;
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        None => bail!("{name} is empty"),
        Some(_) if is_capture(start) => return Ok(Source::Capture),
        Some(_) if start.starts_with(PARQUET) => {
            drop(input);
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
