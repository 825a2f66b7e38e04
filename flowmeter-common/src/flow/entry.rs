//! A flow as it lies in the table: its key, its counters, and the verdict on it.

use core::mem::MaybeUninit;

use super::direction::Direction;
use super::state::FlowState;
use crate::key::FlowKey;
use crate::packet::{Packet, tcp_flags};

/// A flow in the table. Fifteen cache lines.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The flow's key.
    pub key: FlowKey,
    /// The latest verdict, written by the agent at once, and how often the entry has been opened; see
    /// [`crate::prefilter::mark`].
    pub verdict: u32,
    /// Direction (0 or 1) of the initiator's packets.
    pub initiator: u8,
    /// Why the flow was ended, written by who ended it; see [`crate::lifecycle::EndReason`].
    pub end_reason: u8,
    /// Not 0 once the flow's record has been given out although the slot is kept; written by the agent only, see
    /// [`crate::lifecycle::Fate::Cut`].
    pub reported: u16,
    /// Its counters.
    pub state: FlowState,
}

const _: () = assert!(size_of::<Entry>() == 960, "an entry fills fifteen cache lines");

impl Entry {
    /// A flow of which `packet` is the first, not yet counted.
    pub fn opened_by(packet: &Packet, opening: Opening) -> Self {
        let mut entry = MaybeUninit::uninit();
        // SAFETY: the entry is ours, and every word of it is written.
        unsafe {
            Self::write_opened(entry.as_mut_ptr(), packet, opening);
            entry.assume_init()
        }
    }

    /// Becomes what [`opened_by`](Self::opened_by) gives, whatever it was.
    pub fn open(&mut self, packet: &Packet, opening: Opening) {
        // SAFETY: nobody else can reach what is borrowed.
        unsafe { Self::write_opened(self, packet, opening) }
    }

    /// Writes what [`opened_by`](Self::opened_by) gives, word by word. An entry is larger than a BPF program's stack, so it
    /// cannot be made there and moved.
    ///
    /// # Safety
    /// `entry` points to a writable entry that nobody else reads or writes.
    #[inline(always)]
    pub unsafe fn write_opened(entry: *mut Self, packet: &Packet, opening: Opening) {
        static EMPTY: Direction = Direction::EMPTY;
        const WORDS: usize = size_of::<Direction>() / 8;
        let source = core::ptr::from_ref(&EMPTY).cast::<u64>();
        // SAFETY: the caller owns the entry; both offsets stay within one direction of 8-byte words. Volatile, or the
        // compiler makes a call to memcpy of it, which the kernel's verifier walks through byte by byte.
        unsafe {
            (*entry).key = packet.key;
            (*entry).verdict = 0;
            (*entry).initiator = opening.initiator;
            (*entry).end_reason = 0;
            (*entry).reported = 0;
            let target = (&raw mut (*entry).state).cast::<u64>();
            let mut i = 0;
            while i < WORDS {
                let word = source.add(i).read();
                target.add(i).write_volatile(word);
                target.add(WORDS + i).write_volatile(word);
                i += 1;
            }
            (*entry).state.directions[0].earlier = opening.earlier;
        }
    }
}

/// What a new flow takes from outside of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Direction of the initiator's packets.
    pub initiator: u8,
    /// See [`Direction::earlier`].
    pub earlier: u64,
}

impl Opening {
    /// For a flow that begins with `packet`. The packet's sender is the initiator, except of a SYN+ACK: that is an answer.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        Self { initiator: packet.direction ^ packet.has(tcp_flags::SYN | tcp_flags::ACK) as u8, earlier: 0 }
    }

    /// For a flow that goes on where the active timeout has cut `flow`. The initiator stays the same.
    #[inline(always)]
    pub fn continuing(flow: &Entry) -> Self {
        Self { initiator: flow.initiator, earlier: flow.state.earlier().wrapping_add(flow.state.duration()) }
    }
}
