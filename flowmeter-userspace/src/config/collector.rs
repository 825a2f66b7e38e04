//! Where an IPFIX collector is.

use std::fmt;
use std::str::FromStr;

/// The port that IANA gave to IPFIX.
const PORT: u16 = 4739;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Each message is a datagram, which may be lost on its way.
    Udp,
    /// Messages follow each other in a connection.
    Tcp,
}

/// Where flows are exported to: `udp://ADDRESS[:PORT]` or `tcp://ADDRESS[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub transport: Transport,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (scheme, place) = text.split_once("://")?;
            let transport = match scheme {
                "udp" => Transport::Udp,
                "tcp" => Transport::Tcp,
                _ => return None,
            };
            // The colons of an IPv6 address stand in brackets.
            let (host, port) = match place.strip_prefix('[') {
                Some(rest) => {
                    let (host, port) = rest.split_once(']')?;
                    host.parse::<std::net::Ipv6Addr>().ok()?;
                    (host, port.strip_prefix(':').or(port.is_empty().then_some("")).map(str::to_owned)?)
                }
                None => {
                    let (host, port) = place.split_once(':').unwrap_or((place, ""));
                    (host, port.to_owned())
                }
            };
            let named = place.ends_with(':');
            let port =
                if port.is_empty() && !named { PORT } else { port.parse().ok().filter(|p| *p != 0)? };
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
            let is_host = !host.is_empty() && host.chars().all(plain);
            is_host.then(|| Self { transport, host: host.to_owned(), port })
        };
        read().ok_or_else(|| {
            format!(
                "invalid collector {text:?}: expected udp://ADDRESS:PORT or tcp://ADDRESS:PORT, as in udp://192.0.2.1:4739 \
                 or tcp://[2001:db8::1]:4739"
            )
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_they_were_typed() {
        for (typed, meant) in [
            ("udp://192.0.2.1:9995", "udp://192.0.2.1:9995"),
            ("tcp://collector.example", "tcp://collector.example:4739"),
            ("udp://[2001:db8::1]:2055", "udp://[2001:db8::1]:2055"),
            ("tcp://[::1]", "tcp://[::1]:4739"),
        ] {
            let target: Target = typed.parse().expect(typed);
            assert_eq!(target.to_string(), meant);
        }
        for wrong in [
            "",
            "192.0.2.1:4739",
            "sctp://192.0.2.1",
            "udp://",
            "udp://:4739",
            "udp://host:",
            "udp://host:0",
            "udp://host:65536",
            "udp://[::1",
            "udp://[host]:1",
            "udp://[::1]1",
            "udp://2001:db8::1",
            "udp://a b:1",
            "udp://host:1/path",
        ] {
            let problem = wrong.parse::<Target>().expect_err(wrong);
            assert!(problem.contains("expected udp://ADDRESS:PORT"), "{problem}");
        }
    }
}
