//! The kernel's side, seen from the agent: loading, attaching, and the memory shared with the programs.
//!
//! Only this folder knows aya.

mod attach;
pub mod clock;
mod counters;
mod devices;
mod ethtool;
mod grace;
mod interfaces;
mod load;
mod pins;
mod prefilter;
mod probe;
mod programs;
mod random;
mod ring;
mod table;

pub use attach::Attachment;
pub use counters::{Counters, Watched, name_of};
pub use devices::{Device, Devices};
pub use ethtool::{Offloads, offloads, others_on};
pub use interfaces::{Interface, find_inspector, interface_index, refuse_stacked};
pub use load::{Kernel, Loaded};
pub use pins::check_pins;
pub use prefilter::{Heartbeat, ListMaps, PrefilterMaps};
pub use probe::{Check, checks, require};
pub use random::random_seed;
pub use ring::Ring;
pub use table::{SharedTable, TableSize};
