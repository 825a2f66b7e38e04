//! What became of packets, counted by cause and outcome.

use super::decision::{CAUSES, Cause};

/// What became of a packet. The order is that of the counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Passed.
    Passed = 0,
    /// Dropped.
    Dropped = 1,
    /// Redirected to the inspector.
    Diverted = 2,
    /// Passed, and a copy went to the inspector.
    Cloned = 3,
    /// Passed, although it, or its copy, should have gone to the inspector: that was not there, or had no room.
    Failed = 4,
}

/// Number of [`Outcome`]s.
pub const OUTCOMES: usize = 5;

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; OUTCOMES] =
        [Self::Passed, Self::Dropped, Self::Diverted, Self::Cloned, Self::Failed];

    /// Name as it stands in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Dropped => "dropped",
            Self::Diverted => "diverted",
            Self::Cloned => "cloned",
            Self::Failed => "failed",
        }
    }
}

/// Packets and bytes (of IP packets; what belongs to no flow has none).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets; super-packets count their segments.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// What became of the packets of one interface, in one direction. The kernel keeps one for each CPU.
///
/// Each packet that a program of the pre-filter has seen is in exactly one tally.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefilterCounters {
    /// By cause, then by outcome.
    pub tallies: [[Tally; OUTCOMES]; CAUSES],
}

impl PrefilterCounters {
    /// Counts a packet.
    #[inline(always)]
    pub fn count(&mut self, cause: Cause, outcome: Outcome, packets: u64, bytes: u64) {
        // Both for the verifier, as above.
        let (cause, outcome) =
            (core::hint::black_box(cause as usize), core::hint::black_box(outcome as usize));
        if let Some(tally) = self.tallies.get_mut(cause).and_then(|of| of.get_mut(outcome)) {
            tally.packets += packets;
            tally.bytes += bytes;
        }
    }

    /// Adds another CPU's or interface's counters.
    pub fn add(&mut self, other: &Self) {
        for (own, more) in self.tallies.iter_mut().flatten().zip(other.tallies.iter().flatten()) {
            own.add(more);
        }
    }

    /// All that was counted.
    pub fn total(&self) -> Tally {
        self.sum(|_, _| true)
    }

    /// The sum of those tallies.
    pub fn sum(&self, wanted: impl Fn(Cause, Outcome) -> bool) -> Tally {
        let mut sum = Tally::default();
        for (cause, outcomes) in Cause::ALL.into_iter().zip(&self.tallies) {
            for (outcome, tally) in Outcome::ALL.into_iter().zip(outcomes) {
                if wanted(cause, outcome) {
                    sum.add(tally);
                }
            }
        }
        sum
    }
}
