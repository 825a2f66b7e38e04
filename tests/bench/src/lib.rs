//! What benchmarks measure on: `cargo xtask bench` prints figures of the whole, `cargo bench --package flowmeter-bench` those of
//! each stage by criterion, with what changed since the last run.

pub mod flows;
pub mod generated;
