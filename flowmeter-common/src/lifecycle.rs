//! When a flow ends: by the clock, by a packet that can only belong to a new one, or because others need the room.

mod pressure;

pub use pressure::{Census, Level, Pressure, RANKS, Standing};

use crate::flow::{Direction, FlowState, tcp_seen};
use crate::key::kind;
use crate::packet::{Packet, protocol, tcp_flags};
use crate::time::SECOND;

/// When flows end, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest time without a packet.
    pub idle: u64,
    /// Longest life of a flow; what goes on is a new flow.
    pub active: u64,
    /// How long a closed TCP flow waits for stray packets.
    pub linger: u64,
}

impl Timeouts {
    /// Longest idle timeout that may be set; the accumulators' bounds are proved for it.
    pub const MAX_IDLE: u64 = 3600 * SECOND;
    /// Longest active timeout that may be set; the accumulators' bounds are proved for it.
    pub const MAX_ACTIVE: u64 = 3600 * SECOND;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { idle: 120 * SECOND, active: 3600 * SECOND, linger: 2 * SECOND }
    }
}

/// A SYN with another initial sequence number on a connection that has been silent for longer than this is a new
/// connection on reused ports: twice the maximum segment lifetime, as Linux takes it (60 s).
pub const TWICE_SEGMENT_LIFETIME: u64 = 60 * SECOND;

/// Why a flow ended.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// No packet for the idle timeout.
    Idle = 1,
    /// Older than the active timeout; a packet after that opens a new flow.
    Active = 2,
    /// FIN in both directions, acknowledged.
    Fin = 3,
    /// RST.
    Reset = 4,
    /// A new connection began on the same addresses and ports.
    PortReuse = 5,
    /// The agent stopped.
    Shutdown = 6,
    /// The capture ended.
    EndOfCapture = 7,
    /// The table was nearly full, and little was known of the flow, see [`Pressure`].
    Pressure = 8,
    /// This is an aggregate of packets whose flows found no slot, see [`crate::aggregate`].
    Folded = 9,
}

impl EndReason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Idle,
        Self::Active,
        Self::Fin,
        Self::Reset,
        Self::PortReuse,
        Self::Shutdown,
        Self::EndOfCapture,
        Self::Pressure,
        Self::Folded,
    ];

    /// Name as it stands in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Fin => "fin",
            Self::Reset => "reset",
            Self::PortReuse => "port_reuse",
            Self::Shutdown => "shutdown",
            Self::EndOfCapture => "end_of_capture",
            Self::Pressure => "pressure",
            Self::Folded => "folded",
        }
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }
}

/// The times that decide whether a flow has ended by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Time of the first packet, ns.
    first: u64,
    /// Time of the last packet, ns.
    last: u64,
    /// When and how the connection was closed, if it was.
    closed: Option<(u64, EndReason)>,
}

impl Ages {
    /// Reads the times of a flow that other CPUs may be updating; `None` if its first packet is still being counted.
    ///
    /// # Safety
    /// `state` points to a readable flow. It may be written meanwhile, in whole aligned words.
    #[inline(always)]
    pub unsafe fn read(state: *const FlowState) -> Option<Self> {
        // SAFETY: the caller's promise; both are fields of the flow.
        let (a, b) = unsafe {
            let directions = (&raw const (*state).directions).cast::<Direction>();
            (Half::read(directions), Half::read(directions.add(1)))
        };
        match (a.present, b.present) {
            (true, true) => Some(Self {
                first: if a.first < b.first { a.first } else { b.first },
                last: if a.last > b.last { a.last } else { b.last },
                closed: match (a.closed, b.closed) {
                    (Some(x), Some(y)) => Some(if x.0 < y.0 { x } else { y }),
                    (one, None) | (None, one) => one,
                },
            }),
            (true, false) => Some(a.into()),
            (false, true) => Some(b.into()),
            (false, false) => None,
        }
    }

    /// Why the flow has ended by the clock at `now`: the earliest of its deadlines that has passed. `None` if none has.
    #[inline(always)]
    pub fn expired(&self, now: u64, timeouts: &Timeouts) -> Option<EndReason> {
        let mut reason = None;
        let mut earliest = u64::MAX;
        let idle = self.last.wrapping_add(timeouts.idle);
        if now > idle {
            earliest = idle;
            reason = Some(EndReason::Idle);
        }
        let active = self.first.wrapping_add(timeouts.active);
        if now > active && active < earliest {
            earliest = active;
            reason = Some(EndReason::Active);
        }
        if let Some((closed_at, why)) = self.closed {
            let linger = closed_at.wrapping_add(timeouts.linger);
            if now > linger && linger < earliest {
                reason = Some(why);
            }
        }
        reason
    }

    /// True if the flow has been silent for no longer than the idle timeout: a packet now goes on with its conversation.
    #[inline(always)]
    fn fresh(&self, now: u64, timeouts: &Timeouts) -> bool {
        now <= self.last.wrapping_add(timeouts.idle)
    }

