//! What goes from the drain to the pipeline, and the queues that it waits in.

use anyhow::{Result, anyhow};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::kernel::clock;
use crate::record::FlowRecord;
use crate::source::live::{BATCH, DrainCounts, LEAVING, RecordSink};
use crate::stats::QueueStats;

/// Batches of living flows, which are in a hurry, between drain and pipeline.
const LIVING: usize = 4;
/// Batches of ended flows there; when they are all taken, flows wait in the table.
const ENDED: usize = 16;
/// Flows out of the table at once: those that leave it together, in the queues, and in the pipeline.
pub const MAX_OUT: usize = LEAVING + (LIVING + ENDED + 2) * BATCH;

/// The pipeline's end of both queues.
pub struct Received {
    /// Flows at their checkpoints.
    pub living: mpsc::Receiver<Taken>,
    /// All else.
    pub rest: mpsc::Receiver<Message>,
}

/// Flows that have ended, and what follows them.
pub enum Message {
    /// Flows.
    Flows(Taken),
    /// The drain was well at that time.
    Beat(u64),
    /// A `stats` line is due.
    Stats(Box<StatsRequest>),
}

/// Flows with the times, in the kernel programs' clock, that delays count from.
pub struct Taken {
    /// The flows.
    pub flows: Vec<FlowRecord>,
    /// When they were taken out of the table, or copied there.
    pub at: u64,
    /// For living flows: what brought them here came later.
    pub since: u64,
}

/// A `stats` line to be completed by the pipeline.
pub struct StatsRequest {
    /// What the drain has seen.
    pub drained: DrainCounts,
    /// Whether it is the last line.
    pub last: bool,
    /// Told when the line has been written.
    pub done: Option<oneshot::Sender<()>>,
}

/// The drain's end of both queues.
pub struct Queues {
    living: mpsc::Sender<Taken>,
    rest: mpsc::Sender<Message>,
}

/// Tells how much waits in both queues, and keeps neither open.
#[derive(Debug)]
pub struct Depths {
    living: mpsc::WeakSender<Taken>,
    rest: mpsc::WeakSender<Message>,
}

impl Depths {
    /// What waits now.
    pub fn now(&self) -> QueueStats {
        fn depth<T>(sender: &mpsc::WeakSender<T>) -> u64 {
            sender.upgrade().map_or(0, |sender| (sender.max_capacity() - sender.capacity()) as u64)
        }
        QueueStats { living: depth(&self.living), ended: depth(&self.rest) }
    }
}

/// Both ends of both queues, and how deep they are.
pub fn queues() -> (Queues, Received, Depths) {
    let ((living, from_living), (rest, from_rest)) = (mpsc::channel(LIVING), mpsc::channel(ENDED));
    let depths = Depths { living: living.downgrade(), rest: rest.downgrade() };
    (Queues { living, rest }, Received { living: from_living, rest: from_rest }, depths)
}

impl RecordSink for Queues {
    fn living(&mut self, flows: Vec<FlowRecord>, since: u64) -> Result<()> {
        let taken = Taken { flows, at: clock::monotonic(), since };
        self.living.blocking_send(taken).map_err(|_| stopped())
    }

    fn ended(&mut self, flows: Vec<FlowRecord>) -> Result<Option<Vec<FlowRecord>>> {
        let at = clock::monotonic();
        match self.rest.try_send(Message::Flows(Taken { flows, at, since: at })) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(Message::Flows(taken))) => Ok(Some(taken.flows)),
            Err(_) => Err(stopped()),
        }
    }
}

impl Queues {
    /// Sends a message; false if there is no room now.
    pub fn try_tell(&self, message: Message) -> Result<bool> {
        match self.rest.try_send(message) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Closed(_)) => Err(stopped()),
        }
    }

    /// Sends a message, however long there is no room for it.
    pub fn tell(&self, message: Message) -> Result<()> {
        self.rest.blocking_send(message).map_err(|_| stopped())
    }
}

impl StatsRequest {
    /// The message of a request.
    pub fn message(drained: DrainCounts, last: bool, done: Option<oneshot::Sender<()>>) -> Message {
        Message::Stats(Box::new(Self { drained, last, done }))
    }
}

fn stopped() -> anyhow::Error {
    anyhow!("the pipeline has stopped")
}
