//! The pre-filter's policy: one table of what is done for each verdict, and the marks that tell the kernel of verdicts.

use std::num::NonZeroU32;

use flowmeter_common::hash::HashKeys;
use flowmeter_common::prefilter::{Action, CAUSES, Cause, LATER_PACKETS, PrefilterConfig, mark};

use crate::config::{Mode, PrefilterSettings};
use crate::model::Verdict;
use crate::record::FlowRecord;

/// What is done for a cause in a mode unless it is told otherwise.
fn usual(mode: Mode, cause: Cause) -> Action {
    let benign = matches!(cause, Cause::Allowed | Cause::BenignFirst | Cause::BenignLater);
    let malicious =
        matches!(cause, Cause::Denied | Cause::ShortFragment | Cause::MaliciousFirst | Cause::MaliciousLater);
    match mode {
        _ if cause == Cause::Stale => Action::Pass,
        Mode::Mirror if !benign => Action::Clone,
        Mode::Divert if benign => Action::Drop,
        Mode::Divert => Action::Redirect,
        Mode::Block if malicious => Action::Drop,
        Mode::Watch | Mode::Mirror | Mode::Block => Action::Pass,
    }
}

/// The table of actions: what becomes of a packet, by what decides about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    mode: Mode,
    inspector: Option<(String, u32)>,
    actions: [Action; CAUSES],
    audit: Option<NonZeroU32>,
}

impl Policy {
    /// The table of these settings. `inspector` is the number of the interface that they name.
    pub fn new(settings: &PrefilterSettings, inspector: Option<u32>) -> Self {
        let mut actions = Cause::ALL.map(|cause| usual(settings.mode, cause));
        for &(cause, action) in &settings.overrides {
            actions[cause as usize] = action;
        }
        Self {
            mode: settings.mode,
            inspector: settings.inspector.clone().zip(inspector),
            actions,
            audit: settings.audit,
        }
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// True if the packets of a flow that is called malicious are dropped.
    pub fn blocks_malicious(&self) -> bool {
        self.actions[Cause::MaliciousFirst as usize] == Action::Drop
            && self.actions[Cause::MaliciousLater as usize] == Action::Drop
    }

    /// In the kernel programs' terms.
    pub fn config(&self) -> PrefilterConfig {
        PrefilterConfig {
            actions: self.actions.map(|action| action as u32),
            inspector: self.inspector.as_ref().map_or(0, |(_, index)| *index),
        }
    }

    /// The table in words, a line each; nothing if all passes.
    pub fn lines(&self) -> Vec<String> {
        if self.mode == Mode::Watch {
            return Vec::new();
        }
        let inspector = self.inspector.as_ref().map_or("", |(name, _)| name.as_str());
        let does = |action: Action| match action {
            Action::Pass if self.mode == Mode::Mirror => format!("passes, and {inspector} is spared it"),
            Action::Pass => "passes".to_owned(),
            Action::Drop if self.mode == Mode::Divert => {
                format!("is dropped here, and {inspector} is spared it")
            }
            Action::Drop => "is dropped".to_owned(),
            Action::Redirect => format!("goes to {inspector}"),
            Action::Clone => format!("passes, and a copy goes to {inspector}"),
        };
        let audit = match self.audit {
            Some(n) => format!("one at random of every {n} flows cleared as benign, for the audit"),
            None => "cleared as benign and chosen for the audit (none is, without --audit)".to_owned(),
        };
        let mut lines =
            vec![format!("mode {}: what becomes of a packet, by what is known of it", self.mode.name())];
        lines.extend(Cause::ALL.into_iter().map(|cause| {
            let what = match cause {
                Cause::Stale => "while the agent does not score (dead, hung, or its model fails)",
                Cause::Allowed => "on the allow list",
                Cause::Denied => "on the deny list",
                Cause::Skipped => "of no flow (ARP, what cannot be parsed)",
                Cause::Folded => "of a flow that found no slot",
                Cause::Unmarked => "of a flow without a verdict yet",
                Cause::BenignFirst => "benign at its first checkpoint",
                Cause::BenignLater => "benign at a later one",
                Cause::Audited => audit.as_str(),
                Cause::UnknownFirst => "unknown at its first checkpoint",
                Cause::UnknownLater => "unknown at a later one",
                Cause::MaliciousFirst => "malicious at its first checkpoint",
                Cause::MaliciousLater => "malicious at a later one",
                Cause::ShortFragment => "a fragment too short for its transport header",
            };
            format!("  {what}: {}", does(self.actions[cause as usize]))
        }));
        lines
    }
}

/// Makes the marks that go into flows' slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marker {
    /// One flow in so many is audited.
    audit: Option<NonZeroU32>,
    /// Secrets that nobody can guess.
    keys: HashKeys,
}

