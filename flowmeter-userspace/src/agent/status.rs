//! How the agent is, beside its counters: what one thread notes and another one writes into `stats` lines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::sink::log_file::LogStatus;
use crate::stats::{InspectorStats, LinkState};

/// How the agent is.
#[derive(Debug, Default)]
pub struct Status {
    /// How the log fares.
    pub log: Arc<LogStatus>,
    links: Mutex<BTreeMap<String, LinkState>>,
    inspector: Mutex<Option<InspectorStats>>,
}

impl Status {
    /// How a watched interface is; None before it was looked at.
    pub fn link(&self, interface: &str) -> Option<LinkState> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).get(interface).copied()
    }

    /// Notes how a watched interface is. Returns how it was.
    pub fn set_link(&self, interface: &str, state: LinkState) -> Option<LinkState> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).insert(interface.to_owned(), state)
    }

    /// What has been sent to the inspector, and what arrived.
    pub fn inspector(&self) -> Option<InspectorStats> {
        self.inspector.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what has been sent to the inspector, and what arrived.
    pub fn set_inspector(&self, stats: InspectorStats) {
        *self.inspector.lock().unwrap_or_else(PoisonError::into_inner) = Some(stats);
    }
}
