//! The options of a running agent, read again at SIGHUP: what can change is taken, what cannot is named.

use std::ffi::OsString;

use anyhow::{Result, bail};
use toml::Table;

use crate::cli::{self, Command};
use crate::config::{LiveConfig, file};

/// Options that take effect while the agent runs.
const CHANGEABLE: [&str; 5] = ["model", "calibration", "allow", "deny", "stats-interval"];

/// Where options come from, and what they were.
pub struct Options {
    typed: Vec<OsString>,
    variable: fn(&str) -> Option<String>,
    /// As they are in force.
    now: Table,
}

/// What has changed.
#[derive(Debug)]
pub struct Changes {
    /// The options as they are now meant.
    pub config: LiveConfig,
    /// Names of options that have changed and take effect.
    pub taken: Vec<String>,
    /// Names of options that have changed and need a restart.
    pub refused: Vec<String>,
}

impl Options {
    /// The options of these words, the environment and the file.
    ///
    /// # Errors
    /// They are wrong.
    pub fn new(typed: Vec<OsString>, variable: fn(&str) -> Option<String>) -> Result<Self> {
        let now = file::in_force(&typed, &variable)?;
        Ok(Self { typed, variable, now })
    }

    /// Reads them again.
    ///
    /// # Errors
    /// They are wrong; nothing has changed then.
    pub fn read_again(&mut self) -> Result<Changes> {
        let cli = file::try_parse(cli::command(), self.typed.clone(), &self.variable)?;
        let Command::Live(args) = cli.command else { bail!("they are no longer those of `live`") };
        let config = LiveConfig::new(&args)?;
        let next = file::in_force(&self.typed, &self.variable)?;
        let mut names: Vec<&String> = self.now.keys().chain(next.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let changed = names.into_iter().filter(|name| self.now.get(*name) != next.get(*name)).cloned();
        let (taken, refused): (Vec<_>, Vec<_>) =
            changed.partition(|name| CHANGEABLE.contains(&name.as_str()));
        for name in &taken {
            match next.get(name) {
                Some(value) => self.now.insert(name.clone(), value.clone()),
                None => self.now.remove(name),
            };
        }
        Ok(Changes { config, taken, refused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_change_is_taken_and_what_cannot_is_named_again_and_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("flowmeter.toml");
        let write = |text: &str| std::fs::write(&path, text).expect("a file");
        write("interface = \"eth0\"\nstats-interval = \"10s\"\nmax-flows = 1000\n");
        let typed = ["flowmeter", "live", "--config"].iter().map(OsString::from).chain([path.clone().into()]);
        let mut options = Options::new(typed.collect(), |_| None).expect("options");
        let changes = options.read_again().expect("the same");
        assert!(changes.taken.is_empty() && changes.refused.is_empty(), "{changes:?}");

        write(
            "interface = [\"eth0\", \"eth1\"]\nstats-interval = \"20s\"\ndeny = \"/etc/deny\"\nmode = \"divert\"\ninspector = \"ids0\"\n",
        );
        let changes = options.read_again().expect("others");
        assert_eq!(changes.taken, ["deny", "stats-interval"]);
        assert_eq!(changes.refused, ["inspector", "interface", "max-flows", "mode"]);
        assert_eq!(changes.config.stats_interval.as_secs(), 20);
        let changes = options.read_again().expect("the same again");
        assert_eq!((changes.taken.len(), changes.refused.len()), (0, 4), "a restart is still needed");

        for wrong in
            ["interface = \"eth0\"\nstats-interval = \"2d\"\n", "interfaec = \"eth0\"\n", "interface", ""]
        {
            write(wrong);
            let problem = format!("{:#}", options.read_again().expect_err(wrong));
            assert!(!problem.is_empty());
        }
        write("interface = \"eth0\"\nstats-interval = \"20s\"\nmax-flows = 1000\n");
        let changes = options.read_again().expect("as it began");
        assert_eq!((changes.taken, changes.refused.len()), (vec!["deny".to_owned()], 0));
    }
}
