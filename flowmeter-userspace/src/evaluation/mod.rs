//! How good verdicts are: labelled flows in, a report out.
//!
//! [`truth`](crate::truth) says what a flow is, `flow` reads it from a row, `collection` collects flows by source and
//! category. [`report`] calculates the figures with the arithmetic of [`curves`]; [`spared`] calculates what a pre-filter
//! saves. [`text`] and [`html`] write the report for people. Its fields, as JSON, are for programs.
//!
//! Figures are means over (source, category) groups, so that no flood of one tool decides them. Figures over all flows
//! alike stand beside them.

mod collection;
pub mod curves;
mod flow;
pub mod html;
mod plot;
pub mod report;
pub mod spared;
pub mod text;

pub use collection::Evaluation;
pub use report::EvaluationReport;
