//! Where verdicts go: one writer for each format.

pub mod csv;
pub mod eve;
mod facts;
pub mod ipfix;
pub mod jsonl;
mod labels;
pub mod log_file;
pub mod parquet;
pub mod rotate;
pub mod table;
mod tee;
pub mod zeek;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

pub use self::labels::Labels;
use self::table::Extent;
use crate::config::{Format, OutputConfig, Target};
use crate::scoring::Scored;
use crate::stats::{AgentEvent, Stats};

/// A place where flows, verdicts and statistics are written.
pub trait Sink: Send {
    /// True if it writes the features; otherwise they need not be finished for it.
    fn takes_features(&self) -> bool {
        true
    }

    /// Writes one flow with its verdict.
    ///
    /// # Errors
    /// The place cannot be written to.
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()>;

    /// Writes statistics, where the format has a place for them.
    ///
    /// # Errors
    /// The place cannot be written to.
    fn stats(&mut self, stats: &Stats) -> Result<()>;

    /// Takes what happened to the agent. Formats that have no place for it leave it out.
    ///
    /// # Errors
    /// It cannot be written.
    fn agent(&mut self, _: &AgentEvent) -> Result<()> {
        Ok(())
    }

    /// Hands everything written so far to the system.
    ///
    /// # Errors
    /// The place cannot be written to.
    fn flush(&mut self) -> Result<()>;

    /// Writes what belongs at the end. Nothing is written after it.
    ///
    /// # Errors
    /// The place cannot be written to.
    fn finish(&mut self) -> Result<()> {
        self.flush()
    }
}

/// Makes the sink for a format. `blocks` says whether the packets of flows that are called malicious are dropped.
///
/// # Errors
/// The place cannot be written to.
pub fn make(
    out: Box<dyn Write + Send>,
    output: &OutputConfig,
    extent: Extent,
    labels: Labels,
    blocks: bool,
) -> Result<Box<dyn Sink>> {
    let &OutputConfig { format, set, features, timestamps, .. } = output;
    Ok(match format {
        Format::Jsonl => Box::new(jsonl::JsonLines::new(out, features.then(|| set.names()), labels)),
        Format::Csv => Box::new(csv::Csv::new(out, set, extent, labels)?),
        Format::Eve => Box::new(eve::Eve::new(out, blocks)),
        Format::Zeek => Box::new(zeek::Zeek::json(out)),
        Format::ZeekTsv => Box::new(zeek::Zeek::tabs(out)),
        Format::Parquet => Box::new(parquet::Parquet::new(out, set, extent, labels, timestamps)?),
    })
}

/// Adds an export to each of these collectors. `waits` says that flows come from captures, which can wait for a collector.
///
/// # Errors
/// A collector's address is unknown.
pub fn with_exports(sink: Box<dyn Sink>, targets: &[Target], waits: bool) -> Result<Box<dyn Sink>> {
    if targets.is_empty() {
        return Ok(sink);
    }
    let mut sinks = vec![sink];
    for target in targets {
        sinks.push(Box::new(ipfix::Ipfix::new(target, waits)?));
    }
    Ok(Box::new(tee::Tee(sinks)))
}

/// Opens a file for writing, in place of what is there; `-` is the standard output.
///
/// # Errors
/// The file cannot be created.
pub fn open(path: &Path) -> Result<Box<dyn Write + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::with_capacity(1 << 16, io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("cannot write to {}", path.display()))?;
    Ok(Box::new(BufWriter::with_capacity(1 << 16, file)))
}
