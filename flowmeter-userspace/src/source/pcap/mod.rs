//! Flows of a capture: the shared parser, update and lifecycle over the host's flow table, with the capture's own clock.

mod clock;
mod hash_index;
mod timer_wheel;

pub mod flow_table;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use flowmeter_common::flow::Entry;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::lifecycle::{EndReason, Timeouts};
use flowmeter_common::parse::{ParseOptions, parse_link};

pub use self::clock::{Anomalies, Leap};
use self::clock::{CaptureClock, ReadingChange, Stamps};
use self::flow_table::{FlowSink, Flows, Parsed, TOGETHER, Totals};
use crate::capture::CaptureReader;
use crate::context::Context;
use crate::record::{FlowRecord, Stage};

/// Frames between two reports of progress.
const PROGRESS_PERIOD: u64 = 65_536;

/// How captures are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadSettings {
    /// When flows end.
    pub timeouts: Timeouts,
    /// How deep packets are looked into.
    pub look: ParseOptions,
    /// What surrounds a flow is asked for.
    pub context: bool,
    /// Flows are given at their checkpoints, too, as the agent on an interface sees them.
    pub checkpoints: bool,
}

/// Seed of the context's hashes: a capture has no adversary who could learn it, and a result that can be repeated.
const SEED: u64 = 0x1319_8a2e_0370_7344;

/// Makes records of a capture's entries, with what surrounds them if that is asked for.
pub struct Recorder<G> {
    context: Option<Context>,
    checkpoints: bool,
    stamps: Stamps,
    give: G,
}

impl<G: FnMut(FlowRecord) -> Result<()>> Recorder<G> {
    /// Records go to `give`, of flows that have ended.
    pub fn new(context: bool, give: G) -> Self {
        Self {
            context: context.then(|| Context::new(SEED)),
            checkpoints: false,
            stamps: Stamps::default(),
            give,
        }
    }

    /// If they are asked for, also of flows that live, at their checkpoints.
    pub fn at_checkpoints(self, checkpoints: bool) -> Self {
        Self { checkpoints, ..self }
    }

    fn record(&mut self, entry: &Entry, stage: Stage, now: u64) -> Result<()> {
        let context = self.context.as_mut().map(|context| Box::new(context.around(entry, now)));
        let clock_offset = self.stamps.offset(entry);
        (self.give)(FlowRecord { entry: *entry, stage, clock_offset, context })
    }
}

impl<G: FnMut(FlowRecord) -> Result<()>> FlowSink for Recorder<G> {
    fn opened(&mut self, entry: &Entry, now: u64) {
        self.stamps.opened(entry);
        if let Some(context) = &mut self.context {
            context.opened(entry, now);
        }
    }

    fn ending(&mut self, entry: &Entry, now: u64) {
        if let Some(context) = &mut self.context {
            context.ended(entry, now);
        }
    }

    fn checkpoint(&mut self, entry: &Entry, now: u64) -> Result<()> {
        match self.checkpoints {
            // There is no slot that a verdict could go into.
            true => self.record(entry, Stage::Checkpoint { entry: 0 }, now),
            false => Ok(()),
        }
    }

    fn give(&mut self, entry: &Entry, why: EndReason, now: u64) -> Result<()> {
        self.record(entry, Stage::End(why), now)?;
        self.stamps.ended(entry);
        Ok(())
    }
}

/// Result of reading a capture.
#[derive(Debug, Default)]
pub struct Summary {
    /// What was counted.
    pub totals: Totals,
    /// True if the file ends within a packet.
    pub cut_short: bool,
    /// True if reading was stopped from outside.
    pub stopped: bool,
    /// What was taken otherwise than the file says it.
    pub note: Option<&'static str>,
    /// Where its clock was wrong.
    pub clock: Anomalies,
    /// Why it could not be read, or not to its end.
    pub problem: Option<anyhow::Error>,
}

/// Reads a capture to its end, or until `stop` is set; flows go to `give` as they end, in order of their ends as far as
/// a quarter of a second tells them apart, then of their beginnings.
///
/// `progress` is told the bytes of the file read so far, now and then. A capture that cannot be read, or not to its
/// end, gives the flows that could be read; [`Summary::problem`] says what is wrong.
///
/// # Errors
/// `give` fails.
pub fn read(
    path: &Path,
    settings: &ReadSettings,
    stop: &Arc<AtomicBool>,
    give: impl FnMut(FlowRecord) -> Result<()>,
    mut progress: impl FnMut(u64),
) -> Result<Summary> {
    let mut summary = Summary::default();
    let mut flows = Flows::new(settings.timeouts);
    let mut give = Recorder::new(settings.context, give).at_checkpoints(settings.checkpoints);
    let mut reader = match CaptureReader::open_until(path, Arc::clone(stop)) {
        Ok(reader) => reader,
        Err(problem) => {
            match stop.load(Ordering::Relaxed) {
                true => summary.stopped = true,
                false => summary.problem = Some(problem),
            }
            return Ok(summary);
        }
    };
    let mut batch: Vec<Parsed> = Vec::with_capacity(TOGETHER + 3);
    let mut clock = CaptureClock::new();
    let mut frames = 0_u64;
    loop {
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(problem) => {
                summary.problem = Some(problem);
                break;
            }
        };
        let slice = SliceFrame::new(frame.data, frame.wire_len as usize);
        clock.take((parse_link(&slice, frame.link_type, settings.look), frame.timestamp_ns), &mut batch);
        if batch.len() >= TOGETHER {
            count(&mut flows, &mut batch, clock.changes(), &mut give)?;
        }
        frames += 1;
        if frames.is_multiple_of(PROGRESS_PERIOD) {
            progress(reader.position());
            if stop.load(Ordering::Relaxed) {
                summary.stopped = true;
                break;
            }
        }
    }
    clock.finish(&mut batch);
    count(&mut flows, &mut batch, clock.changes(), &mut give)?;
    summary.clock = clock.anomalies();
    summary.note = reader.note();
    // A pipe ends wherever it is when it is to stop.
    summary.stopped |= reader.size().is_none() && stop.load(Ordering::Relaxed);
    summary.cut_short = reader.truncated() && !summary.stopped;
    // Its window's memory serves to sort what is left.
    drop(reader);
    summary.totals = flows.finish(&mut give)?;
    Ok(summary)
}

/// Counts a batch of packets in flows; changes of the clock's reading are noted between the packets that they lie between.
fn count<G: FnMut(FlowRecord) -> Result<()>>(
    flows: &mut Flows,
    batch: &mut Vec<Parsed>,
    changes: impl Iterator<Item = ReadingChange>,
    give: &mut Recorder<G>,
) -> Result<()> {
    let mut done = 0;
    for change in changes {
        flows.packets(&batch[done..change.packets], give)?;
        give.stamps.change(change);
        done = change.packets;
    }
    flows.packets(&batch[done..], give)?;
    batch.clear();
    Ok(())
}

/// Asks for all cache lines of a value, without waiting for them.
#[inline]
fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<T>().div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint, which cannot fault; the address lies within the value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().add(line * 64)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
