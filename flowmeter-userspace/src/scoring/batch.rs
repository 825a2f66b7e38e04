//! Features of flows that go through the stages together.

use crate::features::{FeatureSet, FlowView};
use crate::record::FlowRecord;

/// Features of a batch of flows, by row.
#[derive(Default)]
pub struct Batch {
    /// All values, row after row.
    values: Vec<f64>,
    columns: usize,
}

impl Batch {
    /// Finishes the features of `records`.
    pub fn of(records: &[FlowRecord], set: &FeatureSet) -> Self {
        let columns = set.features().count();
        let mut values = Vec::with_capacity(records.len() * columns);
        for record in records {
            set.values(&FlowView::new(record), &mut values);
        }
        Self { values, columns }
    }

    /// Values of one flow.
    pub fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }
}
