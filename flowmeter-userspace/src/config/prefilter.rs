//! What the pre-filter is to do: the mode, what is done otherwise than usual, the lists.

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use flowmeter_common::prefilter::{Action, Cause};
use serde::Serialize;

use crate::cli::{ActionArg, ModeArg, OverrideArg, PrefilterArgs, StageArg, VerdictArg};

/// What verdicts do to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

impl From<ModeArg> for Mode {
    fn from(typed: ModeArg) -> Self {
        match typed {
            ModeArg::Watch => Self::Watch,
            ModeArg::Mirror => Self::Mirror,
            ModeArg::Divert => Self::Divert,
            ModeArg::Block => Self::Block,
        }
    }
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

    /// How a packet gets to the inspector; None if there is no inspector in this mode.
    pub const fn inspect(self) -> Option<Action> {
        match self {
            Self::Mirror => Some(Action::Clone),
            Self::Divert => Some(Action::Redirect),
            Self::Watch | Self::Block => None,
        }
    }

    /// Whether a packet may end here.
    pub const fn drops(self) -> bool {
        matches!(self, Self::Divert | Self::Block)
    }
}

/// What the pre-filter is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefilterSettings {
    /// What verdicts do to packets.
    pub mode: Mode,
    /// Name of the interface where the inspector listens; there is one if and only if the mode inspects.
    pub inspector: Option<String>,
    /// What is done otherwise than the mode does; the last one for a cause counts.
    pub overrides: Vec<(Cause, Action)>,
    /// One in so many of the flows cleared as benign goes to the inspector all the same.
    pub audit: Option<NonZeroU32>,
    /// File of the allow list.
    pub allow: Option<PathBuf>,
    /// File of the deny list.
    pub deny: Option<PathBuf>,
}

impl PrefilterSettings {
    /// What was typed; `watched` are the interfaces that are watched.
    ///
    /// # Errors
    /// What was typed does not go together; the message says what does.
    pub fn new(args: &PrefilterArgs, watched: &[String]) -> Result<Self> {
        let mode = Mode::from(args.mode);
        ensure!(
            mode != Mode::Block || args.yes_drop_traffic,
            "--mode block drops traffic on the word of a model, which errs: confirm with --yes-drop-traffic"
        );
        ensure!(
            mode != Mode::Watch || (args.allow.is_none() && args.deny.is_none()),
            "--allow and --deny need --mode mirror, divert or block: in --mode watch every packet passes"
        );
        match (mode.inspect(), &args.inspector) {
            (Some(_), Some(name)) => ensure!(
                !watched.contains(name),
                "{name} is watched, so packets sent there would come back: the inspector needs an interface of its own"
            ),
            (Some(_), None) => {
                bail!("--mode {} needs --inspector INTERFACE, where the inspector listens", mode.name())
            }
            (None, Some(_)) => {
                bail!("--inspector needs --mode mirror or divert: --mode {} has no inspector", mode.name())
            }
            (None, None) => {}
        }
        ensure!(
            args.audit.is_none() || mode.inspect().is_some(),
            "--audit needs --mode mirror or divert: without an inspector nobody audits"
        );
        let mut overrides = Vec::new();
        for change in &args.on {
            let action = action(mode, change)?;
            for cause in causes(change) {
                ensure!(
                    !(mode == Mode::Block && cause == Cause::Unmarked && action == Action::Drop),
                    "--on {change}: --mode block never drops what has no verdict"
                );
                overrides.push((cause, action));
            }
        }
        Ok(Self {
            mode,
            inspector: args.inspector.clone(),
            overrides,
            audit: args.audit,
            allow: args.allow.clone(),
            deny: args.deny.clone(),
        })
    }
}

/// What is done by this override in this mode.
fn action(mode: Mode, change: &OverrideArg) -> Result<Action> {
    Ok(match (change.action, mode.inspect()) {
        (ActionArg::Pass, _) => Action::Pass,
        (ActionArg::Drop, _) if mode.drops() => Action::Drop,
        (ActionArg::Inspect, Some(inspect)) => inspect,
        (action, _) => bail!("--on {change}: --mode {} cannot {action}", mode.name()),
    })
}

/// What decides about the packets that an override speaks of.
fn causes(change: &OverrideArg) -> Vec<Cause> {
    let [first, later] = match change.verdict {
        VerdictArg::None => return vec![Cause::Unmarked],
        VerdictArg::Benign => [Cause::BenignFirst, Cause::BenignLater],
        VerdictArg::Unknown => [Cause::UnknownFirst, Cause::UnknownLater],
        VerdictArg::Malicious => [Cause::MaliciousFirst, Cause::MaliciousLater],
    };
    match change.stage {
        None => vec![first, later],
        Some(StageArg::First) => vec![first],
        Some(StageArg::Later) => vec![later],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_refused_with_what_does() {
        for (mode, inspector, on, part) in [
            (ModeArg::Divert, None, &[][..], "--inspector"),
            (ModeArg::Block, Some("lo"), &[], "mirror or divert"),
            (ModeArg::Mirror, Some("eth-watched"), &[], "of its own"),
            (ModeArg::Mirror, Some("lo"), &["malicious=drop"], "cannot drop"),
            (ModeArg::Block, None, &["unknown=inspect"], "cannot inspect"),
            (ModeArg::Block, None, &["none=drop"], "never"),
            (ModeArg::Watch, None, &["malicious=drop"], "cannot drop"),
        ] {
            let args = PrefilterArgs {
                mode,
                inspector: inspector.map(str::to_owned),
                on: on.iter().map(|text| text.parse().expect("an override")).collect(),
                allow: None,
                deny: None,
                audit: None,
                pin: None,
                yes_drop_traffic: true,
            };
            let refused = PrefilterSettings::new(&args, &["eth-watched".to_owned()]).expect_err(part);
            let problem = format!("{refused:#}");
            assert!(problem.contains(part), "{problem}");
        }
    }
}
