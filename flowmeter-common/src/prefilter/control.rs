//! What the agent tells the programs while they run: that it is alive, and which lists count.

/// How long a heartbeat is fresh, in nanoseconds. With the time that the agent takes to renew it, this stays below the two
/// seconds that are promised.
pub const BEAT_LIFE: u64 = 1_500_000_000;

/// How often the agent renews it, in nanoseconds.
pub const BEAT_EVERY: u64 = 100_000_000;

/// What the agent tells the programs while they run; in memory shared with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CLOCK_MONOTONIC (ns) at the agent's latest heartbeat; 0 before the first.
    pub beat: u64,
    /// Which of the two tries holds the lists: 1 or 2; 0 if there are no rules.
    pub lists: u32,
    /// Always zero.
    pub reserved: u32,
    /// What the agent has taken out of the table, for the next one: flows, packets and bytes in them, and packets in
    /// aggregates.
    pub ledger: [u64; 4],
}

/// Whether a heartbeat of that time is still good at `now`. One from the future is: CPUs whose clocks differ by a few
/// nanoseconds may see it.
#[inline(always)]
pub const fn fresh(beat: u64, now: u64) -> bool {
    beat != 0 && now < beat.saturating_add(BEAT_LIFE)
}
