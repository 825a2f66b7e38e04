//! The learned model as a file that keeps the contract: trees, thresholds, training ranges, what is normal, a golden vector.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::Learned;
use super::library::Library;
use super::onnx;

/// Times the largest value that was seen up to which an input is no stranger: floods have no largest size.
const RANGE_SLACK: f32 = 10.0;
/// Between these shares of benign flows a value is normal.
const NORMAL: [f64; 2] = [0.05, 0.95];
/// Bins of an input's distribution.
const BINS: usize = 10;
/// The golden vector's score is near this one: well off a half, where rounding shows most.
const GOLDEN_SCORE: f64 = 0.95;
/// Name of models that know their network.
const NAME: &str = "flowmeter-v2-adapted";

#[derive(Serialize)]
struct DistributionEntry {
    edges: Vec<f32>,
    shares: Vec<f64>,
}

#[derive(Serialize)]
struct GoldenEntry<'a> {
    input: &'a [f32],
    score: f64,
}

/// An input's values over the rows, in rising order, with their weights.
struct Spread(Vec<(f32, f64)>);

impl Spread {
    fn of(values: impl Iterator<Item = (f32, f64)>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self(values)
    }

    /// The least value at which each share of the weight is reached; shares rise.
    fn quantiles(&self, shares: &[f64]) -> Vec<f32> {
        let all: f64 = self.0.iter().map(|(_, weight)| weight).sum();
        let (mut reached, mut values) = (0.0, self.0.iter().peekable());
        let mut at = |share: f64| {
            let mut last = 0.0;
            while let Some(&&(value, weight)) = values.peek() {
                last = value;
                if reached + weight >= share * all {
                    break;
                }
                reached += weight;
                values.next();
            }
            last
        };
        shares.iter().map(|&share| at(share)).collect()
    }

    fn distribution(&self) -> DistributionEntry {
        let shares: Vec<f64> = (1..BINS).map(|i| i as f64 / BINS as f64).collect();
        let mut edges = self.quantiles(&shares);
        edges.dedup();
        let last = self.0.last().map_or(0.0, |(value, _)| *value);
        edges.retain(|&edge| edge < last);
        let mut bins = vec![0.0; edges.len() + 1];
        for (value, weight) in &self.0 {
            bins[edges.partition_point(|edge| edge < value)] += weight;
        }
        let all: f64 = bins.iter().sum();
        DistributionEntry { edges, shares: bins.into_iter().map(|bin| bin / all).collect() }
    }
}

/// The model's file.
///
/// # Errors
/// None that rows of both classes could give.
pub fn model_file(learned: &Learned, library: &Library) -> Result<Vec<u8>> {
    let weights = learned.rows.balanced()?;
    let malicious = learned.rows.malicious();
    let (mut ranges, mut medians, mut normal, mut distributions) = (vec![], vec![], vec![], vec![]);
    for input in 0..library.width() {
        let values = || learned.rows.iter().map(move |row| row[input]).zip(weights.iter().copied());
        let benign =
            Spread::of(values().zip(malicious).filter(|(_, malicious)| !**malicious).map(|(value, _)| value));
        let quantiles = benign.quantiles(&[NORMAL[0], 0.5, NORMAL[1]]);
        let spread = Spread::of(values());
        let end = |end: Option<&(f32, f64)>| end.map_or(0.0, |(value, _)| *value);
        let (low, high) = (end(spread.0.first()), end(spread.0.last()));
        ranges.push((low, (high * RANGE_SLACK).clamp(high, f32::MAX)));
        medians.push(quantiles[1]);
        normal.push((quantiles[0], quantiles[2]));
        distributions.push(spread.distribution());
    }
    let golden = learned
        .rows
        .iter()
        .map(|row| (row, learned.trees.score(row)))
        .min_by(|a, b| (a.1 - GOLDEN_SCORE).abs().total_cmp(&(b.1 - GOLDEN_SCORE).abs()))
        .map(|(input, score)| GoldenEntry { input, score })
        .context("there is no row")?;
    let metadata = [
        ("contract", "1".to_owned()),
        ("name", NAME.to_owned()),
        ("feature_set", library.set.id.to_owned()),
        ("inputs", serde_json::to_string(&library.inputs())?),
        ("classes", r#"["benign", "malicious"]"#.to_owned()),
        ("threshold_malicious", learned.malicious.to_string()),
        ("threshold_benign", learned.benign.to_string()),
        ("ranges", serde_json::to_string(&ranges)?),
        ("medians", serde_json::to_string(&medians)?),
        ("normal", serde_json::to_string(&normal)?),
        ("distribution", serde_json::to_string(&distributions)?),
        ("golden", serde_json::to_string(&golden)?),
    ];
    Ok(onnx::file(NAME, &learned.trees, library.width(), &metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_weights() {
        let spread = Spread::of([(3.0, 1.0), (1.0, 1.0), (2.0, 2.0)].into_iter());
        assert_eq!(spread.quantiles(&[0.05, 0.5, 0.95]), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn bins_include_their_upper_edge_and_sum_to_one() {
        let spread = Spread::of((0..100).map(|i| ((i / 10) as f32, 1.0)));
        let DistributionEntry { edges, shares } = spread.distribution();
        assert_eq!(edges, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert!(shares.iter().all(|share| (share - 0.1).abs() < 1e-9), "{shares:?}");
        let constant = Spread::of([(5.0, 1.0), (5.0, 2.0)].into_iter()).distribution();
        assert!(constant.edges.is_empty() && constant.shares == [1.0]);
    }
}
