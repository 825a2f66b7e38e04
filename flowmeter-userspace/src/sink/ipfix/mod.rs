//! Export of flows that have ended to an IPFIX collector (RFC 7011), beside the log.
//!
//! A thread of its own sends; between it and the pipeline is a short queue. When that is full, records are left out and
//! counted: nothing behind the export may slow the pipeline. What was left out leaves a gap in the sequence numbers, so
//! that the collector sees it, too.

mod encode;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::encode::{IpfixMessage, MessageBuilder};
use self::transport::Session;
use super::Sink;
use crate::config::Target;
use crate::count::count;
use crate::scoring::Scored;
use crate::stats::Stats;

pub use self::encode::ENTERPRISE;

/// Messages that wait for the thread: 1.4 MB, about 17,000 records.
const QUEUE: usize = 1024;
/// How long a capture's flows wait for room in the queue before they are left out.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what waits may still be sent when all has been written.
const LAST_CALL: Duration = Duration::from_secs(3);

/// Records by what became of them.
#[derive(Debug, Default)]
pub(super) struct ExportCounts {
    /// Handed to the network.
    sent: AtomicU64,
    /// The queue was full.
    queue_full: AtomicU64,
    /// The network or the collector did not take them.
    refused: AtomicU64,
}

impl ExportCounts {
    /// Records lost here.
    fn lost(&self) -> u64 {
        self.queue_full.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed)
    }
}

/// A message on its way to the thread.
pub(super) struct Queued {
    message: IpfixMessage,
    /// Records exported before it, lost ones included.
    first: u64,
}

/// Exports flows.
pub struct Ipfix {
    target: Target,
    records: MessageBuilder,
    /// None once all has been written.
    queue: Option<SyncSender<Queued>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<ExportCounts>,
    /// Records given to the queue, or lost at it.
    exported: u64,
    /// Captures can wait; living traffic does not.
    waits: bool,
    /// Records lost when that was last said.
    said: u64,
}

impl Ipfix {
    /// An export to `target`. `waits` says that flows come from captures, which can wait for a slow collector for a while.
    ///
    /// # Errors
    /// The address is unknown, or no thread can be had. A collector that is not there yet is no error.
    pub fn new(target: &Target, waits: bool) -> Result<Self> {
        let counts = Arc::new(ExportCounts::default());
        let session = Session::new(target, Arc::clone(&counts))?;
        let (queue, receiver) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("ipfix".to_owned())
            .spawn(move || send(&receiver, session))
            .context("cannot start the export's thread")?;
        let (target, thread) = (target.clone(), Some(thread));
        let records = MessageBuilder::default();
        Ok(Self { target, records, queue: Some(queue), thread, counts, exported: 0, waits, said: 0 })
    }

    /// Records sent, and lost on their way to the network.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.sent.load(Ordering::Relaxed), self.counts.lost())
    }

    fn export(&mut self, message: IpfixMessage) {
        let records = u64::from(message.records);
        let queued = Queued { message, first: self.exported };
        self.exported += records;
        if !self.offer(queued) {
            self.counts.queue_full.fetch_add(records, Ordering::Relaxed);
        }
    }

    /// False if there is no room.
    fn offer(&mut self, mut queued: Queued) -> bool {
        let Some(queue) = &self.queue else { return false };
        let limit = self.waits.then(|| Instant::now() + PATIENCE);
        loop {
            queued = match queue.try_send(queued) {
                Ok(()) => return true,
                Err(TrySendError::Full(queued)) => queued,
                Err(TrySendError::Disconnected(_)) => return false,
            };
            if limit.is_none_or(|limit| Instant::now() > limit) {
                // A collector that hangs is waited for once, not at each message.
                self.waits = false;
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Says how many records are lost, if there are more than when that was last said.
    fn say_lost(&mut self) {
        let (sent, lost) = self.counts();
        if lost != self.said {
            self.said = lost;
            let full = self.counts.queue_full.load(Ordering::Relaxed);
            log::warn!(
                "{}: {} sent and {lost} lost: {full} because the collector was too slow, {} because it or the network did \
                 not take them",
                self.target,
                count(sent, "flow"),
                lost - full
            );
        }
    }
}

impl Sink for Ipfix {
    fn takes_features(&self) -> bool {
        false
    }

    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        if let Some(why) = encode::ended(scored.record)
            && let Some(message) = self.records.add(scored, why)
        {
            self.export(message);
        }
        Ok(())
    }

    fn stats(&mut self, _: &Stats) -> Result<()> {
        self.say_lost();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(message) = self.records.take() {
            self.export(message);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let limit = Instant::now() + if self.waits { PATIENCE } else { LAST_CALL };
            while !thread.is_finished() && Instant::now() < limit {
                thread::sleep(Duration::from_millis(1));
            }
            if !thread.is_finished() {
                // What neither was sent nor is known to be lost waits in the queue, and is lost with the process.
                let (sent, lost) = self.counts();
                self.counts.refused.fetch_add(self.exported.saturating_sub(sent + lost), Ordering::Relaxed);
            }
        }
        self.say_lost();
        let (sent, lost) = self.counts();
        log::info!("{}: {} exported, {lost} lost", self.target, count(sent, "flow"));
        Ok(())
    }
}

/// Sends what comes until nothing comes any more.
fn send(queue: &Receiver<Queued>, mut session: Session) {
    for queued in queue {
        session.send(queued);
    }
}
