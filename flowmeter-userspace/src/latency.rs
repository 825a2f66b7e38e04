//! How long something takes, in few numbers: a histogram with buckets of fixed bounds, and its quantiles.

use serde::Serialize;

/// Buckets of each doubling: a quantile is at most a sixteenth too long, and never too short.
const FINE: usize = 16;
/// Doublings: from 16 microseconds to 17 minutes, which longer ones count as.
const DOUBLINGS: usize = 26;
/// Where the buckets of the metrics begin: the first ends at 64 microseconds.
const WIDE: usize = 3;

/// Counts delays by microseconds.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    counts: [u64; FINE * (DOUBLINGS + 1)],
    total: u64,
    longest: u64,
    /// Nanoseconds of all together.
    sum: u64,
}

/// Delays since the start, and since they were last taken.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    latest: LatencyHistogram,
    all: LatencyHistogram,
}

/// What a histogram of the metrics is made of, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// All delays together.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
    /// How many were above the bound before and below this one; the last bound is endless.
    pub buckets: Vec<(f64, u64)>,
}

/// LatencyHistogram in milliseconds; none are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many there were.
    pub count: u64,
    /// Half were at most this long.
    pub p50: f64,
    /// 99 of 100 were at most this long.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: [0; FINE * (DOUBLINGS + 1)], total: 0, longest: 0, sum: 0 }
    }
}

impl LatencyHistogram {
    /// Counts a delay, in nanoseconds.
    pub fn add(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds / 1000)] += 1;
        self.total += 1;
        self.longest = self.longest.max(nanoseconds);
        self.sum = self.sum.saturating_add(nanoseconds);
    }

    /// What has been counted; begins anew.
    pub fn take(&mut self) -> Quantiles {
        std::mem::take(self).quantiles()
    }

    /// What has been counted.
    pub fn quantiles(&self) -> Quantiles {
        let Self { counts, total, longest, .. } = self;
        let total = *total;
        let longest = *longest as f64 / 1e6;
        let quantile = |share: f64| {
            let rank = (total as f64 * share).ceil() as u64;
            let mut below = 0;
            let found = counts.iter().position(|count| {
                below += count;
                below >= rank.max(1)
            });
            found.map_or(0.0, |bucket| (upper(bucket) as f64 / 1000.0).min(longest))
        };
        Quantiles { count: total, p50: quantile(0.5), p99: quantile(0.99), max: longest }
    }

    /// What has been counted, by bounds each four times the one before: from 64 microseconds to 67 seconds.
    pub fn buckets(&self) -> Buckets {
        let mut buckets = Vec::new();
        let mut from = 0;
        for doubling in (WIDE..=DOUBLINGS - 4).step_by(2) {
            let end = FINE * doubling;
            buckets.push((upper(end - 1) as f64 / 1e6, self.counts[from..end].iter().sum()));
            from = end;
        }
        buckets.push((f64::INFINITY, self.counts[from..].iter().sum()));
        Buckets { sum: self.sum as f64 / 1e9, count: self.total, buckets }
    }
}

impl Delays {
    /// Counts a delay, in nanoseconds.
    pub fn add(&mut self, nanoseconds: u64) {
        self.latest.add(nanoseconds);
        self.all.add(nanoseconds);
    }

    /// Quantiles of those since they were last taken; begins them anew.
    pub fn take(&mut self) -> Quantiles {
        self.latest.take()
    }

    /// Quantiles of those since they were last taken.
    pub fn latest(&self) -> Quantiles {
        self.latest.quantiles()
    }

    /// All since the start.
    pub fn all(&self) -> Buckets {
        self.all.buckets()
    }
}

/// The bucket of so many microseconds: exact below [`FINE`], then [`FINE`] buckets for each doubling.
fn bucket(microseconds: u64) -> usize {
    let doubling = (u64::BITS - microseconds.leading_zeros()).saturating_sub(FINE.ilog2() + 1) as usize;
    let place = doubling * FINE + (microseconds >> doubling) as usize;
    place.min(FINE * (DOUBLINGS + 1) - 1)
}

/// The microseconds that a bucket ends before.
fn upper(bucket: usize) -> u64 {
    let doubling = (bucket / FINE).saturating_sub(1);
    ((bucket - doubling * FINE + 1) as u64) << doubling
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_delay_lies_in_its_bucket() {
        let mut before = 0;
        for microseconds in
            (0..5000).chain((13..36).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1]))
        {
            let bucket = bucket(microseconds);
            assert!(bucket >= before, "{microseconds}");
            before = bucket;
            if bucket < FINE * (DOUBLINGS + 1) - 1 {
                let (low, high) = (bucket.checked_sub(1).map_or(0, upper), upper(bucket));
                assert!((low..high).contains(&microseconds), "{microseconds} in {low}..{high}");
                assert!(high as f64 <= (microseconds.max(1) as f64) * (1.0 + 1.0 / FINE as f64) + 1.0);
            }
        }
    }

    #[test]
    fn quantiles_are_never_too_short() {
        let mut delays = LatencyHistogram::default();
        assert_eq!(delays.take(), Quantiles::default());
        for microseconds in 1..=1000 {
            delays.add(microseconds * 1000);
        }
        let Quantiles { count, p50, p99, max } = delays.take();
        assert_eq!((count, max), (1000, 1.0));
        assert!((0.5..0.54).contains(&p50) && (0.99..=1.0).contains(&p99), "{p50} {p99}");
        assert_eq!(delays.take().count, 0, "taken");
    }

    #[test]
    fn buckets_of_the_metrics_hold_every_delay_once() {
        let mut delays = Delays::default();
        for microseconds in [0, 63, 64, 255, 256, 1_000_000, 68_000_000, 1 << 40] {
            delays.add(microseconds * 1000);
        }
        assert_eq!((delays.take().count, delays.latest().count), (8, 0));
        let Buckets { sum, count, buckets } = delays.all();
        assert_eq!((count, buckets.iter().map(|(_, count)| count).sum::<u64>()), (8, 8));
        assert_eq!(buckets[..2], [(64e-6, 2), (256e-6, 2)], "a bound belongs to the next");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 2)));
        assert!((sum - ((1_u64 << 40) + 69_000_638) as f64 / 1e6).abs() < 1e-3, "{sum}");
    }
}
