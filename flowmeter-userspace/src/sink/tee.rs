//! Several outputs at once.

use anyhow::Result;

use super::Sink;
use crate::scoring::Scored;
use crate::stats::{AgentEvent, Stats};

/// Writes everything to all of them, in their order.
pub struct Tee(pub Vec<Box<dyn Sink>>);

impl Tee {
    /// Goes on after an error, so that one output does not take the others with it; the first error is given back.
    fn all(&mut self, mut each: impl FnMut(&mut dyn Sink) -> Result<()>) -> Result<()> {
        self.0.iter_mut().map(|sink| each(sink.as_mut())).fold(Ok(()), Result::and)
    }
}

impl Sink for Tee {
    fn takes_features(&self) -> bool {
        self.0.iter().any(|sink| sink.takes_features())
    }

    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        self.all(|sink| sink.flow(scored))
    }

    fn stats(&mut self, stats: &Stats) -> Result<()> {
        self.all(|sink| sink.stats(stats))
    }

    fn agent(&mut self, event: &AgentEvent) -> Result<()> {
        self.all(|sink| sink.agent(event))
    }

    fn flush(&mut self) -> Result<()> {
        self.all(|sink| sink.flush())
    }

    fn finish(&mut self) -> Result<()> {
        self.all(|sink| sink.finish())
    }
}
