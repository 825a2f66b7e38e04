//! The pre-filter's decision: from a flow's mark, the lists and the heartbeat to what becomes of a packet.
//!
//! The agent writes a [`mark`] into a flow's slot. For each packet the kernel programs derive a [`Cause`] from the mark
//! and from what else they know, look its [`Action`] up in the one table that the agent has set, act, and count the
//! packet by cause and [`Outcome`]. Without a fresh heartbeat nothing is looked at: the packet passes.

/// What the agent leaves in a flow's slot: a verdict, when it was given, and whether the flow is in the audit lane.
///
/// Every word that [`mark::of`] does not make counts as no mark at all.
pub mod mark {
    /// No verdict.
    pub const NONE: u32 = 0;
    /// The verdict benign.
    pub const BENIGN: u32 = 1;
    /// The verdict unknown.
    pub const UNKNOWN: u32 = 2;
    /// The verdict malicious.
    pub const MALICIOUS: u32 = 3;
    /// Bits of the verdict.
    pub const VERDICT: u32 = 0xff;
    /// The verdict was given after the flow's first checkpoint.
    pub const LATER: u32 = 1 << 8;
    /// Cleared as benign, and chosen at random to go to the inspector all the same.
    pub const AUDITED: u32 = 1 << 9;
    /// Bits of the mark in a flow's word. Above them stands how often the entry has been opened: by that a mark that comes
    /// late does not meet the next flow in the entry. It comes round after 2^16 flows, each of which a grace period
    /// follows; a mark is not that late.
    pub const BITS: u32 = 0xffff;

    /// The mark of a verdict with this number.
    pub const fn of(verdict: u32, later: bool, audited: bool) -> u32 {
        let verdict = verdict & VERDICT;
        let mut mark = verdict;
        if verdict != NONE && later {
            mark |= LATER;
        }
        if verdict == BENIGN && audited {
            mark |= AUDITED;
        }
        mark
    }

    /// The number of a mark's verdict.
    pub const fn verdict(mark: u32) -> u32 {
        mark & VERDICT
    }

    /// The word of the flow that opens the entry after the one with this word: without a verdict.
    #[inline(always)]
    pub const fn reopened(word: u32) -> u32 {
        (word & !BITS).wrapping_add(BITS + 1)
    }

    /// The word of the same flow with another mark.
    pub const fn changed(word: u32, mark: u32) -> u32 {
        word & !BITS | mark & BITS
    }

    /// A flow's word in shared memory: written by who opens the entry, and from then on by the agent alone.
    pub trait Word {
        /// Reads it.
        fn load(&self) -> u32;
        /// Replaces `current` by `new`; false if the word was something else.
        fn compare_exchange(&self, current: u32, new: u32) -> bool;
    }

    /// Marks the flow whose word was `seen`, some time ago, if it is still the one in the entry; false if it is not.
    pub fn give<W: Word>(word: &W, seen: u32, mark: u32) -> bool {
        loop {
            let present = word.load();
            if (present ^ seen) & !BITS != 0 {
                return false;
            }
            if word.compare_exchange(present, changed(present, mark)) {
                return true;
            }
        }
    }
}

/// Packets of a flow from which on a verdict is a later one: those of the second checkpoint.
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
    /// The action with this number; whatever is none passes.
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
    /// No packet of a flow: not IP, or it cannot be parsed.
    Skipped = 3,
    /// Its flow found no slot.
    Folded = 4,
    /// Its flow has no verdict yet, or none that is one.
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
}

/// Number of [`Cause`]s.
pub const CAUSES: usize = 13;

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

/// What the lists say of a packet.
pub mod listed {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// It is on the allow list.
    pub const ALLOW: u32 = 1;
    /// It is on the deny list.
    pub const DENY: u32 = 2;
}

/// What the programs know of a packet beside its flow's mark: the upper half of [`Seen`].
pub mod seen {
    /// It belongs to a flow.
    pub const FLOW: u32 = 0;
    /// Its flow found no slot.
    pub const FOLDED: u32 = 1;
    /// It belongs to none.
    pub const SKIPPED: u32 = 2;
}

