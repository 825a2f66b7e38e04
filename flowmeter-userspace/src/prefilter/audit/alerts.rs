//! The inspector's alerts, by Community ID.

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::count::count;
use crate::sink::eve::SIGNATURES;

/// An alert of the inspector.
#[derive(Clone, Debug)]
pub(super) struct Alert {
    pub(super) at: i128,
    pub(super) signature: String,
    pub(super) matched: bool,
}

/// Alerts by Community ID.
#[derive(Debug, Default)]
pub struct Alerts {
    pub(super) by_id: HashMap<String, Vec<Alert>>,
    pub(super) without_id: u64,
}

impl Alerts {
    /// Adds those of Suricata's EVE output: lines of other events are passed over.
    ///
    /// # Errors
    /// A line is no JSON object.
    pub fn add(&mut self, eve: impl BufRead) -> Result<()> {
        #[derive(Deserialize)]
        struct Event {
            event_type: String,
            timestamp: Option<String>,
            community_id: Option<String>,
            alert: Option<Value>,
        }
        for (line, number) in eve.lines().zip(1_u64..) {
            let line = line.with_context(|| format!("reading line {number}"))?;
            if line.trim().is_empty() {
                continue;
            }
            let event: Event = serde_json::from_str(&line)
                .with_context(|| format!("line {number} is not an event of Suricata"))?;
            // FlowMeter may write into the same file. Its own alerts say nothing of what the inspector finds.
            let own = event.alert.as_ref().and_then(|alert| alert["signature_id"].as_u64());
            if event.event_type != "alert" || own.is_some_and(|id| SIGNATURES.contains(&id)) {
                continue;
            }
            let (Some(id), Some(time)) = (event.community_id, event.timestamp) else {
                self.without_id += 1;
                continue;
            };
            let at = nanoseconds(&time).with_context(|| format!("line {number}"))?;
            let signature = event.alert.as_ref().and_then(|alert| alert["signature"].as_str()).unwrap_or("");
            self.by_id.entry(id).or_default().push(Alert {
                at,
                signature: signature.to_owned(),
                matched: false,
            });
        }
        Ok(())
    }

    /// Whether alerts can be joined.
    ///
    /// # Errors
    /// No alert has a Community ID.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.without_id == 0 || !self.by_id.is_empty(),
            "{} without a community_id: set `community-id: true` under `eve-log` in suricata.yaml",
            count(self.without_id, "alert")
        );
        Ok(())
    }
}

/// Nanoseconds since the Unix epoch of a time as our log has it, or as EVE has it (`+0000` without a colon).
pub(super) fn nanoseconds(time: &str) -> Result<i128> {
    let read = time.parse().or_else(|_| jiff::Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", time));
    Ok(read.with_context(|| format!("invalid time {time:?}: expected RFC 3339"))?.as_nanosecond())
}
