//! The operator's word on flows: which were an attack, and which were fine.
//!
//! A file names flows line by line: a Community ID, or a prefix (or `any`) and a port if one is meant, as in the allow and
//! deny lists. What follows `#` is a remark.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::prefilter::lists::{self, Rule};

/// What the operator says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorWord {
    /// It was an attack: learned as one.
    Attack,
    /// It was fine: learned as benign, whatever it looks like.
    Fine,
}

/// All that was said.
#[derive(Debug, Default)]
pub struct Words {
    by_id: HashMap<String, OperatorWord>,
    rules: Vec<(Rule, OperatorWord)>,
}

impl Words {
    /// Reads the files, if they are given.
    ///
    /// # Errors
    /// One cannot be read, or a line names no flows.
    pub fn read(attack: Option<&Path>, fine: Option<&Path>) -> Result<Self> {
        let mut words = Self::default();
        for (path, word) in [(attack, OperatorWord::Attack), (fine, OperatorWord::Fine)] {
            if let Some(path) = path {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                words.parse(&text, word).with_context(|| path.display().to_string())?;
            }
        }
        Ok(words)
    }

    fn parse(&mut self, text: &str, word: OperatorWord) -> Result<()> {
        for (line, number) in text.lines().zip(1..) {
            let said = line.split('#').next().unwrap_or_default().trim();
            if said.starts_with("1:") {
                self.by_id.insert(said.to_owned(), word);
            } else if !said.is_empty() {
                let rule = lists::rule(said, 0).with_context(|| {
                    format!("line {number}, `{said}`, is no Community ID (1:...) and no prefix with a port")
                })?;
                self.rules.push((rule, word));
            }
        }
        Ok(())
    }

    /// True if nothing was said.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.rules.is_empty()
    }

    /// The word on a flow with these two ends; a Community ID comes first, then the last line that holds.
    pub fn of(&self, community_id: Option<&str>, ends: [(IpAddr, u16); 2]) -> Option<OperatorWord> {
        if let Some(word) = community_id.and_then(|id| self.by_id.get(id)) {
            return Some(*word);
        }
        let holds = |rule: &Rule| {
            ends.iter().any(|(address, port)| rule.holds(*address) && rule.port.is_none_or(|p| p == *port))
        };
        self.rules.iter().rev().find(|(rule, _)| holds(rule)).map(|(_, word)| *word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(a: &str, b: &str) -> [(IpAddr, u16); 2] {
        [(a.parse().expect("an address"), 40_000), (b.parse().expect("an address"), 22)]
    }

    #[test]
    fn flows_are_named_by_community_id_or_by_prefix_and_port() {
        let mut words = Words::default();
        words.parse("1:abc= # the scan\n\n192.0.2.0/24 22\n", OperatorWord::Attack).expect("a list");
        words.parse("1:def=\n192.0.2.7\n2001:db8::/32\n", OperatorWord::Fine).expect("a list");
        let there = ends("203.0.113.1", "192.0.2.9");
        assert_eq!(words.of(Some("1:abc="), ends("10.0.0.1", "10.0.0.2")), Some(OperatorWord::Attack));
        assert_eq!(words.of(Some("1:def="), there), Some(OperatorWord::Fine), "the Community ID comes first");
        assert_eq!(words.of(None, there), Some(OperatorWord::Attack));
        assert_eq!(words.of(None, ends("192.0.2.9", "203.0.113.1")), None, "another port there");
        assert_eq!(
            words.of(None, ends("192.0.2.7", "203.0.113.1")),
            Some(OperatorWord::Fine),
            "the last line that holds"
        );
        assert_eq!(words.of(None, ends("2001:db8::1", "2001:db9::1")), Some(OperatorWord::Fine));
        assert_eq!(words.of(None, ends("10.0.0.1", "10.0.0.2")), None);
    }

    #[test]
    fn a_line_that_names_nothing_is_refused_with_its_number() {
        let problem =
            Words::default().parse("any 22\nhost.example\n", OperatorWord::Fine).expect_err("no address");
        assert!(format!("{problem:#}").contains("line 2"), "{problem:#}");
    }
}
