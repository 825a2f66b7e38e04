//! What a flow remembers, and the one function that adds a packet to it.
//!
//! A flow is two [`Direction`]s that share no written word. Only packets going its way write a direction, so kernel
//! programs on two CPUs need no lock. Some values belong to the flow as a whole: gaps between successive packets of either
//! direction, and active periods. The direction whose packet ends one records it; the flow's value is the merge of both.
//!
//! State is integers. Times are nanoseconds, gaps exact in nanoseconds; active and idle periods are kept in whole
//! microseconds. Means, deviations and rates are finished once, in userspace.
//!
//! [`FlowState::update`] adds a packet. It and the counters of a direction are told layer by layer: `moments` (sums),
//! `direction` (the counters, and sizes), `tcp` and `bulk` (what these add), `state` (the update), `entry` (the flow with
//! its key, as it lies in the table).

mod bulk;
mod direction;
mod entry;
mod moments;
mod state;
mod tcp;

pub use bulk::{BULK_GAP, BULK_PACKETS};
pub use direction::{Direction, HEAD, completion};
pub use entry::{Entry, Opening};
pub use moments::{Gaps, Periods};
pub use state::{FIRST_CHECKPOINT, FlowState, IDLE_GAP, SUBFLOW_GAP, Updated};
pub use tcp::{after, tcp_seen};
