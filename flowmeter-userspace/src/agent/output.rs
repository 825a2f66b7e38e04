//! The agent's end of the data: the pipeline with its log, which is opened after everything else is in place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::config::{Format, LiveConfig, OutputConfig, Rotation};
use crate::kernel::random_seed;
use crate::pipeline::Pipeline;
use crate::prefilter::Marker;
use crate::scoring::Scorer;
use crate::sink::log_file::{LogFile, LogStatus, put_aside};
use crate::sink::rotate::Rotating;
use crate::sink::{self, Labels, table::Extent};

/// A pipeline whose log is not open yet.
pub struct LogOutput {
    config: OutputConfig,
    path: PathBuf,
    scorer: Option<Scorer>,
    extent: Extent,
    marker: Marker,
    /// Whether malicious flows are dropped.
    blocks: bool,
    rotate: Option<Rotation>,
    /// None for a table.
    log: Option<LogFile>,
}

impl LogOutput {
    /// Checks where the log goes, which is told, and tells, by `status`.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn prepare(
        config: &LiveConfig,
        scorer: Option<Scorer>,
        status: &Arc<LogStatus>,
        blocks: bool,
    ) -> Result<Self> {
        let log = match config.output.format {
            Format::Jsonl | Format::Eve | Format::Zeek => {
                Some(LogFile::prepare(&config.log, Arc::clone(status), config.reopen)?)
            }
            Format::Csv | Format::Parquet | Format::ZeekTsv => None,
        };
        Ok(Self {
            config: config.output.clone(),
            blocks,
            path: config.log.clone(),
            extent: Extent {
                scored: scorer.is_some(),
                several: config.interfaces.len() > 1,
                ..Extent::default()
            },
            scorer,
            rotate: config.rotate,
            marker: Marker::new(config.prefilter.audit, random_seed()?),
            log,
        })
    }

    /// True if what surrounds a flow is asked for: for the columns, or by the model.
    pub fn needs_context(&self) -> bool {
        self.config.set.context || self.scorer.as_ref().is_some_and(|scorer| scorer.feature_set().context)
    }

    /// Opens the log.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn open(self) -> Result<Pipeline> {
        let Self { config, path, scorer, extent, marker, blocks, rotate, log } = self;
        let sink = match rotate {
            Some(rotation) => {
                let config = config.clone();
                let make = move |out| sink::make(out, &config, extent, Labels::default(), blocks);
                Box::new(Rotating::new(&path, rotation, Box::new(make))?)
            }
            None => sink::make(destination(log, &path)?, &config, extent, Labels::default(), blocks)?,
        };
        let sink = sink::with_exports(sink, &config.ipfix, false)?;
        let mut pipeline = Pipeline::new(config.set, scorer, sink);
        pipeline.mark_by(marker);
        Ok(pipeline)
    }
}

/// Where the one log or table goes.
fn destination(log: Option<LogFile>, path: &Path) -> Result<Box<dyn std::io::Write + Send>> {
    Ok(match log {
        Some(mut log) => {
            log.open()?;
            Box::new(log)
        }
        None => {
            if path != Path::new("-") {
                put_aside(path)?;
            }
            sink::open(path)?
        }
    })
}
