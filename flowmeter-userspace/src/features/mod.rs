//! The feature table: each feature once, with name, unit, definition and function; sets are ordered lists of them.
//!
//! CSV headers, the model's contract and the reference page are all read from here. A value is never NaN or infinite:
//! each row says what it is where its definition has no value.

mod cic_fixed_v1;
mod flowmeter_v1;
mod flowmeter_v2;
pub mod identity;
mod nfstream_v1;
mod seed_39_v1;
pub mod view;

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

pub use view::FlowView;

pub use identity::{Cell, Identity};

/// What a feature's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers.
    Integer,
    /// Any finite numbers.
    Real,
}

/// One feature.
#[derive(Clone, Copy)]
pub struct Feature {
    /// Column name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Unit of the value.
    pub unit: &'static str,
    /// What it is.
    pub definition: &'static str,
    /// What it is where the definition has no value.
    pub undefined: &'static str,
    /// Its value for a flow.
    pub value: fn(&FlowView<'_>) -> f64,
}

/// A row of the table: `row!([int] name, unit, definition, what it is where undefined, |flow| value)`. What counts packets
/// or is 0 or 1 is whole by its unit.
macro_rules! row {
    (int $name:expr, $unit:literal, $definition:expr, $undefined:literal, $value:expr) => {
        $crate::features::Feature {
            name: $name,
            kind: $crate::features::Kind::Integer,
            unit: $unit,
            definition: $definition,
            undefined: $undefined,
            value: $value,
        }
    };
    ($name:expr, $unit:literal, $definition:expr, $undefined:literal, $value:expr) => {
        $crate::features::Feature {
            name: $name,
            kind: $crate::features::kind_of_unit($unit),
            unit: $unit,
            definition: $definition,
            undefined: $undefined,
            value: $value,
        }
    };
}
use row;

/// What the values of a unit are, unless the row says more.
const fn kind_of_unit(unit: &str) -> Kind {
    match unit.as_bytes() {
        b"packets" | b"0/1" => Kind::Integer,
        _ => Kind::Real,
    }
}

/// An ordered list of features under a name that models refer to. A published set never changes; another list is
/// another version.
#[derive(Clone, Copy)]
pub struct FeatureSet {
    /// Name and version, such as `flowmeter/v1`.
    pub id: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Columns that say which flow it is; never inputs of a model.
    pub identity: &'static [Identity],
    /// Some features are of what surrounds a flow, see [`crate::context`].
    pub context: bool,
    /// The features, in order, in parts.
    parts: &'static [&'static [Feature]],
}

/// All sets.
pub const SETS: [&FeatureSet; 5] =
    [&flowmeter_v2::SET, &flowmeter_v1::SET, &cic_fixed_v1::SET, &nfstream_v1::SET, &seed_39_v1::SET];

/// The set that the shipped model takes.
pub const DEFAULT_SET: &FeatureSet = SETS[0];

impl std::fmt::Debug for FeatureSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FeatureSet").field(&self.id).finish()
    }
}

impl FeatureSet {
    /// The set that was asked for by this id.
    ///
    /// # Errors
    /// There is none; the message lists those that are.
    pub fn named(id: &str) -> Result<&'static Self> {
        Self::find(id).with_context(|| {
            let known: Vec<&str> = SETS.iter().map(|set| set.id).collect();
            format!("there is no feature set {id:?}; there are: {}", known.join(", "))
        })
    }

    /// The set with this id.
    pub fn find(id: &str) -> Option<&'static Self> {
        SETS.into_iter().find(|set| set.id == id)
    }

    /// True for FlowMeter's own sets, false for those that follow another tool.
    pub fn is_own(&self) -> bool {
        self.id.starts_with("flowmeter/")
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

    /// What each column is, in order.
    pub fn reference(&self) -> Vec<ColumnReference> {
        let identity = self.identity.iter().map(|c| ColumnReference {
            role: "identity",
            name: c.name,
            kind: c.kind.name(),
            unit: c.unit,
            definition: c.definition,
            undefined: c.undefined,
        });
        let features = self.features().map(|f| ColumnReference {
            role: "feature",
            name: f.name,
            kind: if f.kind == Kind::Integer { "integer" } else { "real" },
            unit: f.unit,
            definition: f.definition,
            undefined: f.undefined,
        });
        identity.chain(features).collect()
    }

    /// The reference as a page, in Markdown.
    pub fn page(&self) -> String {
        let columns = self.reference();
        let mut page = format!(
            "# Feature set `{}`\n\n{}\n\n{} columns in this order: {} that identify the flow and are not features, then {} features.\n\n\
             | # | name | type | unit | definition | where undefined |\n|--:|---|---|---|---|---|\n",
            self.id,
            self.description,
            columns.len(),
            self.identity.len(),
            columns.len() - self.identity.len(),
        );
        for (i, ColumnReference { name, kind, unit, definition, undefined, .. }) in columns.iter().enumerate()
        {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "| {} | `{name}` | {kind} | {unit} | {definition} | {undefined} |", i + 1);
        }
        page
    }
}

/// What a column of a set is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ColumnReference {
    /// `identity`: says which flow it is; `feature`: a model may take it.
    pub role: &'static str,
    /// Column name.
    pub name: &'static str,
    /// `integer`, `real`, `text` or `time`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// What it is.
    pub definition: &'static str,
    /// What it is where the definition has no value.
    pub undefined: &'static str,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_unique_and_every_row_is_complete() {
        for set in SETS {
            let mut seen = HashSet::new();
            for column in set.reference() {
                assert!(seen.insert(column.name), "{}: {} occurs twice", set.id, column.name);
                let texts = [column.unit, column.definition, column.undefined];
                assert!(texts.iter().all(|text| !text.is_empty()), "{}: {column:?} lacks a text", set.id);
            }
        }
    }

    #[test]
    fn the_pages_in_docs_are_those_of_the_table() {
        for set in SETS {
            let name = format!("docs/features/{}.md", set.id.replace('/', "-"));
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&name);
            let page = std::fs::read_to_string(&path).unwrap_or_default();
            // Not assert_eq: two pages of text would bury what to do.
            assert!(page == set.page(), "run: target/release/flowmeter features --set {} > {name}", set.id);
        }
    }
}
