//! The kernel programs' clock, and how it relates to the time of day.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: what the kernel programs stamp packets with.
pub fn monotonic() -> u64 {
    read(ClockId::Monotonic)
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

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
