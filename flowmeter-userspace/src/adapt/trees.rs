//! The learner: boosted trees fitted on rows with weights, and the same trees as plain numbers that ONNX can hold.

use anyhow::{Result, anyhow, ensure};
use forust_ml::gradientbooster::GrowPolicy;
use forust_ml::objective::ObjectiveType;
use forust_ml::{GradientBooster, Matrix};

/// Trees of an ensemble, and leaves of a tree: few and shallow, since what one network has for itself is not worth learning,
/// and since a flow is to be scored in microseconds.
const TREES: usize = 100;
const LEAVES: usize = 15;
const LEARNING_RATE: f32 = 0.1;
/// Regularisation of leaves (L2), in units of the mean row's weight.
const L2: f32 = 50.0;
/// Least sum of second derivatives in a leaf.
const MIN_LEAF_WEIGHT: f32 = 40.0;
/// Share of the inputs that a tree sees.
const COLUMNS: f64 = 0.3;
/// Most bins of an input.
const BINS: u16 = 128;

/// Rows to learn from, with their class and weight.
pub struct Rows {
    width: usize,
    values: Vec<f32>,
    malicious: Vec<bool>,
    weights: Vec<f64>,
}

impl Rows {
    /// None yet, of `width` inputs.
    pub fn new(width: usize) -> Self {
        Self { width, values: Vec::new(), malicious: Vec::new(), weights: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// The row has another width.
    pub fn push(&mut self, row: &[f32], malicious: bool, weight: f64) {
        assert_eq!(row.len(), self.width, "a row has a value for each input");
        self.values.extend_from_slice(row);
        self.malicious.push(malicious);
        self.weights.push(weight);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.malicious.len()
    }

    /// The values of each row.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// Whether each row is of an attack.
    pub fn malicious(&self) -> &[bool] {
        &self.malicious
    }

    /// The weights of rows, scaled so that both classes weigh the same and the mean is 1.
    pub fn balanced(&self) -> Result<Vec<f64>> {
        let mut sums = [0.0; 2];
        for (&malicious, weight) in self.malicious.iter().zip(&self.weights) {
            sums[usize::from(malicious)] += weight;
        }
        ensure!(
            sums.iter().all(|sum| *sum > 0.0),
            "there are rows of one class only; both are needed to learn from"
        );
        let half = self.len() as f64 / 2.0;
        let scale = |(&malicious, weight): (&bool, &f64)| weight * half / sums[usize::from(malicious)];
        Ok(self.malicious.iter().zip(&self.weights).map(scale).collect())
    }

    /// Column after column, as the learner takes them.
    fn columns(&self) -> Vec<f64> {
        let mut columns = Vec::with_capacity(self.values.len());
        for column in 0..self.width {
            columns
                .extend(self.values.iter().skip(column).step_by(self.width).map(|&value| f64::from(value)));
        }
        columns
    }
}

/// A node of a tree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Node {
    /// Rows whose input is less than the threshold go to the first, all others to the second.
    Branch {
        /// Which input.
        input: u32,
        /// The first value that is not less.
        threshold: f32,
        /// Indices of nodes in the same tree.
        children: [u32; 2],
    },
    /// What the row's log-odds get.
    Leaf(f32),
}

/// Fitted trees: the sum of their leaves and of `base` is the log-odds of malicious.
#[derive(Clone, Debug, PartialEq)]
pub struct Ensemble {
    /// Log-odds before any tree.
    pub base: f32,
    /// Each with its root first.
    pub trees: Vec<Vec<Node>>,
}

impl Ensemble {
    /// Fits trees. The same rows give the same trees.
    ///
    /// # Errors
    /// There are rows of one class only, or the learner fails.
    pub fn fit(rows: &Rows) -> Result<Self> {
        let weights = rows.balanced()?;
        let labels: Vec<f64> =
            rows.malicious.iter().map(|&malicious| f64::from(u8::from(malicious))).collect();
        let columns = rows.columns();
        let mut booster = GradientBooster::default()
            .set_objective_type(ObjectiveType::LogLoss)
            .set_iterations(TREES)
            .set_learning_rate(LEARNING_RATE)
            .set_max_leaves(LEAVES)
            .set_max_depth(usize::from(u8::MAX))
            .set_l2(L2)
            .set_min_leaf_weight(MIN_LEAF_WEIGHT)
            // One input at least, however few there are.
            .set_colsample_bytree(COLUMNS.max(1.0 / rows.width as f64))
            .set_nbins(BINS)
            .set_base_score(0.0)
            .set_initialize_base_score(false)
            .set_tiled_histograms(true)
            .set_parallel(true)
            .set_seed(1);
        booster.grow_policy = GrowPolicy::LossGuide;
        booster
            .fit(&Matrix::new(&columns, rows.len(), rows.width), &labels, &weights, None)
            .map_err(|error| anyhow!("the trees cannot be fitted: {error}"))?;
        let trees = booster.trees.iter().map(|tree| {
            tree.nodes
                .iter()
                .map(|node| {
                    if node.is_leaf {
                        return Node::Leaf(node.weight_value);
                    }
                    Node::Branch {
                        input: node.split_feature as u32,
                        threshold: not_less(node.split_value),
                        children: [node.left_child as u32, node.right_child as u32],
                    }
                })
                .collect()
        });
        Ok(Self { base: booster.base_score as f32, trees: trees.collect() })
    }

