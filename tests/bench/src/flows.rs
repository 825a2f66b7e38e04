//! Flows for the benchmarks of scoring: those of recordings, again and again at other times, so that hardly two are alike.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;
use flowmeter::config::ScoringConfig;
use flowmeter::features::FeatureSet;
use flowmeter::record::FlowRecord;
use flowmeter::scoring::{Scorer, ScorerLoader};
use flowmeter::source::pcap;
use harness::replay::{Frame, read_capture, write_capture};
use harness::samples;

/// Which model is measured, on what.
#[derive(Args)]
pub struct Options {
    /// The ONNX model; by default the built-in one.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Captures to take the flows from; by default the recorded sample.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    capture: Vec<PathBuf>,
}

impl Options {
    /// The model's scorer.
    ///
    /// # Errors
    /// ONNX Runtime or the model is not there, or broken.
    pub fn scorer(&self) -> Result<Scorer> {
        let scoring = ScoringConfig { model: self.model.clone(), ..ScoringConfig::default() };
        ScorerLoader::new(&scoring)?.load_first()
    }

    /// At least so many flows, with what the features of `set` ask for, in random order: first as recorded, then with every gap between packets up to twice as long
    /// or half as long.
    ///
    /// # Errors
    /// A capture cannot be read.
    pub fn flows(&self, count: usize, set: &FeatureSet) -> Result<Vec<FlowRecord>> {
        let settings = pcap::ReadSettings { context: set.context, ..pcap::ReadSettings::default() };
        let mut captures = if self.capture.is_empty() { samples()? } else { self.capture.clone() };
        captures.sort();
        let recorded: Vec<Vec<Frame>> =
            captures.iter().map(|path| read_capture(path)).collect::<Result<_>>()?;
        let (mut random, mut flows) = (fastrand::Rng::with_seed(6), Vec::new());
        let path = tempfile::tempdir()?;
        let path = path.path().join("varied.pcap");
        for round in 0.. {
            let before = flows.len();
            for frames in &recorded {
                let frames = if round == 0 { frames.clone() } else { varied(frames, &mut random) };
                write_capture(&path, &frames)?;
                let give = |record: FlowRecord| {
                    flows.push(record);
                    Ok(())
                };
                pcap::read(&path, &settings, &Arc::default(), give, |_| ())?;
            }
            ensure!(flows.len() > before, "there are no flows in these captures");
            if flows.len() >= count {
                break;
            }
        }
        random.shuffle(&mut flows);
        Ok(flows)
    }
}

/// The same packets at other distances.
fn varied(frames: &[Frame], random: &mut fastrand::Rng) -> Vec<Frame> {
    let mut before = frames.first().map_or(0, |frame| frame.timestamp_ns);
    let mut now = before;
    let mut vary = |frame: &Frame| {
        let gap = frame.timestamp_ns.saturating_sub(before) as f64;
        now += (gap * 2_f64.powf(random.f64() * 2.0 - 1.0)) as u64;
        before = frame.timestamp_ns;
        Frame { timestamp_ns: now, ..frame.clone() }
    };
    frames.iter().map(&mut vary).collect()
}

/// Share of rows that no row before them equals.
pub fn distinct(rows: &[f32], width: usize) -> f64 {
    let mut seen = HashSet::new();
    let all = rows.len() / width;
    let new = rows
        .chunks_exact(width)
        .filter(|row| seen.insert(row.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
    new.count() as f64 / all as f64
}
