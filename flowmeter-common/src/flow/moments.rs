//! Sums of gaps and periods: what a mean and a deviation are finished from, in userspace.

/// Gaps between packets, in nanoseconds. Count and sum are those of the packets around them, and not kept twice.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// Sum of squares in ns², low half. A gap is at most the active timeout g = 3.6e12 ns and the gaps of a flow
    /// add up to no more, so the sum of squares is at most g² = 1.3e25 < 2^128 = 3.4e38.
    pub squares_low: u64,
    /// Sum of squares, high half.
    pub squares_high: u64,
    /// Shortest; `u64::MAX` if there is none.
    pub min: u64,
    /// Longest.
    pub max: u64,
}

impl Gaps {
    pub(super) const EMPTY: Self = Self { squares_low: 0, squares_high: 0, min: u64::MAX, max: 0 };

    #[inline(always)]
    pub(super) fn add(&mut self, gap: u64) {
        // Gaps below 4.3 s are squared in one multiplication; longer ones by halves: (h·2^32 + l)².
        let (low, high) = (gap & 0xffff_ffff, gap >> 32);
        let mut carry = 0;
        let mut square = low.wrapping_mul(low);
        if high != 0 {
            // high < 2^10 for an hour in ns, so that the cross term cannot overflow.
            let cross = (high.wrapping_mul(low)) << 1;
            carry = high.wrapping_mul(high).wrapping_add(cross >> 32);
            let (sum, over) = square.overflowing_add(cross << 32);
            square = sum;
            carry = carry.wrapping_add(over as u64);
        }
        let (sum, over) = self.squares_low.overflowing_add(square);
        self.squares_low = sum;
        self.squares_high = self.squares_high.wrapping_add(carry).wrapping_add(over as u64);
        if gap < self.min {
            self.min = gap;
        }
        if gap > self.max {
            self.max = gap;
        }
    }

    /// Sum of squares in ns².
    pub fn squares(&self) -> u128 {
        u128::from(self.squares_high) << 64 | u128::from(self.squares_low)
    }
}

/// Periods (of activity or of silence), in whole microseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// Sum. The periods of a flow are disjoint, so it is at most the active timeout, 3.6e9 µs.
    pub sum: u64,
    /// Sum of squares: at most (3.6e9)² = 1.3e19 < 2^64 = 1.8e19.
    pub squares: u64,
    /// Number.
    pub count: u32,
    /// Shortest: 3.6e9 < 2^32 = 4.3e9. `u32::MAX` if there is none.
    pub min: u32,
    /// Longest.
    pub max: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Periods {
    pub(super) const EMPTY: Self = Self { sum: 0, squares: 0, count: 0, min: u32::MAX, max: 0, reserved: 0 };

    #[inline(always)]
    pub(super) fn add(&mut self, nanoseconds: u64) {
        let period = microseconds(nanoseconds);
        self.sum = self.sum.wrapping_add(u64::from(period));
        self.squares = self.squares.wrapping_add(u64::from(period).wrapping_mul(u64::from(period)));
        self.count = self.count.wrapping_add(1);
        if period < self.min {
            self.min = period;
        }
        if period > self.max {
            self.max = period;
        }
    }
}

/// Adds 0 or 1 to a counter that stays at its largest value. Without a branch: the kernel's verifier follows both ways
/// of each, and six in a row make 64.
#[inline(always)]
pub(super) const fn add_bit(counter: u32, bit: u32) -> u32 {
    let sum = counter as u64 + bit as u64;
    (sum - (sum >> 32)) as u32
}

/// Whole microseconds, at most `u32::MAX` (71 minutes).
#[inline(always)]
pub(super) fn microseconds(nanoseconds: u64) -> u32 {
    let us = nanoseconds / 1000;
    if us > u64::from(u32::MAX) { u32::MAX } else { us as u32 }
}