    /// The probability of malicious, at even odds.
    pub fn score(&self, row: &[f32]) -> f64 {
        let sum: f64 = self.trees.iter().map(|tree| f64::from(leaf(tree, row))).sum();
        1.0 / (1.0 + (-(sum + f64::from(self.base))).exp())
    }
}

/// The least single-precision number that is not less than `value`: for single-precision inputs both split alike.
fn not_less(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) < value { nearest.next_up() } else { nearest }
}

/// The leaf that a row falls into.
fn leaf(tree: &[Node], row: &[f32]) -> f32 {
    let mut at = 0;
    loop {
        match tree[at] {
            Node::Leaf(value) => return value,
            Node::Branch { input, threshold, children } => {
                at = children[usize::from(row[input as usize] >= threshold)] as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attacks have a first input of 10 and more; the second says nothing.
    fn rows(count: u32) -> Rows {
        let mut rows = Rows::new(2);
        for i in 0..count {
            rows.push(&[(i % 20) as f32, (i % 7) as f32], i % 20 >= 10, 1.0);
        }
        rows
    }

    #[test]
    fn trees_learn_what_tells_the_classes_apart() {
        let trees = Ensemble::fit(&rows(2000)).expect("fits");
        assert!(trees.score(&[15.0, 3.0]) > 0.95, "{}", trees.score(&[15.0, 3.0]));
        assert!(trees.score(&[4.0, 3.0]) < 0.05, "{}", trees.score(&[4.0, 3.0]));
    }

    #[test]
    fn the_same_rows_give_the_same_trees() {
        assert_eq!(Ensemble::fit(&rows(500)).expect("fits"), Ensemble::fit(&rows(500)).expect("fits"));
    }

    #[test]
    fn a_class_weighs_the_same_however_many_rows_it_has() {
        let mut rows = Rows::new(1);
        (0..90).for_each(|_| rows.push(&[0.0], false, 1.0));
        (0..10).for_each(|_| rows.push(&[0.0], true, 7.0));
        let weights = rows.balanced().expect("both classes");
        let sum = |of: bool| -> f64 {
            rows.malicious.iter().zip(&weights).filter(|(m, _)| **m == of).map(|(_, w)| w).sum()
        };
        assert!((sum(false) - 50.0).abs() < 1e-9 && (sum(true) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn one_class_alone_is_refused() {
        let mut rows = Rows::new(1);
        rows.push(&[1.0], true, 1.0);
        let problem = Ensemble::fit(&rows).expect_err("one class").to_string();
        assert!(problem.contains("one class only"), "{problem}");
    }

    #[test]
    fn a_threshold_splits_single_precision_as_double_precision_does() {
        for value in [0.1, 0.3, 1e-40, 16_777_217.0, -0.1] {
            let threshold = not_less(value);
            assert!(f64::from(threshold) >= value && f64::from(threshold.next_down()) < value, "{value}");
        }
    }
}
