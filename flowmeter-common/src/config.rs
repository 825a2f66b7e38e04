//! What the agent sets in the kernel programs before they are loaded.

use crate::hash::HashKeys;
use crate::lifecycle::Timeouts;
use crate::table::Buckets;

/// Largest number of interfaces watched by one agent.
pub const MAX_INTERFACES: u32 = 64;

/// Settings of the kernel programs, constant once they are loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelConfig {
    /// When flows end.
    pub timeouts: Timeouts,
    /// Secrets of the flow hash.
    pub hash_keys: HashKeys,
    /// How many buckets the table has.
    pub buckets: Buckets,
    /// Odd number that maps each watched interface index to a counter slot of its own, see [`counter_slot`].
    pub interface_multiplier: u32,
    /// 1 if an event is wanted for each opened flow.
    pub events_opened: u32,
    /// 1 if tunnels are looked into, see [`crate::parse::ParseOptions`].
    pub tunnels: u32,
    /// 1 if programs can be interrupted by others on the same CPU, as on real-time kernels: they look for it then.
    pub interruptible: u32,
}

/// Counter slot of an interface: the top six bits of a product. The agent searches a multiplier that gives each
/// watched interface a slot of its own, so that the kernel needs no map to find it.
#[inline(always)]
pub const fn counter_slot(interface: u32, multiplier: u32) -> u32 {
    interface.wrapping_mul(multiplier) >> (32 - MAX_INTERFACES.ilog2())
}
