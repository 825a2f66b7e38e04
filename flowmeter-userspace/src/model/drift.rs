//! Whether living traffic still looks like what the model was trained on: compares the spread of each input over the last
//! flows with that of training.
//!
//! The measure is the population stability index, Σ (a - e) ln(a / e) over the bins of an input, with a the share of flows
//! now and e that of training (N. Siddiqi, Credit Risk Scorecards, 2006; B. Yurdakul, Statistical Properties of Population
//! Stability Index, 2018, shows how it behaves). An index is 0 where nothing has moved. The rule of thumb there, 0.25 for a
//! clear shift, is for the same population later on; two networks differ by more, see [`LARGEST_SHIFT`].

use std::collections::VecDeque;

use super::contract::Distribution;

/// Flows that are counted together, and how many such blocks the window has: it slides by a block.
const BLOCK: u32 = 512;
const BLOCKS: usize = 16;
/// With fewer flows nothing is said.
pub const LEAST_FLOWS: u64 = 1024;
/// The model fits while the median of its inputs' indices is no larger. Measured, flows of one source against the training
/// flows of all others: 0.2 to 0.65 for the benign flows of six ordinary networks, 1.0 and 1.8 for two test beds that send
/// few kinds of flows, 0.9 to 3.0 for traffic that is nothing but an attack.
pub const LARGEST_SHIFT: f64 = 1.0;
/// It also fits only while no larger a share of flows lies outside of the training ranges; measured likewise: 0.00 to 0.05.
pub const LARGEST_OUTSIDE: f64 = 0.10;
/// Least share of a bin: an empty one would make the index infinite.
const LEAST_SHARE: f64 = 1e-4;

/// How living traffic stands to the training flows.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Flows that were looked at.
    pub flows: u64,
    /// Share of them with an input outside of the training ranges.
    pub outside: f64,
    /// Median of the inputs' population stability indices; None if the model does not say how they were spread.
    pub shift: Option<f64>,
    /// Inputs by index, the largest first.
    pub worst: Vec<(usize, f64)>,
    /// Whether the model fits; None while there are too few flows to tell.
    pub fits: Option<bool>,
}

/// Counts of a block of flows.
#[derive(Clone, Default)]
struct Block {
    flows: u32,
    outside: u32,
    /// By bin, the inputs' bins one after the other.
    bins: Vec<u32>,
}

/// Counts the inputs of the last flows by the bins of training, in memory that does not grow.
pub struct Drift {
    /// How each input was spread in training; empty if the model does not say.
    training: Vec<Distribution>,
    /// Bins of all inputs.
    bins: usize,
    /// The newest last.
    blocks: VecDeque<Block>,
}

impl Drift {
    /// Counts by the bins of these distributions, one for each input.
    pub fn new(training: Option<Vec<Distribution>>) -> Self {
        let training = training.unwrap_or_default();
        let bins = training.iter().map(|input| input.shares.len()).sum();
        Self { training, bins, blocks: VecDeque::with_capacity(BLOCKS) }
    }

    /// Takes a flow into account. `outside` tells that it lies outside of the training ranges.
    pub fn observe(&mut self, row: &[f32], outside: bool) {
        let block = match self.blocks.back_mut() {
            Some(block) if block.flows < BLOCK => block,
            _ => {
                let mut block = if self.blocks.len() == BLOCKS { self.blocks.pop_front() } else { None }
                    .unwrap_or_default();
                block.flows = 0;
                block.outside = 0;
                block.bins.clear();
                block.bins.resize(self.bins, 0);
                self.blocks.push_back(block);
                let Some(block) = self.blocks.back_mut() else { return };
                block
            }
        };
        block.flows += 1;
        block.outside += u32::from(outside);
        let mut first = 0;
        for (value, Distribution { edges, shares }) in row.iter().zip(&self.training) {
            // Few and sorted: counting those below is quicker than searching.
            let bin: usize = edges.iter().map(|edge| usize::from(edge < value)).sum();
            block.bins[first + bin] += 1;
            first += shares.len();
        }
    }