/// A packet as the decision sees it, in one number so that it can be handed to a BPF function: one of [`seen`] in the
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

    /// What decides, if the heartbeat is `fresh` and the lists say `listed`.
    #[inline(always)]
    pub const fn cause(self, fresh: bool, listed: u32) -> Cause {
        if !fresh {
            return Cause::Stale;
        }
        let what = (self.0 >> 32) as u32;
        if what == seen::SKIPPED {
            return Cause::Skipped;
        }
        match listed {
            listed::ALLOW => Cause::Allowed,
            listed::DENY => Cause::Denied,
            _ if what == seen::FLOW => Cause::of_mark(self.0 as u32),
            _ => Cause::Folded,
        }
    }
}

/// What became of a packet. The order is that of the counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Passed.
    Passed = 0,
    /// Dropped.
    Dropped = 1,
    /// Redirected to the inspector.
    Diverted = 2,
    /// Passed, and a copy went to the inspector.
    Cloned = 3,
    /// Passed, although it, or its copy, should have gone to the inspector: that was not there, or had no room.
    Failed = 4,
}

/// Number of [`Outcome`]s.
pub const OUTCOMES: usize = 5;

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; OUTCOMES] =
        [Self::Passed, Self::Dropped, Self::Diverted, Self::Cloned, Self::Failed];

    /// Name as it stands in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Dropped => "dropped",
            Self::Diverted => "diverted",
            Self::Cloned => "cloned",
            Self::Failed => "failed",
        }
    }
}

/// How long a heartbeat is fresh, in nanoseconds. With the time that the agent takes to renew it this keeps below the two
/// seconds that are promised.
pub const BEAT_LIFE: u64 = 1_500_000_000;

/// How often the agent renews it, in nanoseconds.
pub const BEAT_EVERY: u64 = 100_000_000;

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

/// What the agent tells the programs while they run; in memory shared with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CLOCK_MONOTONIC (ns) at the agent's latest heartbeat; 0 before the first.
    pub beat: u64,
    /// Which of the two tries holds the lists: 1 or 2; 0 if there are no rules.
    pub lists: u32,
    /// Always zero.
    pub reserved: u32,
    /// What the agent has taken out of the table, for the next one: flows, packets and bytes in them, and packets in
    /// aggregates.
    pub ledger: [u64; 4],
}

/// Whether a heartbeat of that time is still good at `now`. One from the future, which CPUs whose clocks differ by a few
/// nanoseconds may see, is.
#[inline(always)]
pub const fn fresh(beat: u64, now: u64) -> bool {
    beat != 0 && now < beat.saturating_add(BEAT_LIFE)
}

/// Packets and bytes (of IP packets; what belongs to no flow has none).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets; super-packets count their segments.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// What became of the packets of one interface, in one direction. The kernel keeps one for each CPU.
///
/// Each packet that a program of the pre-filter has seen is in exactly one tally.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefilterCounters {
    /// By cause, then by outcome.
    pub tallies: [[Tally; OUTCOMES]; CAUSES],
}

impl PrefilterCounters {
    /// Counts a packet.
    #[inline(always)]
    pub fn count(&mut self, cause: Cause, outcome: Outcome, packets: u64, bytes: u64) {
        // Both for the verifier, as above.
        let (cause, outcome) =
            (core::hint::black_box(cause as usize), core::hint::black_box(outcome as usize));
        if let Some(tally) = self.tallies.get_mut(cause).and_then(|of| of.get_mut(outcome)) {
            tally.packets += packets;
            tally.bytes += bytes;
        }
    }

    /// Adds another CPU's or interface's counters.
    pub fn add(&mut self, other: &Self) {
        for (own, more) in self.tallies.iter_mut().flatten().zip(other.tallies.iter().flatten()) {
            own.add(more);
        }
    }

    /// All that was counted.
    pub fn total(&self) -> Tally {
        self.sum(|_, _| true)
    }

    /// The sum of those tallies.
    pub fn sum(&self, wanted: impl Fn(Cause, Outcome) -> bool) -> Tally {
        let mut sum = Tally::default();
        for (cause, outcomes) in Cause::ALL.into_iter().zip(&self.tallies) {
            for (outcome, tally) in Outcome::ALL.into_iter().zip(outcomes) {
                if wanted(cause, outcome) {
                    sum.add(tally);
                }
            }
        }
        sum
    }
}

