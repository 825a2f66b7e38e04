//! What decides about a packet, and what is done with it.

use super::lists::listed;
use super::mark;
use crate::counter::Skip;

/// From this many packets of its flow on, a verdict is a later one: the second checkpoint.
pub const LATER_PACKETS: u64 = 16;

/// What is done with a packet.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes on as if nobody had looked.
    Pass = 0,
    /// It ends here.
    Drop = 1,
    /// It goes to the inspector in place of where it was going.
    Redirect = 2,
    /// It goes on, and a copy goes to the inspector.
    Clone = 3,
}

impl Action {
    /// The action with this number. An unknown number passes.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Drop,
            2 => Self::Redirect,
            3 => Self::Clone,
            _ => Self::Pass,
        }
    }
}

/// What decides about a packet. The order is that of the table and of the counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The agent's heartbeat is not fresh: passes, whatever the table says.
    Stale = 0,
    /// On the allow list.
    Allowed = 1,
    /// On the deny list.
    Denied = 2,
    /// It belongs to no flow: it is not IP, or cannot be parsed.
    Skipped = 3,
    /// Its flow found no slot.
    Folded = 4,
    /// Its flow has no verdict yet, or its mark means none.
    Unmarked = 5,
    /// Benign since the first checkpoint.
    BenignFirst = 6,
    /// Benign since a later one.
    BenignLater = 7,
    /// Cleared as benign, in the audit lane.
    Audited = 8,
    /// Unknown since the first checkpoint.
    UnknownFirst = 9,
    /// Unknown since a later one.
    UnknownLater = 10,
    /// Malicious since the first checkpoint.
    MaliciousFirst = 11,
    /// Malicious since a later one.
    MaliciousLater = 12,
    /// A fragment too short to be judged, see [`Skip::ShortFragment`].
    ShortFragment = 13,
}

/// Number of [`Cause`]s.
pub const CAUSES: usize = 14;

impl Cause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Self; CAUSES] = [
        Self::Stale,
        Self::Allowed,
        Self::Denied,
        Self::Skipped,
        Self::Folded,
        Self::Unmarked,
        Self::BenignFirst,
        Self::BenignLater,
        Self::Audited,
        Self::UnknownFirst,
        Self::UnknownLater,
        Self::MaliciousFirst,
        Self::MaliciousLater,
        Self::ShortFragment,
    ];

    /// Name as it stands in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Skipped => "skipped",
            Self::Folded => "folded",
            Self::Unmarked => "none",
            Self::BenignFirst => "benign@first",
            Self::BenignLater => "benign@later",
            Self::Audited => "audited",
            Self::UnknownFirst => "unknown@first",
            Self::UnknownLater => "unknown@later",
            Self::MaliciousFirst => "malicious@first",
            Self::MaliciousLater => "malicious@later",
            Self::ShortFragment => "short_fragment",
        }
    }

    /// What a flow's mark says.
    #[inline(always)]
    pub const fn of_mark(mark: u32) -> Self {
        const BENIGN_LATER: u32 = mark::BENIGN | mark::LATER;
        const AUDITED: u32 = mark::BENIGN | mark::AUDITED;
        const AUDITED_LATER: u32 = mark::BENIGN | mark::AUDITED | mark::LATER;
        const UNKNOWN_LATER: u32 = mark::UNKNOWN | mark::LATER;
        const MALICIOUS_LATER: u32 = mark::MALICIOUS | mark::LATER;
        match mark & mark::BITS {
            mark::BENIGN => Self::BenignFirst,
            BENIGN_LATER => Self::BenignLater,
            AUDITED | AUDITED_LATER => Self::Audited,
            mark::UNKNOWN => Self::UnknownFirst,
            UNKNOWN_LATER => Self::UnknownLater,
            mark::MALICIOUS => Self::MaliciousFirst,
            MALICIOUS_LATER => Self::MaliciousLater,
            _ => Self::Unmarked,
        }
    }
}

/// What the programs know of a packet beside its flow's mark: the upper half of [`Seen`].
pub mod seen {
    /// It belongs to a flow.
    pub const FLOW: u32 = 0;
    /// Its flow found no slot.
    pub const FOLDED: u32 = 1;
    /// It belongs to none.
    pub const SKIPPED: u32 = 2;
    /// It is a fragment too short to belong to one.
    pub const SHORT_FRAGMENT: u32 = 3;
}

/// A packet as the decision sees it, in one number so that it can be handed to a BPF function: one of `seen` in the
/// upper half, the flow's mark in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(pub u64);

impl Seen {
    /// A packet of a flow with this mark.
    #[inline(always)]
    pub const fn flow(mark: u32) -> Self {
        Self(mark as u64)
    }

    /// A packet whose flow found no slot.
    pub const FOLDED: Self = Self((seen::FOLDED as u64) << 32);
    /// A packet of no flow.
    pub const SKIPPED: Self = Self((seen::SKIPPED as u64) << 32);

    /// A fragment too short to belong to a flow.
    pub const SHORT_FRAGMENT: Self = Self((seen::SHORT_FRAGMENT as u64) << 32);

    /// A packet of no flow, for the reason with this number of [`Skip`].
    #[inline(always)]
    pub const fn skipped(reason: u32) -> Self {
        if reason == Skip::ShortFragment as u32 { Self::SHORT_FRAGMENT } else { Self::SKIPPED }
    }

    /// True if it belongs to no flow, so that its length is not known.
    #[inline(always)]
    pub const fn is_skipped(self) -> bool {
        (self.0 >> 32) as u32 >= seen::SKIPPED
    }

    /// What decides, if the heartbeat is `fresh` and the lists say `listed`.
    #[inline(always)]
    pub const fn cause(self, fresh: bool, listed: u32) -> Cause {
        if !fresh {
            return Cause::Stale;
        }
        let what = (self.0 >> 32) as u32;
        match listed {
            listed::ALLOW => Cause::Allowed,
            listed::DENY => Cause::Denied,
            _ => match what {
                seen::FLOW => Cause::of_mark(self.0 as u32),
                seen::FOLDED => Cause::Folded,
                seen::SHORT_FRAGMENT => Cause::ShortFragment,
                _ => Cause::Skipped,
            },
        }
    }
}

/// Settings of the pre-filter, constant once the programs are loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefilterConfig {
    /// The number of each cause's [`Action`].
    pub actions: [u32; CAUSES],
    /// Index of the interface that copies leave by; 0 if there is none.
    pub inspector: u32,
}

impl PrefilterConfig {
    /// Everything passes.
    pub const WATCH: Self = Self { actions: [Action::Pass as u32; CAUSES], inspector: 0 };

    /// What is done for this cause.
    #[inline(always)]
    pub fn action(&self, cause: Cause) -> Action {
        // The compiler has seen which causes there are; the kernel's verifier wants them checked.
        match (self.actions.get(core::hint::black_box(cause as usize)), cause) {
            (_, Cause::Stale) | (None, _) => Action::Pass,
            (Some(&number), _) => Action::from_number(number),
        }
    }
}
