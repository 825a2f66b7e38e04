//! The pre-filter as it is asked for: a mode, and one table of what is done for each verdict.

pub mod audit;
pub mod lists;

use std::num::NonZeroU32;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use flowmeter_common::prefilter::{Action, CAUSES, Cause, LATER_PACKETS, PrefilterConfig, mark};
use serde::Serialize;

use crate::kernel;
use crate::model::Verdict;
use crate::record::FlowRecord;

/// What verdicts do to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing: every packet passes.
    #[default]
    Watch,
    /// On a host in the path: every packet passes, and what is not known to be benign is copied to the inspector.
    Mirror,
    /// On a mirror port: what is not known to be benign is redirected to the inspector, the rest is dropped.
    Divert,
    /// On a host in the path: malicious flows are dropped.
    Block,
}

impl Mode {
    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Mirror => "mirror",
            Self::Divert => "divert",
            Self::Block => "block",
        }
    }

    /// How a packet gets to the inspector.
    const fn inspect(self) -> Option<Action> {
        match self {
            Self::Mirror => Some(Action::Clone),
            Self::Divert => Some(Action::Redirect),
            Self::Watch | Self::Block => None,
        }
    }

    /// Whether a packet may end here.
    const fn drops(self) -> bool {
        matches!(self, Self::Divert | Self::Block)
    }

    /// What is done for a cause unless it is told otherwise.
    fn usual(self, cause: Cause) -> Action {
        let benign = matches!(cause, Cause::Allowed | Cause::BenignFirst | Cause::BenignLater);
        let malicious = matches!(cause, Cause::Denied | Cause::MaliciousFirst | Cause::MaliciousLater);
        match (self, cause) {
            (Self::Watch, _) | (_, Cause::Stale) => Action::Pass,
            (Self::Mirror, _) => {
                if benign {
                    Action::Pass
                } else {
                    Action::Clone
                }
            }
            (Self::Divert, _) => {
                if benign {
                    Action::Drop
                } else {
                    Action::Redirect
                }
            }
            (Self::Block, _) => {
                if malicious {
                    Action::Drop
                } else {
                    Action::Pass
                }
            }
        }
    }
}

/// One entry of the table that is to be another: a verdict, the stage at which it was given, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    causes: Vec<Cause>,
    action: String,
    typed: String,
}

