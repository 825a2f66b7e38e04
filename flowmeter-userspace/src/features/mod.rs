//! The feature table: each feature once, with name, unit, definition and function; sets are ordered lists of them.
//!
//! CSV headers, the model's contract and the reference page are all read from here. A value is never NaN or infinite:
//! each row says what it is where its definition has no value.

mod flowmeter_v1;
pub mod view;

use std::fmt::Write as _;

pub use view::FlowView;

/// One feature.
#[derive(Clone, Copy)]
pub struct Feature {
    /// Column name.
    pub name: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// What it is.
    pub definition: &'static str,
    /// What it is where the definition has no value.
    pub undefined: &'static str,
    /// Its value for a flow.
    pub value: fn(&FlowView<'_>) -> f64,
}

/// An ordered list of features under a name that models refer to. A published set never changes; another list is
/// another version.
#[derive(Clone, Copy)]
pub struct FeatureSet {
    /// Name and version, such as `flowmeter/v1`.
    pub id: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// The features, in order, in parts.
    parts: &'static [&'static [Feature]],
}

/// All sets.
pub const SETS: [&FeatureSet; 1] = [&flowmeter_v1::SET];

/// The set that the shipped model takes.
pub const DEFAULT_SET: &FeatureSet = SETS[0];

impl FeatureSet {
    /// The set with this id.
    pub fn find(id: &str) -> Option<&'static Self> {
        SETS.into_iter().find(|set| set.id == id)
    }

    /// The features in order.
    pub fn features(&self) -> impl Iterator<Item = &'static Feature> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// The features' names in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.features().map(|feature| feature.name).collect()
    }

    /// Appends the features' values for a flow, in order.
    pub fn values(&self, flow: &FlowView<'_>, values: &mut Vec<f64>) {
        values.extend(self.features().map(|feature| {
            let value = (feature.value)(flow);
            debug_assert!(value.is_finite(), "{} is {value}", feature.name);
            value
        }));
    }

    /// The reference page, in Markdown.
    pub fn reference(&self) -> String {
        let mut page = format!(
            "# Feature set `{}`\n\n{}\n\n{} columns, in this order.\n\n| # | name | unit | definition | where undefined |\n|--:|---|---|---|---|\n",
            self.id,
            self.description,
            self.features().count()
        );
        for (i, f) in self.features().enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                page,
                "| {} | `{}` | {} | {} | {} |",
                i + 1,
                f.name,
                f.unit,
                f.definition,
                f.undefined
            );
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_row_is_complete() {
        for set in SETS {
            let mut seen = HashSet::new();
            for feature in set.features() {
                assert!(seen.insert(feature.name), "{}: {} occurs twice", set.id, feature.name);
                for text in [feature.unit, feature.definition, feature.undefined] {
                    assert!(!text.is_empty(), "{}: {} lacks a text", set.id, feature.name);
                }
            }
        }
    }
}
