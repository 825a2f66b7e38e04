//! Counts and numbers of distinct values over ten seconds, a minute and ten minutes, in a few words each.
//!
//! Time is cut into periods of 10 s, 60 s and 300 s. Each begins where one of the next shorter begins. Two of the longest
//! are kept, the present one and the one before: together the last five to ten minutes. Among the shorter ones, the
//! present period is counted, and the largest count of the periods before is kept. So "10 s" and "1 min" mean the most
//! in any such period of the last minutes. A flow that only silence ended is scored two minutes after its last packet,
//! and still sees the burst that it was part of.

use std::ops::AddAssign;

use flowmeter_common::time::SECOND;

/// Windows in which everything is counted.
pub const WINDOWS: usize = 3;
/// Their names, as they stand in the features'.
pub const WINDOW_NAMES: [&str; WINDOWS] = ["10s", "1m", "10m"];

/// Length of the periods, ns. Each is a multiple of the one before, so that their ends coincide.
const SHORT: u64 = 10 * SECOND;
const MINUTE: u64 = 60 * SECOND;
const LONG: u64 = 300 * SECOND;
/// Longest time that anything is remembered for.
pub const MEMORY: u64 = 2 * LONG;

/// Which periods have ended between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    short: bool,
    minute: bool,
    /// Ends of long periods, at most two.
    long: u8,
}

impl Passed {
    /// Between two times in ns, the later one last. If time goes back, nothing has passed.
    pub fn between(before: u64, now: u64) -> Self {
        let ended = |period: u64| (now / period).saturating_sub(before / period);
        Self { short: ended(SHORT) != 0, minute: ended(MINUTE) != 0, long: ended(LONG).min(2) as u8 }
    }
}

/// What a window's counts are kept in.
pub trait Amount: Copy + Default + Ord + AddAssign {
    /// The sum, or the largest value.
    fn plus(self, more: Self) -> Self;
    /// As a feature.
    fn value(self) -> f32;
}

impl Amount for u32 {
    fn plus(self, more: Self) -> Self {
        self.saturating_add(more)
    }
    fn value(self) -> f32 {
        self as f32
    }
}

impl Amount for u64 {
    fn plus(self, more: Self) -> Self {
        self.saturating_add(more)
    }
    fn value(self) -> f32 {
        self as f32
    }
}

/// A count in each window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally<T> {
    short: T,
    minute: T,
    /// Largest counts of ended short periods and minutes, in the present long period and in the one before.
    most: [[T; 2]; 2],
    /// In the present long period and in the one before.
    long: [T; 2],
}

impl<T: Amount> Tally<T> {
    /// Counts.
    pub fn add(&mut self, amount: T) {
        self.short = self.short.plus(amount);
        self.minute = self.minute.plus(amount);
        self.long[0] = self.long[0].plus(amount);
    }

    /// Lets time pass.
    pub fn pass(&mut self, passed: Passed) {
        if passed.short {
            let ended = std::mem::take(&mut self.short);
            self.most[0][0] = self.most[0][0].max(ended);
        }
        if passed.minute {
            let ended = std::mem::take(&mut self.minute);
            self.most[0][1] = self.most[0][1].max(ended);
        }
        match passed.long {
            0 => {}
            1 => {
                self.most = [Default::default(), self.most[0]];
                self.long = [T::default(), self.long[0]];
            }
            _ => *self = Self::default(),
        }
    }

    /// The counts by window.
    pub fn values(&self) -> [f32; WINDOWS] {
        let most = |window: usize, present: T| present.max(self.most[0][window]).max(self.most[1][window]);
        [most(0, self.short).value(), most(1, self.minute).value(), self.long[0].plus(self.long[1]).value()]
    }
}

/// Number of distinct values in each window, by linear counting (Whang, Vander-Zanden, Taylor: A linear-time
/// probabilistic counting algorithm for database applications, 1990): each value sets one of `m` bits, and with a
/// share `u` of them unset, `-m ln u` values are expected.
///
/// With 64, 128 and 256 bits the standard error is 10 % or less up to 100, 230 and 500 values. The largest estimates are
/// 266, 621 and 1,420.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distinct {
    short: [u64; 1],
    minute: [u64; 2],
    /// Largest numbers of ended short periods and minutes, in the present long period and in the one before.
    most: [[f32; 2]; 2],
    /// In the present long period and in the one before.
    long: [[u64; 4]; 2],
}

impl Distinct {
    /// Notes a value by its hash.
    pub fn add(&mut self, hash: u64) {
        set(&mut self.short, hash);
        set(&mut self.minute, hash);
        set(&mut self.long[0], hash);
    }

