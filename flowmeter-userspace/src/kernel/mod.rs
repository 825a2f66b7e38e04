//! The kernel's side, seen from the agent: loading, attaching, and the memory shared with the programs.
//!
//! Only this folder knows aya.

pub mod clock;
mod counters;
mod load;
mod pins;
mod prefilter;
mod preflight;
mod ring;
mod table;

pub use counters::Counters;
pub use load::{Attachment, Kernel, Loaded, Settings, interface_index, random_seed};
pub use prefilter::{Heartbeat, ListMaps, PrefilterMaps};
pub use preflight::{Check, checks, require};
pub use ring::Ring;
pub use table::{SharedTable, TableSize};