    /// What becomes of the flow at `now`, if no packet of it comes.
    pub fn fate(&self, now: u64, timeouts: &Timeouts) -> Fate {
        match self.expired(now, timeouts) {
            None => Fate::Living,
            Some(EndReason::Active) if self.fresh(now, timeouts) => Fate::Cut,
            Some(reason) => Fate::Ended(reason),
        }
    }

    /// The first time at which [`fate`](Self::fate) differs from what it is at `now`; for a flow that lives or is cut.
    pub fn next_change(&self, now: u64, timeouts: &Timeouts) -> u64 {
        let idle = self.last.wrapping_add(timeouts.idle);
        let active = self.first.wrapping_add(timeouts.active);
        let linger = self.closed.map_or(u64::MAX, |(closed_at, _)| closed_at.wrapping_add(timeouts.linger));
        let earliest = [idle, active, linger].into_iter().filter(|&deadline| deadline >= now).min();
        earliest.unwrap_or(idle).wrapping_add(1)
    }
}

/// What the clock makes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Living,
    /// Past its active timeout: no packet will be counted in it any more, and its record is complete. But its conversation
    /// is not idle, so its slot is kept until it is, or until the next packet. That packet finds there who the initiator
    /// is, however late or early the clock was looked at.
    Cut,
    /// It has ended.
    Ended(EndReason),
}

/// How a packet ended the flow before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub reason: EndReason,
    /// True if the packet goes on with the same conversation, see [`crate::flow::Opening::continuing`].
    pub continued: bool,
}

/// One direction's part of [`Ages`].
#[derive(Clone, Copy)]
struct Half {
    present: bool,
    first: u64,
    last: u64,
    closed: Option<(u64, EndReason)>,
}

impl Half {
    #[inline(always)]
    unsafe fn read(direction: *const Direction) -> Self {
        // SAFETY: the caller's promise. Volatile: each word is read once, whatever the other CPU does.
        let (first, last, seen, closed_at) = unsafe {
            (
                (&raw const (*direction).first).read_volatile(),
                (&raw const (*direction).last).read_volatile(),
                (&raw const (*direction).tcp_seen).read_volatile(),
                (&raw const (*direction).closed_at).read_volatile(),
            )
        };
        let why = if seen & tcp_seen::CLOSED_BY_RESET != 0 { EndReason::Reset } else { EndReason::Fin };
        // Other CPUs' stores may be seen in any order. Two rules tell values that have not arrived yet: before its first
        // packet a direction has its first time after its last, and no connection closes before it begins.
        Self {
            present: first <= last,
            first,
            last,
            closed: if seen & tcp_seen::CLOSED != 0 && closed_at >= first {
                Some((closed_at, why))
            } else {
                None
            },
        }
    }
}

impl From<Half> for Ages {
    #[inline(always)]
    fn from(half: Half) -> Self {
        Self { first: half.first, last: half.last, closed: half.closed }
    }
}

/// True if the packet certainly belongs to the flow. Nearly every packet passes this test, which takes few instructions.
#[inline(always)]
fn goes_on(state: &FlowState, packet: &Packet, now: u64, timeouts: &Timeouts) -> bool {
    let [a, b] = &state.directions;
    let first = if a.first < b.first { a.first } else { b.first };
    let last = if a.last > b.last { a.last } else { b.last };
    now.wrapping_sub(last) <= timeouts.idle
        && now.wrapping_sub(first) <= timeouts.active
        && (a.tcp_seen | b.tcp_seen) & tcp_seen::CLOSED == 0
        && packet.flags & tcp_flags::SYN == 0
}

/// Whether the flow has ended before `packet`, seen at `now`, so that the packet opens a new one.
#[inline(always)]
pub fn ended_before(state: &FlowState, packet: &Packet, now: u64, timeouts: &Timeouts) -> Option<Ending> {
    if goes_on(state, packet, now, timeouts) {
        return None;
    }
    // SAFETY: a reference points to a readable flow.
    let ages = unsafe { Ages::read(state) }?;
    if let Some(reason) = ages.expired(now, timeouts) {
        let continued = matches!(reason, EndReason::Active) && ages.fresh(now, timeouts);
        return Some(Ending { reason, continued });
    }
    if packet.key.protocol == protocol::TCP
        && packet.key.kind != kind::AGGREGATE
        && packet.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    {
        if let Some((_, reason)) = ages.closed {
            return Some(Ending { reason, continued: false });
        }
        let [a, b] = &state.directions;
        let own = if packet.direction & 1 == 0 { a } else { b };
        if own.has(tcp_seen::SYN)
            && own.initial_sequence != packet.sequence
            && now.saturating_sub(ages.last) > TWICE_SEGMENT_LIFETIME
        {
            return Some(Ending { reason: EndReason::PortReuse, continued: false });
        }
    }
    None
}
