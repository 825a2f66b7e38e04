//! How the agent is, beside its counters: what one thread notes and others write into `stats` lines, show, or judge by.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowmeter_common::prefilter::BEAT_LIFE;

use super::queues::Depths;
use crate::count::count;
use crate::kernel::clock;
use crate::sink::log_file::LogStatus;
use crate::source::live::DrainCounts;
use crate::stats::{
    AgentEvent, DriftStats, InspectorStats, LinkState, PipelineCounts, QueueStats, ScoringStats,
};
use crate::timestamp::timestamp;

/// How long the main thread may go without a look at the interfaces.
const LOOK_LIFE: u64 = 5 * BEAT_LIFE;

/// Most events that wait for the log.
const MAX_EVENTS: usize = 1024;

/// What the pipeline has done.
#[derive(Clone, Debug, Default)]
pub struct PipelineState {
    /// Flows and verdicts.
    pub counts: PipelineCounts,
    /// How fast flows are scored; None if nothing scores.
    pub scoring: Option<ScoringStats>,
    /// Whether the model fits the traffic; None if nothing scores.
    pub drift: Option<DriftStats>,
}

/// How the agent is.
#[derive(Debug, Default)]
pub struct Status {
    /// How the log fares.
    pub log: Arc<LogStatus>,
    /// When it started, and when a heartbeat last went through drain and pipeline, and when the interfaces were looked at
    /// last (CLOCK_MONOTONIC, ns).
    started: AtomicU64,
    beat: AtomicU64,
    looked: AtomicU64,
    stopping: AtomicBool,
    reloads: AtomicU64,
    links: Mutex<BTreeMap<String, LinkState>>,
    inspector: Mutex<Option<InspectorStats>>,
    drained: Mutex<DrainCounts>,
    written: Mutex<PipelineState>,
    depths: Mutex<Option<Depths>>,
    events: Mutex<VecDeque<AgentEvent>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Status {
    /// The agent works from now on; its queues are as deep as these say.
    pub fn start(&self, depths: Depths) {
        let now = clock::monotonic();
        self.started.store(now, Ordering::Release);
        self.beat.store(now, Ordering::Release);
        self.looked.store(now, Ordering::Release);
        *lock(&self.depths) = Some(depths);
    }

    /// The agent stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.log.stop();
    }

    /// The drain has taken out so much.
    pub fn set_drained(&self, drained: DrainCounts) {
        *lock(&self.drained) = drained;
    }

    /// What the drain has taken out.
    pub fn drained(&self) -> DrainCounts {
        *lock(&self.drained)
    }

    /// The pipeline has done so much.
    pub fn set_written(&self, written: PipelineState) {
        *lock(&self.written) = written;
    }

    /// What the pipeline has done.
    pub fn written(&self) -> PipelineState {
        lock(&self.written).clone()
    }

    /// A heartbeat has gone through drain and pipeline.
    pub fn beat(&self) {
        self.beat.store(clock::monotonic(), Ordering::Release);
    }

    /// The interfaces have been looked at.
    pub fn looked(&self) {
        self.looked.store(clock::monotonic(), Ordering::Release);
    }

    /// SIGHUP was taken.
    pub fn reloaded(&self) {
        self.reloads.fetch_add(1, Ordering::AcqRel);
    }

    /// Times that SIGHUP was taken.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Acquire)
    }

    /// How long it has been working.
    pub fn uptime(&self) -> Duration {
        since(&self.started)
    }

    /// How long ago a heartbeat last went through.
    pub fn heartbeat_age(&self) -> Duration {
        since(&self.beat)
    }

    /// What keeps the agent from its work; empty if it is healthy.
    pub fn ailments(&self) -> Vec<String> {
        let mut ailments = Vec::new();
        if since(&self.beat) > Duration::from_nanos(BEAT_LIFE) {
            let age = since(&self.beat).as_secs_f64();
            ailments.push(format!(
                "no heartbeat has gone through drain and pipeline for {age:.1} s: verdicts are not in force; a reader of the \
                 log that hangs does this, and a machine without CPU time"
            ));
        }
        if since(&self.looked) > Duration::from_nanos(LOOK_LIFE) {
            let age = since(&self.looked).as_secs_f64();
            ailments.push(format!("nobody has looked at the interfaces for {age:.1} s"));
        }
        ailments
    }

    /// What keeps the agent from being relied on, ailments included; empty if it is ready.
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles = self.ailments();
        if self.stopping.load(Ordering::Acquire) {
            obstacles.push("it stops".to_owned());
        }
        let links = lock(&self.links);
        if links.is_empty() {
            obstacles.push("no interface has been looked at yet".to_owned());
        }
        let detached = links.iter().filter(|(_, state)| !state.attached);
        obstacles
            .extend(detached.map(|(name, state)| format!("{name} is not watched: it is {}", state.link)));
        if lock(&self.written).scoring.as_ref().is_some_and(|scoring| !scoring.working) {
            obstacles.push("the model fails: flows go without a verdict".to_owned());
        }
        if let Some(inspector) = lock(&self.inspector).as_ref().filter(|inspector| !inspector.reached) {
            obstacles.push(format!(
                "packets do not arrive at {}, where the inspector listens",
                inspector.interface
            ));
        }
        if self.log.failing() {
            obstacles.push("the log cannot be written to".to_owned());
        }
        obstacles
    }

    /// The agent in a few words.
    pub fn summary(&self) -> String {
        let links = lock(&self.links);
        let watched = links.values().filter(|state| state.attached).count() as u64;
        let (flows, malicious) = (lock(&self.drained).flows, lock(&self.written).counts.malicious);
        let all = links.len() as u64;
        let of = if watched == all { String::new() } else { format!(" of {all}") };
        format!(
            "watching {watched}{of} {}: {} written, {malicious} malicious",
            if all == 1 { "interface" } else { "interfaces" },
            count(flows, "flow")
        )
    }

    /// Notes what has happened, for the log. While the pipeline hangs the oldest give way.
    pub fn note(&self, what: &'static str, interface: Option<&str>, message: impl Into<String>) {
        let mut events = lock(&self.events);
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(AgentEvent {
            event: "agent",
            timestamp: timestamp(clock::monotonic().wrapping_add(clock::offset_to_epoch())),
            what,
            interface: interface.map(str::to_owned),
            message: message.into(),
            version: env!("CARGO_PKG_VERSION"),
        });
    }

    /// Takes what has happened since it was taken last.
    pub fn take_events(&self) -> VecDeque<AgentEvent> {
        std::mem::take(&mut lock(&self.events))
    }

    /// What waits for the pipeline.
    pub fn queues(&self) -> QueueStats {
        lock(&self.depths).as_ref().map(Depths::now).unwrap_or_default()
    }

    /// How a watched interface is; None before it was looked at.
    pub fn link(&self, interface: &str) -> Option<LinkState> {
        lock(&self.links).get(interface).copied()
    }

    /// Notes how a watched interface is. Returns how it was.
    pub fn set_link(&self, interface: &str, state: LinkState) -> Option<LinkState> {
        lock(&self.links).insert(interface.to_owned(), state)
    }

    /// What has been sent to the inspector, and what arrived.
    pub fn inspector(&self) -> Option<InspectorStats> {
        lock(&self.inspector).clone()
    }

    /// Notes what has been sent to the inspector, and what arrived.
    pub fn set_inspector(&self, stats: InspectorStats) {
        *lock(&self.inspector) = Some(stats);
    }
}

fn since(time: &AtomicU64) -> Duration {
    Duration::from_nanos(clock::monotonic().saturating_sub(time.load(Ordering::Acquire)))
}
