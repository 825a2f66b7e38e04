//! What verdicts do to packets: the policy, the lists that precede it, and what it misses.

pub mod audit;
pub mod lists;
mod policy;

pub use policy::{Marker, Policy};
