//! The columns of a table of flows, whatever format it is written in.
//!
//! FlowMeter's own set has where and what verdict before the features. Another tool's set has that tool's columns first
//! and nothing between, so that what reads that tool's tables reads ours; what is FlowMeter's comes after them.

use crate::features::{Cell, FeatureSet, Identity, Kind, identity::CellKind};
use crate::scoring::Scored;
use crate::truth::KnownLabel;

/// What a table has beside the columns of its set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Flows are scored.
    pub scored: bool,
    /// Flows come from several interfaces or captures.
    pub several: bool,
    /// Flows have labels, see [`Labels`](super::Labels).
    pub labelled: bool,
}

/// A column.
#[derive(Clone, Copy)]
pub enum Column {
    /// Interface or capture.
    Observed,
    /// Says which flow it is.
    Identity(&'static Identity),
    /// Verdict.
    Verdict,
    /// Probability of malicious.
    Score,
    /// Name of the model.
    Model,
    /// What the truth says that the flow is.
    Label,
    /// Network or collection, by the truth.
    Source,
    /// Kind of attack or use, by the truth.
    Category,
    /// The feature with this index in the set.
    Feature(usize, Kind, &'static str),
}

impl Column {
    /// Name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Identity(identity) => identity.name,
            Self::Verdict => "verdict",
            Self::Score => "score",
            Self::Model => "model",
            Self::Label => "label",
            Self::Source => "source",
            Self::Category => "category",
            Self::Feature(_, _, name) => name,
        }
    }

    /// What its cells are.
    pub fn kind(&self) -> CellKind {
        match self {
            Self::Observed | Self::Verdict | Self::Model => CellKind::Text,
            Self::Label | Self::Source | Self::Category => CellKind::Text,
            Self::Identity(identity) => identity.kind,
            Self::Score | Self::Feature(_, Kind::Real, _) => CellKind::Real,
            Self::Feature(_, Kind::Integer, _) => CellKind::Integer,
        }
    }

    /// Its cell for a flow, of which the truth says `known`.
    #[inline]
    pub fn cell<'a>(&self, scored: &Scored<'a>, known: Option<&'a KnownLabel>) -> Cell<'a> {
        match self {
            Self::Observed => scored.observed.map_or(Cell::None, Cell::Text),
            Self::Identity(identity) => (identity.cell)(scored.record),
            Self::Verdict => Cell::Text(scored.verdict.map_or("none", |v| v.name())),
            Self::Score => scored.score.map_or(Cell::None, Cell::Real),
            Self::Model => scored.model.map_or(Cell::None, Cell::Text),
            Self::Label => known.and_then(KnownLabel::name).map_or(Cell::None, Cell::Text),
            Self::Source => known.map_or(Cell::None, |known| Cell::Text(&known.source)),
            Self::Category => known.map_or(Cell::None, |known| Cell::Text(&known.category)),
            Self::Feature(index, Kind::Real, _) => Cell::Real(scored.features[*index]),
            Self::Feature(index, Kind::Integer, _) => Cell::Integer(scored.features[*index] as i64),
        }
    }
}

/// The columns of a table with the features of `set`.
pub fn columns(set: &'static FeatureSet, extent: Extent) -> Vec<Column> {
    let identity = set.identity.iter().map(Column::Identity);
    let verdict = [Column::Verdict, Column::Score, Column::Model];
    let features = set.features().enumerate().map(|(i, f)| Column::Feature(i, f.kind, f.name));
    let mut columns: Vec<_> = match set.is_own() {
        true => [Column::Observed].into_iter().chain(identity).chain(verdict).chain(features).collect(),
        false => identity.chain(features).collect(),
    };
    if !set.is_own() && extent.several {
        columns.push(Column::Observed);
    }
    if !set.is_own() && extent.scored {
        columns.extend(verdict);
    }
    if extent.labelled {
        columns.extend([Column::Label, Column::Source, Column::Category]);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::SETS;

    #[test]
    fn other_tools_tables_begin_with_their_columns_and_have_no_others_unless_asked() {
        for set in SETS.into_iter().filter(|set| !set.is_own()) {
            let names = |extent| columns(set, extent).iter().map(Column::name).collect::<Vec<_>>();
            let bare = names(Extent::default());
            assert_eq!(bare.len(), set.identity.len() + set.names().len());
            let full = names(Extent { scored: true, several: true, labelled: true });
            assert_eq!(full[..bare.len()], bare);
            assert_eq!(
                full[bare.len()..],
                ["observed", "verdict", "score", "model", "label", "source", "category"]
            );
        }
    }
}
