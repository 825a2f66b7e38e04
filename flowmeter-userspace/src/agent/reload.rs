//! What SIGHUP loads again while the agent runs: the model, and the allow and deny lists.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};

use anyhow::{Result, ensure};

use crate::config::PrefilterSettings;
use crate::count::count;
use crate::kernel::{Heartbeat, ListMaps};
use crate::prefilter::lists;
use crate::scoring::{Scorer, ScorerLoader};

/// Reads the lists again and puts them in force; if they are wrong, those before stay.
pub struct ListReload {
    allow: Option<PathBuf>,
    deny: Option<PathBuf>,
    maps: ListMaps,
    heartbeat: Arc<Heartbeat>,
}

impl ListReload {
    /// The lists of these settings, which are to go into these maps.
    pub fn new(settings: &PrefilterSettings, maps: ListMaps, heartbeat: Arc<Heartbeat>) -> Self {
        Self { allow: settings.allow.clone(), deny: settings.deny.clone(), maps, heartbeat }
    }

    /// Reads the lists, and puts them in force; says how many rules there are.
    ///
    /// # Errors
    /// A list cannot be read, or the kernel refuses it; those before stay in force.
    pub fn load(&mut self) -> Result<usize> {
        let rules = lists::read(self.allow.as_deref(), self.deny.as_deref())?;
        self.maps.install(&self.heartbeat, &rules)?;
        Ok(rules.len())
    }

    /// Does so while packets pass, and says what came of it.
    pub fn reload(&mut self) {
        if self.allow.is_none() && self.deny.is_none() {
            return;
        }
        match self.load() {
            Ok(rules) => {
                log::info!("allow and deny lists read again; in force: {}", count(rules as u64, "rule"))
            }
            Err(error) => log::error!("the allow and deny lists stay as they were: {error:#}"),
        }
    }
}

/// Loads the model anew when told to.
pub struct ModelReload {
    scorers: Option<Arc<Mutex<ScorerLoader>>>,
    /// Whether there is what surrounds a flow: it is kept from the start or not at all.
    context: bool,
    /// To the pipeline.
    loaded: blocking::SyncSender<Scorer>,
}

impl ModelReload {
    /// One that sends models to the pipeline's thread, which listens at the other end.
    pub fn new(scorers: Option<ScorerLoader>, context: bool) -> (Self, blocking::Receiver<Scorer>) {
        let (loaded, receiver) = blocking::sync_channel(1);
        (Self { scorers: scorers.map(|scorers| Arc::new(Mutex::new(scorers))), context, loaded }, receiver)
    }

    /// Loads on a thread of its own. Meanwhile the model in use goes on scoring.
    pub fn start(&self) {
        let Some(scorers) = self.scorers.clone() else {
            return log::warn!("SIGHUP: no model to load, because of --no-model");
        };
        let (loaded, has_context) = (self.loaded.clone(), self.context);
        tokio::task::spawn_blocking(move || {
            // One load after the other, so that the last one sees the file as it was left.
            let scorers = scorers.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(file) = scorers.file().or(scorers.calibration()) else {
                return log::warn!(
                    "SIGHUP: the built-in model never changes; start with --model FILE to load another"
                );
            };
            let usable = scorers.load().and_then(|scorer| {
                let set = scorer.feature_set();
                ensure!(
                    has_context || !set.context,
                    "it takes {}, which needs what surrounds a flow, and this agent has not kept that from its start: stop \
                     the agent and start it with this model",
                    set.id
                );
                Ok(scorer)
            });
            match usable {
                // Without a pipeline there is nothing left to score.
                Ok(scorer) => drop(loaded.send(scorer.explaining_in_time())),
                Err(error) => log::error!(
                    "SIGHUP: {} is refused, and the model in use goes on: {error:#}",
                    file.display()
                ),
            }
        });
    }
}
