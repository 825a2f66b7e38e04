//! What is usual between two hosts: the rhythm of their flows' starts, and how alike the flows are.
//!
//! Averages weigh a new value by one over the number of values so far, and by a sixteenth from the sixteenth on. So the
//! last few dozen flows count, in constant memory.

/// Values after which an average forgets old ones as fast as it learns.
const REMEMBERED: u16 = 16;
/// Nanoseconds in a second.
const NS: f32 = 1e9;

/// Mean and mean absolute deviation of values that come one by one.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    mean: f32,
    deviation: f32,
}

impl Average {
    /// Takes the `number`-th value.
    fn add(&mut self, value: f32, number: u16) {
        let weight = 1.0 / f32::from(number.clamp(1, REMEMBERED));
        if number <= 1 {
            *self = Self { mean: value, deviation: 0.0 };
        } else {
            // Measured against the mean before this value: the new mean would hide a part of the change.
            let off = (value - self.mean).abs();
            self.deviation += (off - self.deviation) * if number == 2 { 1.0 } else { weight };
            self.mean += (value - self.mean) * weight;
        }
    }
}

/// When flows begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rhythm {
    last_start: u64,
    gaps: u16,
    gap: Average,
}

impl Rhythm {
    /// A flow began at this time, in ns. A flow that began before the last one makes no gap.
    pub fn start(&mut self, at: u64) {
        if self.last_start != 0 && at >= self.last_start {
            self.gaps = self.gaps.saturating_add(1);
            self.gap.add((at - self.last_start) as f32 / NS, self.gaps);
        }
        self.last_start = self.last_start.max(at);
    }

    /// Gaps so far, at most 65,535.
    pub fn gaps(&self) -> f32 {
        f32::from(self.gaps)
    }

    /// Mean gap, seconds; 0 without one.
    pub fn mean(&self) -> f32 {
        self.gap.mean
    }

    /// Mean absolute deviation of the gaps over their mean; 0 if they are all alike, and 1 with fewer than two gaps.
    pub fn variation(&self) -> f32 {
        if self.gaps < 2 {
            return 1.0;
        }
        if self.gap.mean > 0.0 { self.gap.deviation / self.gap.mean } else { 0.0 }
    }
}

/// Quantities by which flows are compared.
const COMPARED: usize = 4;
/// A flow's outline: binary logarithms of one plus bytes forward, bytes backward, packets, and milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outline([f32; COMPARED]);

impl Outline {
    /// The outline of a flow with these numbers.
    pub fn of(forward_bytes: u64, backward_bytes: u64, packets: u64, duration_ns: u64) -> Self {
        let log = |value: u64| (1.0 + value as f32).log2();
        Self([log(forward_bytes), log(backward_bytes), log(packets), log(duration_ns / 1_000_000)])
    }
}

/// What the flows that ended were like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Likeness {
    flows: u16,
    averages: [Average; COMPARED],
}

impl Likeness {
    /// A flow ended.
    pub fn add(&mut self, outline: &Outline) {
        self.flows = self.flows.saturating_add(1);
        for (average, value) in self.averages.iter_mut().zip(outline.0) {
            average.add(value, self.flows);
        }
    }

    /// Flows so far, at most 65,535.
    pub fn flows(&self) -> f32 {
        f32::from(self.flows)
    }

    /// Mean absolute difference of an outline to the average one; 1 is a factor of two in everything. 0 if no flow has
    /// ended.
    pub fn difference(&self, outline: &Outline) -> f32 {
        if self.flows == 0 {
            return 0.0;
        }
        let off = |(average, value): (&Average, f32)| (value - average.mean).abs();
        self.averages.iter().zip(outline.0).map(off).sum::<f32>() / COMPARED as f32
    }

    /// Mean absolute deviation of the bytes forward and backward, in binary logarithms.
    pub fn spread(&self) -> [f32; 2] {
        [self.averages[0].deviation, self.averages[1].deviation]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beacon_is_regular_and_a_person_is_not() {
        let (mut beacon, mut person) = (Rhythm::default(), Rhythm::default());
        let mut at = 1_000_000_000;
        for i in 0..40_u64 {
            beacon.start(1_000_000_000 + i * 5_000_000_000);
            at += 1_000_000_000 * (1 + (i * 7919) % 13);
            person.start(at);
        }
        assert!((beacon.mean() - 5.0).abs() < 1e-3 && beacon.variation() < 1e-3, "{beacon:?}");
        assert!(person.variation() > 0.3, "{person:?}");
        assert_eq!(beacon.gaps(), 39.0);
    }

    #[test]
    fn too_few_flows_are_no_rhythm_and_time_does_not_go_back() {
        let mut rhythm = Rhythm::default();
        rhythm.start(5_000_000_000);
        rhythm.start(7_000_000_000);
        assert_eq!((rhythm.gaps(), rhythm.mean(), rhythm.variation()), (1.0, 2.0, 1.0));
        rhythm.start(6_000_000_000);
        assert_eq!(rhythm.gaps(), 1.0);
    }

    #[test]
    fn another_kind_of_flow_stands_out() {
        let mut usual = Likeness::default();
        for i in 0..20 {
            usual.add(&Outline::of(1000 + i, 5000, 12, 40_000_000));
        }
        let alike = usual.difference(&Outline::of(1010, 5000, 12, 40_000_000));
        let other = usual.difference(&Outline::of(900_000, 100, 300, 9_000_000_000));
        assert!(alike < 0.05 && other > 4.0, "{alike} {other}");
        assert!(usual.spread()[0] < 0.05);
    }
}
