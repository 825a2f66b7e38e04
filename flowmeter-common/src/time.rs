//! Time, as all of this crate has it: nanoseconds, given as an argument.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
