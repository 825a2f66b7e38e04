//! A sender and a watched host at the two ends of a cable, which is what most tests of the agent need.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;

use crate::agent::Agent;
use crate::netns::{Chatter, Namespace, Offload};
use crate::replay::{Frame, Oversized, Pace, Sender};

/// The sender's interface is `out`, the watched one `in`; nothing passes but what the test sends.
#[derive(Debug)]
pub struct Cable {
    /// Where packets come from.
    pub sends: Namespace,
    /// Where the agent runs.
    pub watches: Namespace,
    folder: tempfile::TempDir,
    /// Packets sent since the interfaces were made.
    sent: AtomicU64,
}

impl Cable {
    /// Makes the namespaces and joins them.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn new() -> Result<Self> {
        let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
        let cable = Self { sends, watches, folder: tempfile::tempdir()?, sent: AtomicU64::new(0) };
        cable.join()?;
        Ok(cable)
    }

    /// Makes the interfaces, as at the beginning.
    ///
    /// # Errors
    /// They are there.
    pub fn join(&self) -> Result<()> {
        self.sends.join("out", &self.watches, "in", Chatter::None, Offload::Off)?;
        self.sent.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// A path in the test's own folder, which goes with the cable.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the agent with its log in the file `log`, and waits until it watches.
    ///
    /// # Errors
    /// It refuses, or does not come up.
    pub fn agent(&self, words: &[&str]) -> Result<Agent> {
        Agent::start(&self.watches, &["in"], &self.file("log"), words)
    }

    /// Sends frames as fast as it goes, and waits until the host has received them.
    ///
    /// # Errors
    /// The interface is not there, or does not take them.
    pub fn send(&self, frames: &[Frame]) -> Result<()> {
        let stop = AtomicBool::new(false);
        let sent = self
            .sends
            .run(|| Sender::open("out")?.send(frames, Pace::Unpaced, Oversized::Refuse, &stop))??;
        let all = self.sent.fetch_add(sent, Ordering::Relaxed) + sent;
        self.watches.wait_received("in", all)
    }
}