impl Marker {
    /// One that puts a random 1 in `audit` of the flows cleared as benign into the audit lane.
    pub fn new(audit: Option<NonZeroU32>, seed: u64) -> Self {
        Self { audit, keys: HashKeys::expand(seed) }
    }

    /// The mark of a living flow with this verdict, if it has one. A flow that is in the audit lane stays there.
    pub fn mark(&self, verdict: Option<Verdict>, record: &FlowRecord) -> u32 {
        let later = record.entry.state.packets() >= LATER_PACKETS;
        let audited = self.audit.is_some_and(|n| self.draw(record).is_multiple_of(u64::from(n.get())));
        mark::of(verdict.map_or(mark::NONE, Verdict::number), later, audited)
    }

    /// A number that is the same as long as the flow lives, and otherwise random.
    fn draw(&self, record: &FlowRecord) -> u64 {
        let mut x = self.keys.hash(record.entry.key.words()) ^ record.entry.state.first();
        // The finalizer of splitmix64: each bit of the result depends on each bit of the word.
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: Mode, overrides: &[(Cause, Action)]) -> Policy {
        let inspector = mode.inspect().map(|_| "lo".to_owned());
        let settings =
            PrefilterSettings { mode, inspector, overrides: overrides.to_vec(), ..Default::default() };
        Policy::new(&settings, Some(1))
    }

    #[test]
    fn each_mode_does_what_it_is_for_and_no_more() {
        use Cause::{
            Allowed, BenignFirst, BenignLater, Denied, MaliciousFirst, MaliciousLater, ShortFragment,
            UnknownLater,
        };
        assert_eq!(policy(Mode::Watch, &[]).config(), PrefilterConfig::WATCH);
        let dropped = |mode, overrides: &[(Cause, Action)]| -> Vec<Cause> {
            let config = policy(mode, overrides).config();
            Cause::ALL.into_iter().filter(|&cause| config.action(cause) == Action::Drop).collect()
        };
        assert_eq!(dropped(Mode::Block, &[]), [Denied, MaliciousFirst, MaliciousLater, ShortFragment]);
        assert_eq!(
            dropped(Mode::Block, &[(MaliciousFirst, Action::Pass), (UnknownLater, Action::Drop)]),
            [Denied, UnknownLater, MaliciousLater, ShortFragment]
        );
        assert_eq!(dropped(Mode::Divert, &[]), [Allowed, BenignFirst, BenignLater]);
        assert_eq!(dropped(Mode::Divert, &[(BenignFirst, Action::Redirect)]), [Allowed, BenignLater]);
        assert_eq!(dropped(Mode::Mirror, &[]), []);
    }

    #[test]
    fn the_table_is_told_line_by_line() {
        let lines = policy(Mode::Divert, &[(Cause::UnknownFirst, Action::Drop)]).lines();
        assert_eq!(lines.len(), 1 + CAUSES);
        let line = |part: &str| lines.iter().find(|line| line.contains(part)).expect(part);
        assert!(line("without a verdict").ends_with("goes to lo"));
        assert!(line("unknown at its first").contains("dropped here, and lo is spared it"));
        assert!(line("dead, hung").ends_with("passes"));
        assert!(policy(Mode::Watch, &[]).lines().is_empty());
    }
}
