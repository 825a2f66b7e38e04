//! The drain's thread: polls the table again and again until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use flowmeter_common::prefilter::BEAT_EVERY;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::queues::{Message, Queues, StatsRequest};
use super::status::Status;
use crate::kernel::{Heartbeat, clock};
use crate::source::live::{Drain, DrainCounts};

/// What the drain's thread shares with the others.
pub struct DrainTask {
    /// What it polls.
    pub drain: Drain,
    /// Where flows go.
    pub queues: Queues,
    /// Set when it is to end.
    pub stop: Arc<AtomicBool>,
    /// Set before that if the flows that live are to stay for the next agent.
    pub leave: Arc<AtomicBool>,
    /// Where it notes what has been taken out.
    pub heartbeat: Arc<Heartbeat>,
    /// Where it says what it has taken out.
    pub status: Arc<Status>,
    /// How often a `stats` line is due, in nanoseconds.
    pub stats_interval: Arc<AtomicU64>,
}

impl DrainTask {
    /// Starts the thread. It ends when told to, with everything taken out unless it is left to the next agent.
    pub fn spawn(mut self) -> JoinHandle<Result<DrainCounts>> {
        tokio::task::spawn_blocking(move || {
            self.poll_until_stopped()?;
            if !self.leave.load(Ordering::Acquire) {
                self.drain.flush(&mut self.queues)?;
            }
            let drained = self.drain.counts();
            self.status.set_drained(drained);
            let (done, written) = oneshot::channel();
            self.queues.tell(StatsRequest::message(drained, true, Some(done)))?;
            // The pipeline says what keeps it from writing; here it is only waited for.
            let _ = written.blocking_recv();
            Ok(drained)
        })
    }

    fn poll_until_stopped(&mut self) -> Result<()> {
        let mut latest_stats = clock::monotonic();
        let mut next_beat = 0;
        while !self.stop.load(Ordering::Acquire) {
            let sleep = self.drain.poll(&mut self.queues)?;
            let counts = self.drain.counts();
            self.heartbeat.note(counts.ledger());
            self.status.set_drained(counts);
            let now = clock::monotonic();
            // The beat takes the same way as verdicts, so that whatever stops verdicts stops the heartbeat. If there is no room
            // now, a later poll finds some.
            if now >= next_beat && self.queues.try_tell(Message::Beat(now))? {
                next_beat = now + BEAT_EVERY;
            }
            let interval = self.stats_interval.load(Ordering::Acquire);
            let due = latest_stats.saturating_add(interval);
            if now >= due && self.queues.try_tell(StatsRequest::message(counts, false, None))? {
                latest_stats = due;
            }
            self.drain.sleep(sleep);
        }
        Ok(())
    }
}
