//! Comma-separated tables, read back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context as _, Result, bail};

use super::{Reading, Row};

/// A row, and where each column is.
struct CsvRow<'a> {
    columns: &'a HashMap<String, usize>,
    cells: &'a csv::StringRecord,
}

impl Row for CsvRow<'_> {
    fn text(&self, column: &str) -> Option<Cow<'_, str>> {
        let cell = self.cells.get(*self.columns.get(column)?)?;
        (!cell.is_empty()).then_some(Cow::Borrowed(cell))
    }
}

/// Reads all rows below a header.
pub fn read(
    input: impl Read,
    name: &str,
    reading: &mut Reading,
    take: &mut dyn FnMut(&dyn Row) -> Result<()>,
) -> Result<()> {
    let mut reader = csv::Reader::from_reader(input);
    let header = reader.headers().with_context(|| format!("cannot read {name}"))?;
    let columns: HashMap<String, usize> = header.iter().enumerate().map(|(i, c)| (c.to_owned(), i)).collect();
    let mut cells = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut cells) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                reading.rows += 1;
                take(&CsvRow { columns: &columns, cells: &cells })?;
            }
            Err(problem) if problem.is_io_error() => bail!("cannot read {name}: {problem}"),
            Err(problem) => reading.damage(name, &problem),
        }
    }
}
