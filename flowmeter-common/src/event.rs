//! What the kernel tells the agent, over the ring buffer: events, never packets.

/// Why an event was sent.
pub mod reason {
    /// A flow took the slot. Sent only when asked for.
    pub const OPENED: u32 = 1;
    /// The flow's packets reached 8, 16, 32, ...
    pub const CHECKPOINT: u32 = 2;
    /// The flow began to close (FIN both ways and acknowledged, or RST), or a new flow with its key ended it.
    pub const CLOSING: u32 = 3;
    /// Packets find no slot: sent at each doubling of their number on a CPU, and every 65,536. Slot and tag are zero.
    pub const NO_ROOM: u32 = 4;
}

/// One event, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Slot of the flow in the table.
    pub slot: u32,
    /// One of [`reason`].
    pub reason: u32,
    /// Tag of the slot at that time; if the slot's tag differs now, the flow has gone.
    pub tag: u64,
}

const _: () = assert!(size_of::<Event>() == 16);