    /// Lets time pass.
    pub fn pass(&mut self, passed: Passed) {
        if passed.short {
            let ended = estimate(&std::mem::take(&mut self.short));
            self.most[0][0] = self.most[0][0].max(ended);
        }
        if passed.minute {
            let ended = estimate(&std::mem::take(&mut self.minute));
            self.most[0][1] = self.most[0][1].max(ended);
        }
        match passed.long {
            0 => {}
            1 => {
                self.most = [Default::default(), self.most[0]];
                self.long = [Default::default(), self.long[0]];
            }
            _ => *self = Self::default(),
        }
    }

    /// The numbers by window.
    pub fn values(&self) -> [f32; WINDOWS] {
        let most = |window: usize, present: f32| present.max(self.most[0][window]).max(self.most[1][window]);
        let mut both = self.long[0];
        for (word, earlier) in both.iter_mut().zip(self.long[1]) {
            *word |= earlier;
        }
        [most(0, estimate(&self.short)), most(1, estimate(&self.minute)), estimate(&both)]
    }
}

/// Sets the bit that a hash stands for.
fn set<const N: usize>(bits: &mut [u64; N], hash: u64) {
    const { assert!(N.is_power_of_two()) };
    bits[(hash >> 6) as usize & (N - 1)] |= 1 << (hash & 63);
}

/// How many values have set these bits.
fn estimate<const N: usize>(bits: &[u64; N]) -> f32 {
    let m = (64 * N) as f32;
    let unset: u32 = bits.iter().map(|word| word.count_zeros()).sum();
    // One value sets exactly one bit. With every bit set the formula has no value; half an unset bit stands in for none.
    match (64 * N) as u32 - unset {
        0 => 0.0,
        1 => 1.0,
        _ => m * (m / (unset as f32).max(0.5)).ln(),
    }
}

#[cfg(test)]
mod tests {
    use flowmeter_common::hash::HashKeys;

    use super::*;

    /// Lets the time of a tally pass from one time to another, in seconds.
    fn pass(tally: &mut Tally<u32>, from: u64, to: u64) {
        tally.pass(Passed::between(from * SECOND, to * SECOND));
    }

    #[test]
    fn a_burst_is_remembered_by_its_size_until_ten_minutes_have_gone() {
        let mut tally = Tally::<u32>::default();
        for _ in 0..50 {
            tally.add(1);
        }
        assert_eq!(tally.values(), [50.0, 50.0, 50.0]);
        pass(&mut tally, 0, 15);
        tally.add(7);
        assert_eq!(tally.values(), [50.0, 57.0, 57.0]);
        pass(&mut tally, 15, 130);
        tally.add(1);
        assert_eq!(tally.values(), [50.0, 57.0, 58.0]);
        pass(&mut tally, 130, 301);
        assert_eq!(tally.values(), [50.0, 57.0, 58.0], "the five minutes before count");
        pass(&mut tally, 301, 599);
        assert_eq!(tally.values(), [50.0, 57.0, 58.0]);
        pass(&mut tally, 599, 600);
        assert_eq!(tally.values(), [0.0, 0.0, 0.0]);
        tally.add(3);
        pass(&mut tally, 600, 100_000);
        assert_eq!(tally.values(), [0.0, 0.0, 0.0], "a long silence forgets everything");
    }

    #[test]
    fn counts_end_at_their_largest_value() {
        let mut tally = Tally::<u32>::default();
        tally.add(u32::MAX);
        tally.add(1);
        assert_eq!(tally.values(), [u32::MAX as f32; 3]);
    }

    #[test]
    fn distinct_values_are_told_within_the_stated_error() {
        for (count, window, error) in
            [(40, 0, 0.3), (100, 1, 0.3), (100, 2, 0.2), (500, 2, 0.3), (1, 0, 0.0), (0, 2, 0.0)]
        {
            let mut distinct = Distinct::default();
            for value in 0..count {
                let hash = HashKeys::expand(7).hash(&[value, 0, 0, 0, 0, 0, 0]);
                // Seen again, a value is not another one.
                distinct.add(hash);
                distinct.add(hash);
            }
            let told = distinct.values()[window];
            // Three deviations, at most.
            assert!((told - count as f32).abs() <= error * count as f32, "{count} values: {told} told");
        }
    }

    #[test]
    fn a_full_sketch_tells_its_largest_number() {
        let mut distinct = Distinct::default();
        for value in 0..1_000_000_u64 {
            distinct.add(value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17));
        }
        let told = distinct.values();
        assert!(told[0] < 311.0 && told[1] < 710.0 && told[2] < 1598.0, "{told:?}");
        assert!(told[0] > 260.0 && told[1] > 600.0 && told[2] > 1400.0, "{told:?}");
    }
}