/// Reads `VERDICT[@STAGE]=ACTION`.
///
/// # Errors
/// There is no such verdict, stage or action; the message lists those that are.
pub fn parse_override(text: &str) -> Result<Override, String> {
    let wrong = || {
        format!(
            "{text:?} is not understood; write VERDICT=ACTION or VERDICT@STAGE=ACTION, with the verdict none, benign, \
             unknown or malicious, the stage first or later, and the action pass, inspect or drop"
        )
    };
    let (verdict, action) = text.split_once('=').ok_or_else(wrong)?;
    let causes: Vec<Cause> = Cause::ALL
        .into_iter()
        .filter(|cause| !matches!(cause, Cause::Stale | Cause::Allowed | Cause::Denied | Cause::Skipped))
        .filter(|cause| !matches!(cause, Cause::Folded | Cause::Audited))
        .filter(|cause| cause.name() == verdict || cause.name().split('@').next() == Some(verdict))
        .collect();
    if causes.is_empty() || !matches!(action, "pass" | "inspect" | "drop") {
        return Err(wrong());
    }
    Ok(Override { causes, action: action.to_owned(), typed: text.to_owned() })
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
    /// The table of a mode, with its overrides. `watched` are the interfaces that are watched.
    ///
    /// # Errors
    /// What was asked for does not go together; the message says what does.
    pub fn new(
        mode: Mode,
        inspector: Option<&str>,
        overrides: &[Override],
        audit: Option<NonZeroU32>,
        watched: &[String],
    ) -> Result<Self> {
        let inspector = match (mode.inspect(), inspector) {
            (Some(_), Some(name)) => {
                ensure!(
                    !watched.iter().any(|other| other == name),
                    "{name} is watched; packets that went there would come back, so the inspector needs an interface of its own"
                );
                let index = kernel::interface_index(name)
                    .with_context(|| format!("there is no interface {name} here for the inspector"))?;
                Some((name.to_owned(), index))
            }
            (Some(_), None) => {
                bail!("--mode {} needs --inspector INTERFACE, where the inspector listens", mode.name())
            }
            (None, Some(_)) => {
                bail!("--inspector goes with --mode mirror or divert, not with {}", mode.name())
            }
            (None, None) => None,
        };
        ensure!(
            audit.is_none() || inspector.is_some(),
            "--audit goes with --mode mirror or divert: without an inspector nobody audits"
        );
        let mut actions = Cause::ALL.map(|cause| mode.usual(cause));
        for change in overrides {
            let action = match (change.action.as_str(), mode.inspect()) {
                ("pass", _) => Action::Pass,
                ("drop", _) if mode.drops() => Action::Drop,
                ("inspect", Some(inspect)) => inspect,
                (action, _) => bail!("--on {}: --mode {} cannot {action}", change.typed, mode.name()),
            };
            for &cause in &change.causes {
                ensure!(
                    !(mode == Mode::Block && cause == Cause::Unmarked && action == Action::Drop),
                    "--on {}: --mode block never drops what has no verdict",
                    change.typed
                );
                actions[cause as usize] = action;
            }
        }
        Ok(Self { mode, inspector, actions, audit })
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
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
            Some(n) => format!("of each {n} flows cleared as benign, one at random, for the audit"),
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
    /// What nobody can guess.
    seed: u64,
}

impl Marker {
    /// One that puts a random 1 in `audit` of the flows cleared as benign into the audit lane.
    pub fn new(audit: Option<NonZeroU32>, seed: u64) -> Self {
        Self { audit, seed }
    }

    /// The mark of a living flow with this verdict, if it has one. A flow that is in the audit lane stays there.
    pub fn mark(&self, verdict: Option<Verdict>, record: &FlowRecord) -> u32 {
        let later = record.entry.state.packets() >= LATER_PACKETS;
        let audited = self.audit.is_some_and(|n| self.draw(record).is_multiple_of(u64::from(n.get())));
        mark::of(verdict.map_or(mark::NONE, Verdict::number), later, audited)
    }

    /// A number that is the same as long as the flow lives, and otherwise random.
    fn draw(&self, record: &FlowRecord) -> u64 {
        let mut x = record.entry.key.hash(self.seed) ^ record.entry.state.first();
        // The finalizer of splitmix64: each bit of the result depends on each bit of the word.
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: Mode, inspector: Option<&str>, on: &[&str]) -> Result<Policy> {
        let overrides: Vec<Override> = on
            .iter()
            .map(|text| parse_override(text))
            .collect::<Result<_, _>>()
            .map_err(anyhow::Error::msg)?;
        Policy::new(mode, inspector, &overrides, None, &["eth-watched".to_owned()])
    }

    #[test]
    fn each_mode_does_what_it_is_for_and_no_more() {
        let watch = policy(Mode::Watch, None, &[]).expect("watch").config();
        assert_eq!(watch, PrefilterConfig::WATCH);
        let dropped = |mode, inspector, on: &[&str]| -> Vec<Cause> {
            let config = policy(mode, inspector, on).expect("a policy").config();
            Cause::ALL.into_iter().filter(|&cause| config.action(cause) == Action::Drop).collect()
        };
        use Cause::{
            Allowed, BenignFirst, BenignLater, Denied, MaliciousFirst, MaliciousLater, UnknownLater,
        };
        assert_eq!(dropped(Mode::Block, None, &[]), [Denied, MaliciousFirst, MaliciousLater]);
        assert_eq!(
            dropped(Mode::Block, None, &["malicious@first=pass", "unknown@later=drop"]),
            [Denied, UnknownLater, MaliciousLater]
        );
        assert_eq!(dropped(Mode::Divert, Some("lo"), &[]), [Allowed, BenignFirst, BenignLater]);
        assert_eq!(dropped(Mode::Divert, Some("lo"), &["benign@first=inspect"]), [Allowed, BenignLater]);
        assert_eq!(dropped(Mode::Mirror, Some("lo"), &[]), []);
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_does() {
        for (mode, inspector, on, part) in [
            (Mode::Divert, None, &[][..], "--inspector"),
            (Mode::Block, Some("lo"), &[], "mirror or divert"),
            (Mode::Mirror, Some("eth-watched"), &[], "of its own"),
            (Mode::Mirror, Some("no-such0"), &[], "no-such0"),
            (Mode::Mirror, Some("lo"), &["malicious=drop"], "cannot drop"),
            (Mode::Block, None, &["unknown=inspect"], "cannot inspect"),
            (Mode::Block, None, &["none=drop"], "never"),
            (Mode::Watch, None, &["malicious=drop"], "cannot drop"),
        ] {
            let problem = format!("{:#}", policy(mode, inspector, on).expect_err(part));
            assert!(problem.contains(part), "{problem}");
        }
        for text in
            ["", "=", "malicious", "malicious=burn", "stale=drop", "allowed=drop", "folded=drop", "evil=drop"]
        {
            assert!(parse_override(text).is_err(), "{text:?} was understood");
        }
    }

    #[test]
    fn the_table_is_told_line_by_line() {
        let lines = policy(Mode::Divert, Some("lo"), &["unknown@first=drop"]).expect("a policy").lines();
        assert_eq!(lines.len(), 1 + CAUSES);
        let line = |part: &str| lines.iter().find(|line| line.contains(part)).expect(part);
        assert!(line("without a verdict").ends_with("goes to lo"));
        assert!(line("unknown at its first").contains("dropped here, and lo is spared it"));
        assert!(line("dead, hung").ends_with("passes"));
        assert!(policy(Mode::Watch, None, &[]).expect("watch").lines().is_empty());
    }
}
