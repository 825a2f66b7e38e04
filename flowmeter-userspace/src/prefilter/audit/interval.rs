//! A share, with the exact interval of what it may be.

use serde::Serialize;

/// A share with its 95 % interval (Clopper and Pearson, exact).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// What was found, of `of`.
    pub found: u64,
    /// Among how many.
    pub of: u64,
    /// The share, 0 to 1.
    pub share: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Rate {
    /// `found` of `of`, which is not 0.
    pub fn new(found: u64, of: u64) -> Self {
        let (low, high) = clopper_pearson(found, of);
        Self { found, of, share: found as f64 / of as f64, low, high }
    }
}

/// The exact 95 % interval of a share of which `k` of `n` were found (Clopper and Pearson, 1934): the shares at which so
/// few, or so many, have a probability of 2.5 % each.
fn clopper_pearson(k: u64, n: u64) -> (f64, f64) {
    const TAIL: f64 = 0.025;
    let low = if k == 0 { 0.0 } else { solve(|p| 1.0 - at_most(k - 1, n, p) < TAIL) };
    let high = if k == n { 1.0 } else { solve(|p| at_most(k, n, p) > TAIL) };
    (low, high)
}

/// The share up to which `below` is true.
fn solve(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if below(middle) { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// Probability of at most `k` in `n` trials that each succeed with probability `p`.
fn at_most(k: u64, n: u64, p: f64) -> f64 {
    if p <= 0.0 {
        return 1.0;
    }
    // By logarithms: the first term alone may be smaller than any number.
    let (odds, mut term) = ((p / (1.0 - p)).ln(), n as f64 * (-p).ln_1p());
    let mut sum = term.exp();
    for i in 0..k {
        term += odds + ((n - i) as f64 / (i + 1) as f64).ln();
        sum += term.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against published values of the exact interval: 0 of 10, 1 of 10 and 5 of 10 by Clopper and Pearson's tables, and
    /// 0 of n, where the upper end is 1 - 0.025^(1/n).
    #[test]
    fn intervals_are_those_of_the_tables() {
        for (k, n, low, high) in [
            (0, 10, 0.0, 0.30849710781876083),
            (1, 10, 0.002528578544454, 0.445016117028195),
            (5, 10, 0.187086028447398, 0.812913971552602),
            (10, 10, 0.691502892181239, 1.0),
        ] {
            let (found_low, found_high) = clopper_pearson(k, n);
            assert!((found_low - low).abs() < 1e-9 && (found_high - high).abs() < 1e-9, "{k} of {n}");
        }
        for n in [1_u64, 100, 100_000] {
            let (low, high) = clopper_pearson(0, n);
            assert!(low == 0.0 && (high - (1.0 - 0.025_f64.powf(1.0 / n as f64))).abs() < 1e-9);
        }
        let (low, high) = clopper_pearson(50_000, 100_000);
        assert!((low - 0.4969).abs() < 1e-4 && (high - 0.5031).abs() < 1e-4, "{low} {high}");
    }
}
