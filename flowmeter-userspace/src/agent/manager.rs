//! What the service manager is told: systemd's notification protocol (sd_notify(3)). Without one nothing is said.
//!
//! The watchdog is fed by what `/healthz` says, so by the heartbeat that goes through drain and pipeline: a service manager
//! restarts an agent that hangs, and not only one that is gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

use super::status::Status;

/// How often it is told how the agent is, unless its watchdog asks for more.
const PERIOD: Duration = Duration::from_secs(1);

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
    said: Arc<Mutex<String>>,
    /// Reloads that have begun and not ended.
    reloading: Arc<AtomicUsize>,
}

impl ServiceManager {
    /// What the environment says of it.
    pub fn new() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), ..Self::default() }
    }

    /// How often [`tick`](Self::tick) is to be called: twice in the time that the watchdog gives, at least.
    pub fn period(&self) -> Duration {
        self.watchdog.map_or(PERIOD, |limit| (limit / 2).min(PERIOD)).max(Duration::from_millis(1))
    }

    /// Everything is in place.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready, NotifyState::Status("watching")]);
    }

    /// How the agent is now. The watchdog is fed only while the agent is healthy.
    pub fn tick(&self, status: &Status) {
        let ailments = status.ailments();
        if ailments.is_empty() && self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        let text = match ailments.first() {
            Some(ailment) => format!("not healthy: {ailment}"),
            None => status.summary(),
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != text {
            tell(&[NotifyState::Status(&text)]);
            *said = text;
        }
    }

    /// A reload has begun; it has ended when what this gives is dropped.
    pub fn reloading(&self) -> Reload {
        if self.reloading.fetch_add(1, Ordering::AcqRel) == 0 {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => tell(&[NotifyState::Reloading, now]),
                Err(_) => tell(&[NotifyState::Reloading]),
            }
        }
        Reload(self.clone())
    }

    /// The agent stops.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("writing out the living flows")]);
    }
}

/// A reload that has begun.
#[derive(Debug)]
pub struct Reload(ServiceManager);

impl Drop for Reload {
    fn drop(&mut self) {
        if self.0.reloading.fetch_sub(1, Ordering::AcqRel) == 1 {
            tell(&[NotifyState::Ready]);
        }
    }
}

/// Tells the service manager. Where that fails the agent works all the same, and its manager notices the silence.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager cannot be told: {error}");
    }
}
