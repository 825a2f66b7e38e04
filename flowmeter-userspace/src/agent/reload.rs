//! What SIGHUP loads again while the agent runs: its options, the model, and the allow and deny lists.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};

use anyhow::{Result, ensure};

use super::manager::{Reload, ServiceManager};
use super::options::{Changes, Options};
use super::status::Status;
use crate::config::{PrefilterSettings, ScoringConfig};
use crate::count::count;
use crate::kernel::{Heartbeat, ListMaps};
use crate::prefilter::lists;
use crate::scoring::{Scorer, ScorerLoader};

/// Everything that SIGHUP has read again.
pub struct Reloads {
    /// The agent's options.
    pub options: Options,
    /// The model.
    pub model: ModelReload,
    /// The lists.
    pub lists: ListReload,
    /// How often a `stats` line is due, in nanoseconds.
    pub stats_interval: Arc<AtomicU64>,
    /// The log, and where reloads are counted.
    pub status: Arc<Status>,
    /// Who may want to know.
    pub manager: ServiceManager,
}

impl Reloads {
    /// Reads everything again. What is wrong stays as it was.
    pub fn reload(&mut self) {
        let reload = self.manager.reloading();
        self.status.reloaded();
        self.status.log.reopen();
        let files = match self.options.read_again() {
            Ok(Changes { config, taken, refused }) => {
                if !taken.is_empty() {
                    log::info!("SIGHUP: in force now: {}", taken.join(", "));
                }
                if !refused.is_empty() {
                    log::warn!(
                        "SIGHUP: these options have changed, and take effect when flowmeter is restarted: {}",
                        refused.join(", ")
                    );
                }
                self.status.note("reload", None, told(&taken, &refused));
                self.stats_interval.store(config.stats_interval.as_nanos() as u64, Ordering::Release);
                self.lists.set_files(&config.prefilter);
                config.scoring
            }
            Err(error) => {
                log::error!("SIGHUP: the options stay as they were: {error:#}");
                self.status.note("reload", None, format!("the options stay as they were: {error:#}"));
                None
            }
        };
        self.model.start(files, reload);
        self.lists.reload();
    }
}

/// What has become of options, in words.
fn told(taken: &[String], refused: &[String]) -> String {
    let part = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("; {what}: {}", names.join(", ")),
    };
    format!(
        "options, lists and model are read again{}{}",
        part("in force now", taken),
        part("take effect when flowmeter is restarted", refused)
    )
}

/// Reads the lists again and puts them in force; if they are wrong, those before stay.
pub struct ListReload {
    allow: Option<PathBuf>,
    deny: Option<PathBuf>,
    /// Whether there are rules in force, which must go if there are no lists any more.
    in_force: bool,
    maps: ListMaps,
    heartbeat: Arc<Heartbeat>,
}

impl ListReload {
    /// The lists of these settings, which are to go into these maps.
    pub fn new(settings: &PrefilterSettings, maps: ListMaps, heartbeat: Arc<Heartbeat>) -> Self {
        Self { allow: settings.allow.clone(), deny: settings.deny.clone(), in_force: false, maps, heartbeat }
    }

    /// Reads the lists, and puts them in force; says how many rules there are.
    ///
    /// # Errors
    /// A list cannot be read, or the kernel refuses it; those before stay in force.
    pub fn load(&mut self) -> Result<usize> {
        let rules = lists::read(self.allow.as_deref(), self.deny.as_deref())?;
        self.maps.install(&self.heartbeat, &rules)?;
        self.in_force = !rules.is_empty();
        Ok(rules.len())
    }

    /// Takes these files from now on.
    pub fn set_files(&mut self, settings: &PrefilterSettings) {
        self.allow.clone_from(&settings.allow);
        self.deny.clone_from(&settings.deny);
    }

    /// Does so while packets pass, and says what came of it.
    pub fn reload(&mut self) {
        if self.allow.is_none() && self.deny.is_none() && !self.in_force {
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

    /// Loads on a thread of its own, from these files if they are given. Meanwhile the model in use goes on scoring.
    /// `reload` is dropped at the end.
    pub fn start(&self, files: Option<ScoringConfig>, reload: Reload) {
        let Some(scorers) = self.scorers.clone() else {
            return log::warn!("SIGHUP: no model to load, because of --no-model");
        };
        let (loaded, has_context) = (self.loaded.clone(), self.context);
        tokio::task::spawn_blocking(move || {
            let _reload = reload;
            // One load after the other, so that the last one sees the file as it was left.
            let mut scorers = scorers.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = files.is_some_and(|files| scorers.set_files(files));
            let built_in = Path::new("the built-in model");
            let unchanged = scorers.file().or(scorers.calibration());
            let Some(file) = unchanged.or(changed.then_some(built_in)) else {
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
