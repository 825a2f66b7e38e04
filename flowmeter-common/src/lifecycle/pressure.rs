//! What leaves first when the table fills: that of which least is known.
//!
//! Anyone can make a flow with one packet, or with a thousand. What only a conversation has is an answer. So a flow that
//! nobody has answered is slight, whatever it has sent, and so is a TCP connection that was never established. While
//! the table has room slight flows are flows like any other. As it fills they leave after a short silence, and if that does
//! not make room, the least known leave without one, rank by rank, until there is.

use crate::flow::{Direction, Entry, tcp_seen};
use crate::key::{FlowKey, kind};
use crate::packet::protocol;
use crate::time::SECOND;

/// How full the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    Low,
    /// Three quarters of the flows are there that there is room for: slight ones leave after five seconds of silence.
    Raised,
    /// Nine tenths are, or packets have found no slot since the last sweep: after half a second; closed flows do not
    /// linger; and the least known leave in any case.
    High,
}

impl Level {
    /// The level with so many living flows in a table for `room`, if packets have found it full (`folding`) or not. Packets
    /// that other CPUs kept from their slot do not count: they say nothing of how full it is.
    pub const fn of(living: u64, room: u64, folding: bool) -> Self {
        if folding || living >= room / 10 * 9 {
            Self::High
        } else if living >= room / 4 * 3 {
            Self::Raised
        } else {
            Self::Low
        }
    }

    /// How long slight flows may be silent, if it is not longer than the idle timeout.
    pub const fn slight_idle(self) -> u64 {
        match self {
            Self::Low => u64::MAX,
            Self::Raised => 5 * SECOND,
            Self::High => SECOND / 2,
        }
    }
}

/// Ranks of flows by how much is known of them: a flow of rank 0 leaves first.
pub const RANKS: usize = 7;
/// The first rank of flows that are not slight.
const ANSWERED: usize = 4;
/// How old an unanswered flow is, and how long another has been silent, before it leaves by its rank: longer than most
/// answers take, so that a conversation that begins is not taken for a flood.
const GRACE: u64 = SECOND / 2;

/// What is known of a flow, as far as it matters for who leaves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Packets of both directions.
    packets: [u64; 2],
    /// A TCP connection that began here and has not been established.
    half_open: bool,
    /// Time of the first packet, ns.
    first: u64,
    /// Time of the last packet, ns.
    last: u64,
}

impl Standing {
    /// Reads it.
    ///
    /// # Safety
    /// `entry` points to a readable entry. Its state may be written meanwhile, in whole aligned words.
    pub unsafe fn read(entry: *const Entry) -> Self {
        // SAFETY: the caller's promise. Volatile: each word is read once, whatever another CPU does.
        unsafe {
            let directions = (&raw const (*entry).state.directions).cast::<Direction>();
            let both = |which: usize| {
                let direction = directions.add(which);
                (
                    (&raw const (*direction).packets).read_volatile(),
                    (&raw const (*direction).first).read_volatile(),
                    (&raw const (*direction).last).read_volatile(),
                    (&raw const (*direction).tcp_seen).read_volatile(),
                )
            };
            let (a, b) = (both(0), both(1));
            let seen = a.3 | b.3;
            let FlowKey { protocol, kind, .. } = (*entry).key;
            Self {
                packets: [a.0, b.0],
                half_open: protocol == protocol::TCP
                    && kind == kind::WHOLE
                    && seen & tcp_seen::SYN != 0
                    && seen & tcp_seen::ESTABLISHED == 0,
                first: a.1.min(b.1),
                last: a.2.max(b.2),
            }
        }
    }

    /// True if nobody has answered.
    const fn unanswered(&self) -> bool {
        self.packets[0] == 0 || self.packets[1] == 0
    }

    /// True if little is known of the flow and little lost with it.
    pub const fn is_slight(&self) -> bool {
        self.half_open || self.unanswered()
    }

    /// Its rank, below [`RANKS`].
    pub const fn rank(&self) -> usize {
        let packets = self.packets[0].saturating_add(self.packets[1]);
        match (self.is_slight(), packets) {
            (true, 0..=1) => 0,
            (true, 2..=3) => 1,
            (true, 4..=7) => 2,
            (true, _) => 3,
            (false, 0..=7) => ANSWERED,
            (false, 8..=63) => ANSWERED + 1,
            (false, _) => ANSWERED + 2,
        }
    }

    /// True if it has had its time to become better known, and may leave by its rank.
    const fn may_leave(&self, now: u64) -> bool {
        let since = if self.unanswered() { self.first } else { self.last };
        now.saturating_sub(since) > GRACE
    }
}

/// How many flows of each rank may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Flows of each rank that may leave now.
    ready: [u64; RANKS],
    /// Slight flows, those included that are too young to leave.
    slight: u64,
}

impl Census {
    /// Counts a flow that stays for now.
    pub const fn add(&mut self, standing: &Standing, now: u64) {
        if standing.may_leave(now) {
            self.ready[standing.rank()] += 1;
        }
        if standing.is_slight() {
            self.slight += 1;
        }
    }

    /// The ranks, from the lowest up to this one (not included), whose flows have to leave to make room for so many.
    ///
    /// Answered flows are among them only if the slight ones are too few. If they are many but too young, the table waits
    /// for them: otherwise a flood of new flows would push out the conversations that were there before.
    const fn ranks_for(&self, many: u64) -> usize {
        let ranks = if self.slight >= many { ANSWERED } else { RANKS };
        let (mut rank, mut made) = (0, 0_u64);
        while rank < ranks && made < many {
            made = made.saturating_add(self.ready[rank]);
            rank += 1;
        }
        rank
    }
}

/// How hard the table is pressed, and who leaves for it: set before each sweep, from what the one before has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// How full the table is.
    pub level: Level,
    /// Flows of ranks below this one leave.
    ranks: usize,
}

impl Pressure {
    /// None.
    pub const NONE: Self = Self { level: Level::Low, ranks: 0 };

    /// The pressure of a table with room for `room` flows in which the last sweep has left `living`, of which `census` tells
    /// who may leave; `folding` if packets have found it full since.
    pub const fn of(living: u64, room: u64, folding: bool, census: &Census) -> Self {
        let level = Level::of(living, room, folding);
        let ranks = match level {
            // Down to where pressure begins.
            Level::High => census.ranks_for(living.saturating_sub(room / 4 * 3)),
            Level::Low | Level::Raised => 0,
        };
        Self { level, ranks }
    }

    /// True if the flow has to leave at `now`; `idle` is the idle timeout.
    pub const fn evicts(&self, standing: &Standing, now: u64, idle: u64) -> bool {
        let limit = self.level.slight_idle();
        let limit = if idle < limit { idle } else { limit };
        match self.level {
            Level::Low => false,
            Level::Raised | Level::High => {
                standing.is_slight() && now.saturating_sub(standing.last) > limit
                    || standing.rank() < self.ranks && standing.may_leave(now)
            }
        }
    }
}
