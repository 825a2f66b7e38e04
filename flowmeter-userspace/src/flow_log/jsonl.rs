//! The verdict log, read back.

use std::borrow::Cow;
use std::io::BufRead;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use super::{Reading, Row};

/// An object of the log.
struct JsonRow(Map<String, Value>);

impl Row for JsonRow {
    fn text(&self, column: &str) -> Option<Cow<'_, str>> {
        match self.0.get(column)? {
            Value::Null => None,
            Value::String(text) => Some(Cow::Borrowed(text)),
            other => Some(Cow::Owned(other.to_string())),
        }
    }

    fn number(&self, column: &str) -> Option<f64> {
        self.0.get(column)?.as_f64()
    }

    fn feature(&self, name: &str) -> Option<f64> {
        self.0.get("features")?.get(name)?.as_f64()
    }
}

/// Reads all lines.
pub fn read(
    mut input: impl BufRead,
    name: &str,
    reading: &mut Reading,
    take: &mut dyn FnMut(&dyn Row) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if input.read_until(b'\n', &mut line).with_context(|| format!("cannot read {name}"))? == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(object) => {
                reading.rows += 1;
                take(&JsonRow(object))?;
            }
            Err(problem) => reading.damage(&format!("{name}, line {number}"), &problem),
        }
    }
    Ok(())
}
