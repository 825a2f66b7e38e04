//! How many malicious flows are explained: reasons cost two runs of the model an input.

use std::time::{Duration, Instant};

/// Most malicious flows of a batch for which reasons are computed: each takes two runs of the model per input, and a
/// flood must not make the agent fall behind. The others are scored like any, and marked.
const EXPLAINED_PER_BATCH: usize = 8;
/// Live, batches are as small as the traffic is slow. There the bound is a share of the time, and so much of it can be saved
/// up.
const EXPLAINING_SHARE: f64 = 0.2;
const EXPLAINING_SAVED: Duration = Duration::from_millis(10);

/// How much is explained.
pub(super) enum ExplanationBudget {
    /// A number of flows in each batch. It gives the same reasons at every reading of a capture.
    Count {
        /// Flows of this batch explained so far.
        explained: usize,
    },
    /// A share of the time.
    Time {
        /// Seconds that may be spent; less than 0 after one that took longer.
        saved: f64,
        /// When the savings were last added to.
        at: Instant,
    },
}

impl ExplanationBudget {
    /// So many flows of a batch.
    pub(super) const fn by_count() -> Self {
        Self::Count { explained: 0 }
    }

    /// A share of the time from now on.
    pub(super) fn by_time() -> Self {
        Self::Time { saved: EXPLAINING_SAVED.as_secs_f64(), at: Instant::now() }
    }

    /// A batch begins.
    pub(super) fn begin(&mut self) {
        match self {
            Self::Count { explained } => *explained = 0,
            Self::Time { saved, at } => {
                let now = Instant::now();
                let earned = now.duration_since(*at).as_secs_f64() * EXPLAINING_SHARE;
                *saved = (*saved + earned).min(EXPLAINING_SAVED.as_secs_f64());
                *at = now;
            }
        }
    }

    /// Whether another flow is explained.
    pub(super) fn allows(&self) -> bool {
        match self {
            Self::Count { explained } => *explained < EXPLAINED_PER_BATCH,
            Self::Time { saved, .. } => *saved > 0.0,
        }
    }

    /// A flow was explained, which took so long.
    pub(super) fn spend(&mut self, took: Duration) {
        match self {
            Self::Count { explained } => *explained += 1,
            Self::Time { saved, .. } => *saved -= took.as_secs_f64(),
        }
    }
}
