//! The kernel programs' clock, and how it relates to the time of day.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: what the kernel programs stamp packets with.
pub fn monotonic() -> u64 {
    read(ClockId::Monotonic)
}

/// CPU time that this process has taken.
pub fn cpu_time() -> Duration {
    Duration::from_nanos(read(ClockId::ProcessCPUTime))
}

/// What must be added (wrapping) to a monotonic time to have nanoseconds since the Unix epoch.
pub fn offset_to_epoch() -> u64 {
    // The two clocks are read one after the other; of several tries the quickest is the most exact.
    (0..5)
        .map(|_| {
            let before = monotonic();
            let real = read(ClockId::Realtime);
            let took = monotonic() - before;
            (took, real.wrapping_sub(before + took / 2))
        })
        .min()
        .map_or(0, |(_, offset)| offset)
}

/// Whether somebody keeps the time of day in step; None if the kernel does not say.
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: all of it may be zero, which asks and sets nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the state lives until the call returns.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    (result >= 0).then_some(state.status & libc::STA_UNSYNC == 0)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