    /// How the last flows stand to the training flows, with up to `most` inputs that have moved most.
    pub fn fit(&self, most: usize) -> Fit {
        let flows: u64 = self.blocks.iter().map(|block| u64::from(block.flows)).sum();
        let outside: u64 = self.blocks.iter().map(|block| u64::from(block.outside)).sum();
        let outside = outside as f64 / flows.max(1) as f64;
        let mut first = 0;
        let mut indices: Vec<(usize, f64)> = Vec::with_capacity(self.training.len());
        if flows != 0 {
            for (input, Distribution { shares, .. }) in self.training.iter().enumerate() {
                let index = shares.iter().enumerate().map(|(bin, share)| {
                    let count: u64 = self.blocks.iter().map(|block| u64::from(block.bins[first + bin])).sum();
                    let now = (count as f64 / flows as f64).max(LEAST_SHARE);
                    let then = share.max(LEAST_SHARE);
                    (now - then) * (now / then).ln()
                });
                indices.push((input, index.sum()));
                first += shares.len();
            }
        }
        indices.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shift = indices.get(indices.len() / 2).map(|(_, index)| *index);
        let fits = (flows >= LEAST_FLOWS)
            .then(|| outside <= LARGEST_OUTSIDE && shift.is_none_or(|shift| shift <= LARGEST_SHIFT));
        indices.truncate(most);
        Fit { flows, outside, shift, worst: indices, fits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_bins() -> Drift {
        let spread =
            |edges: &[f32], shares: &[f64]| Distribution { edges: edges.into(), shares: shares.into() };
        Drift::new(Some(vec![spread(&[1.0, 2.0], &[0.5, 0.25, 0.25]), spread(&[], &[1.0])]))
    }

    #[test]
    fn the_index_is_that_of_the_formula() {
        let mut drift = three_bins();
        // An edge belongs to the bin below it: 2, 2, 4 of 8 where 4, 2, 2 are expected.
        for value in [0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0, f32::MAX] {
            drift.observe(&[value, value], false);
        }
        let fit = drift.fit(5);
        let expected = (0.25 - 0.5) * (0.25_f64 / 0.5).ln() + (0.5 - 0.25) * (0.5_f64 / 0.25).ln();
        assert_eq!(fit.worst.iter().map(|(input, _)| *input).collect::<Vec<_>>(), [0, 1]);
        assert!((fit.worst[0].1 - expected).abs() < 1e-12, "{fit:?}");
        assert_eq!(fit.worst[1].1, 0.0, "what has one bin cannot move");
        assert_eq!((fit.flows, fit.fits), (8, None), "eight flows tell nothing");
    }

    #[test]
    fn the_window_slides_and_memory_stays() {
        let mut drift = three_bins();
        let spread = |drift: &mut Drift, values: [f32; 4], flows: u32| {
            for i in 0..flows as usize {
                drift.observe(&[values[i % 4], 0.0], false);
            }
        };
        spread(&mut drift, [0.0, 0.0, 1.5, 9.0], 2048);
        assert_eq!(drift.fit(1).fits, Some(true));
        spread(&mut drift, [9.0; 4], BLOCK * BLOCKS as u32);
        let fit = drift.fit(1);
        assert_eq!((fit.flows, drift.blocks.len()), (u64::from(BLOCK) * BLOCKS as u64, BLOCKS));
        assert!(fit.worst[0].1 > 3.0, "the flows before are forgotten: {fit:?}");
        spread(&mut drift, [0.0, 0.0, 1.5, 9.0], BLOCK * BLOCKS as u32);
        assert_eq!(drift.fit(1).worst[0].1, 0.0);
    }

    #[test]
    fn flows_outside_of_the_ranges_are_enough() {
        let mut drift = Drift::new(None);
        for i in 0..LEAST_FLOWS {
            assert_eq!(drift.fit(3).fits, None);
            drift.observe(&[0.0], i % 9 == 0);
        }
        let fit = drift.fit(3);
        assert_eq!((fit.fits, fit.shift, fit.worst.len()), (Some(false), None, 0), "{fit:?}");
    }
}
