//! Allow and deny lists: text files of prefixes and ports.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use flowmeter_common::prefilter::listed;

/// A line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which list: one of [`listed`].
    pub listed: u32,
    /// Network and length of its prefix; None for every address.
    pub prefix: Option<(IpAddr, u8)>,
    /// Port of the same endpoint; None for every port, and for protocols without ports.
    pub port: Option<u16>,
}

impl Rule {
    /// True if its prefix holds the address.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        let shared = |differing: u128, width: u8, bits: u8| bits == 0 || differing >> (width - bits) == 0;
        match (self.prefix, address) {
            (None, _) => true,
            (Some((IpAddr::V4(network), bits)), IpAddr::V4(address)) => {
                shared(u128::from(u32::from(network) ^ u32::from(address)), 32, bits)
            }
            (Some((IpAddr::V6(network), bits)), IpAddr::V6(address)) => {
                shared(u128::from(network) ^ u128::from(address), 128, bits)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.listed == listed::ALLOW { "allow " } else { "deny " })?;
        match self.prefix {
            Some((address, bits)) => write!(f, "{address}/{bits}")?,
            None => f.write_str("any")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, " {port}"))
    }
}

/// Reads both lists; one that is not given is empty. Deny comes first, so that of two equal rules allow is what remains.
///
/// # Errors
/// A file cannot be read, or a line is not a rule.
pub fn read(allow: Option<&Path>, deny: Option<&Path>) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for (path, listed) in [(deny, listed::DENY), (allow, listed::ALLOW)] {
        if let Some(path) = path {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            rules.extend(parse(&text, listed).with_context(|| path.display().to_string())?);
        }
    }
    Ok(rules)
}

/// The rules of a list's text.
fn parse(text: &str, listed: u32) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let words = line.split('#').next().unwrap_or_default();
        if !words.trim().is_empty() {
            rules.push(rule(words, listed).with_context(|| format!("line {number}, `{}`", line.trim()))?);
        }
    }
    Ok(rules)
}

/// `PREFIX [PORT]`.
pub(crate) fn rule(words: &str, listed: u32) -> Result<Rule> {
    let mut words = words.split_whitespace();
    let prefix = match words.next() {
        None | Some("any") => None,
        Some(word) => Some(prefix(word)?),
    };
    let port = words
        .next()
        .map(|word| word.parse().map_err(|_| anyhow!("invalid port {word:?}: expected 0 to 65535")))
        .transpose()?;
    match words.next() {
        Some(word) => Err(anyhow!(
            "unexpected word {word:?}: expected a prefix or `any`, and then a port if one is meant"
        )),
        None => Ok(Rule { listed, prefix, port }),
    }
}

/// `ADDRESS[/LENGTH]`; bits after the prefix are refused, since they show that something else was meant.
fn prefix(word: &str) -> Result<(IpAddr, u8)> {
    let (address, length) = word.split_once('/').map_or((word, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address
        .parse()
        .map_err(|_| anyhow!("invalid address {address:?}: expected 192.0.2.0/24, 2001:db8::/32 or `any`"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match length {
        None => most,
        Some(text) => text
            .parse()
            .ok()
            .filter(|&bits: &u8| bits <= most)
            .ok_or_else(|| anyhow!("invalid prefix length /{text}: expected 0 to {most}"))?,
    };
    let kept = |all: u128, width: u32| {
        let rest = width - u32::from(bits);
        if rest >= 128 { 0 } else { all >> rest << rest }
    };
    let network: IpAddr = match address {
        IpAddr::V4(a) => std::net::Ipv4Addr::from(kept(u128::from(u32::from(a)), 32) as u32).into(),
        IpAddr::V6(a) => Ipv6Addr::from(kept(u128::from(a), 128)).into(),
    };
    if network != address {
        return Err(anyhow!(
            "invalid prefix {word}, which has bits after its length: expected {network}/{bits} for the network or {address} for \
             the host"
        ));
    }
    Ok((address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_prefixes_and_ports() {
        let text = "# ours\n192.0.2.0/24\n\n198.51.100.7 22 # ssh\n2001:db8::/32 443\nany 53\n0.0.0.0/0\n";
        let read: Vec<String> =
            parse(text, listed::DENY).expect("a list").iter().map(ToString::to_string).collect();
        assert_eq!(
            read,
            [
                "deny 192.0.2.0/24",
                "deny 198.51.100.7/32 22",
                "deny 2001:db8::/32 443",
                "deny any 53",
                "deny 0.0.0.0/0"
            ]
        );
    }

    #[test]
    fn what_is_no_rule_is_refused_with_its_line() {
        for (line, part) in [
            ("192.0.2.0/33", "expected 0 to 32"),
            ("192.0.2.1/24", "192.0.2.0/24"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1/129", "128"),
            ("::1/0", "::/0"),
            ("example.org", "invalid address"),
            ("192.0.2.1 ssh", "invalid port"),
            ("192.0.2.1 65536", "invalid port"),
            ("any 1 2", "unexpected word"),
            ("/24", "invalid address"),
        ] {
            let problem = format!("{:#}", parse(&format!("any 1\n{line}"), listed::ALLOW).expect_err(line));
            assert!(problem.contains("line 2") && problem.contains(part), "{line}: {problem}");
        }
    }
}
