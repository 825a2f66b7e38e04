//! The pre-filter's decision: from a flow's mark, the lists and the heartbeat to what becomes of a packet.
//!
//! The agent writes a [`mark`] into a flow's slot. For each packet the kernel programs derive a [`Cause`] from the mark
//! and from what else they know, look its [`Action`] up in the one table that the agent has set, act, and count the
//! packet by cause and [`Outcome`]. Without a fresh heartbeat nothing is looked at: the packet passes.

mod control;
mod counters;
mod decision;
mod lists;
pub mod mark;

pub use control::{BEAT_EVERY, BEAT_LIFE, Control, fresh};
pub use counters::{OUTCOMES, Outcome, PrefilterCounters, Tally};
pub use decision::{Action, CAUSES, Cause, LATER_PACKETS, PrefilterConfig, Seen};
pub use lists::{ListKey, MAX_RULES, listed, which_list};

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
        assert_eq!(Seen::SKIPPED.cause(true, listed::DENY), Cause::Denied, "whatever follows the IP header");
        assert_eq!(Seen::SKIPPED.cause(true, listed::NONE), Cause::Skipped);
        assert_eq!(Seen::SHORT_FRAGMENT.cause(true, listed::ALLOW), Cause::Allowed);
        assert_eq!(Seen::SHORT_FRAGMENT.cause(true, listed::NONE), Cause::ShortFragment);
        assert_eq!(malicious.cause(true, 77), Cause::MaliciousFirst, "what is no list says nothing");
        assert_eq!(which_list(listed::NONE, listed::DENY, listed::NONE, listed::ALLOW), listed::ALLOW);
        assert_eq!(which_list(listed::DENY, listed::ALLOW, listed::NONE, listed::NONE), listed::DENY);
        assert_eq!(which_list(77, 0, 0, 0), listed::NONE);
    }
}