/// Key of the tries that hold the lists: a longest-prefix match needs the length first (linux/bpf.h, bpf_lpm_trie_key).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListKey {
    /// Bits that count, of all that follow: [`ListKey::FIXED`] and those of the prefix.
    pub bits: u32,
    /// 1 if the rule has a port, else 0.
    pub scope: u16,
    /// The port; 0 if the rule has none.
    pub port: u16,
    /// The address as [`crate::key::FlowKey`] has it.
    pub address: [u64; 2],
}

impl ListKey {
    /// Bits before the address.
    pub const FIXED: u32 = 32;
    /// Bits of a whole key.
    pub const ALL: u32 = Self::FIXED + 128;
    /// Bytes after the length.
    pub const BYTES: usize = size_of::<Self>() - 4;
}

const _: () = assert!(size_of::<ListKey>() == 24, "a key has no padding");

/// The most rules that both lists may have together.
pub const MAX_RULES: u32 = 65_536;

/// What the lists say, each endpoint having been looked up with its port and without: of an endpoint the rule with a port
/// decides before one without; of the two endpoints the allow list decides before the deny list.
#[inline(always)]
pub const fn which_list(a_port: u32, a: u32, b_port: u32, b: u32) -> u32 {
    let a = if a_port != listed::NONE { a_port } else { a };
    let b = if b_port != listed::NONE { b_port } else { b };
    if a == listed::ALLOW || b == listed::ALLOW {
        listed::ALLOW
    } else if a == listed::DENY || b == listed::DENY {
        listed::DENY
    } else {
        listed::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_outcomes_stand_at_their_own_number_and_have_different_names() {
        for (i, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, i);
            assert!(Cause::ALL.iter().all(|other| other == cause || other.name() != cause.name()));
        }
        for (i, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, i);
        }
    }

    #[test]
    fn of_all_words_only_marks_mean_anything() {
        let made = |word: u32| {
            (1..=3).any(|verdict| {
                [(false, false), (true, false), (false, true), (true, true)]
                    .iter()
                    .any(|&(later, audited)| mark::of(verdict, later, audited) == word)
            })
        };
        // All words in which only the bits that have a meaning can be set, each with one more bit, and a stride over all.
        let words = (0..=0x3ff_u32)
            .chain((0..=0x3ff).flat_map(|word| (10..32).map(move |bit| word | 1 << bit)))
            .chain((0..=u32::MAX).step_by(65_537));
        for word in words {
            // Above the mark stands how often the entry was opened, which says nothing of the flow.
            assert_eq!(Cause::of_mark(word) != Cause::Unmarked, made(word & mark::BITS), "{word:#x}");
        }
        assert_eq!(Cause::of_mark(mark::of(mark::MALICIOUS, true, true)), Cause::MaliciousLater);
        assert_eq!(Cause::of_mark(mark::of(mark::BENIGN, true, true)), Cause::Audited);
    }

    #[test]
    fn without_a_heartbeat_everything_passes() {
        let config = PrefilterConfig { actions: [Action::Drop as u32; CAUSES], inspector: 0 };
        for seen in [Seen::flow(mark::MALICIOUS), Seen::FOLDED, Seen::SKIPPED] {
            for listed in 0..4 {
                assert_eq!(config.action(seen.cause(false, listed)), Action::Pass);
            }
        }
        assert!(!fresh(0, 1), "there has been none");
        assert!(fresh(1000, 1000 + BEAT_LIFE - 1) && !fresh(1000, 1000 + BEAT_LIFE));
        assert!(fresh(1000, 998), "clocks of two processors");
    }

    #[test]
    fn lists_come_before_verdicts_ports_before_addresses_allow_before_deny() {
        let malicious = Seen::flow(mark::MALICIOUS);
        assert_eq!(malicious.cause(true, listed::ALLOW), Cause::Allowed);
        assert_eq!(Seen::FOLDED.cause(true, listed::DENY), Cause::Denied);
        assert_eq!(Seen::SKIPPED.cause(true, listed::DENY), Cause::Skipped);
        assert_eq!(malicious.cause(true, 77), Cause::MaliciousFirst, "what is no list says nothing");
        assert_eq!(which_list(listed::NONE, listed::DENY, listed::NONE, listed::ALLOW), listed::ALLOW);
        assert_eq!(which_list(listed::DENY, listed::ALLOW, listed::NONE, listed::NONE), listed::DENY);
        assert_eq!(which_list(77, 0, 0, 0), listed::NONE);
    }
}
