//! How times, shares and numbers are typed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Where metrics are served: PORT, on the loopback interface, or ADDRESS:PORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub SocketAddr);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        text.parse::<u16>().map(loopback).or_else(|_| text.parse()).map(Self).map_err(|_| {
            format!("invalid address {text:?}: expected a port, as in 9598, or an address with one, as in 192.0.2.1:9598 or [::1]:9598")
        })
    }
}

/// When a table goes on in another file: after a time (15m, 1h, 1d), by the clock, or a size (100M, 1G).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotateArg {
    /// After this time.
    Time(Duration),
    /// At so many bytes.
    Size(u64),
}

impl FromStr for RotateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "invalid rotation {text:?}: expected a time from 1s to 1d, as in 15m or 1h, or a size from 1M, as in 100M or 1G"
            )
        };
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let of = |unit: u64| number.checked_mul(unit).ok_or_else(wrong);
        let rotation = match unit {
            "s" => Self::Time(Duration::from_secs(number)),
            "m" | "min" => Self::Time(Duration::from_secs(of(60)?)),
            "h" => Self::Time(Duration::from_secs(of(3600)?)),
            "d" => Self::Time(Duration::from_secs(of(86_400)?)),
            "M" | "MiB" => Self::Size(of(1 << 20)?),
            "G" | "GiB" => Self::Size(of(1 << 30)?),
            _ => return Err(wrong()),
        };
        let is_wrong = match rotation {
            Self::Time(time) => time.is_zero() || time > Duration::from_secs(86_400),
            Self::Size(size) => size == 0,
        };
        if is_wrong { Err(wrong()) } else { Ok(rotation) }
    }
}

/// A time with its unit: 500ms, 90s, 15m, 1h; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(invalid_duration(text)),
    };
    let number: f64 = number.parse().map_err(|_| invalid_duration(text))?;
    let seconds = number * scale;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(format!("invalid duration {text:?}: expected 1ms to 1h"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn invalid_duration(text: &str) -> String {
    format!("invalid duration {text:?}: expected 500ms, 90s, 15m or 1h")
}

/// A share, above 0 and below 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err(format!(
            "invalid share {text:?}: expected 0.001 for one in a thousand, 0.05 for one in twenty"
        )),
    }
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err(format!("invalid number {text:?}: expected a number above 0, such as 20")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_the_loopback_interface() {
        let read = |text: &str| text.parse().map(|MetricsAddress(address)| address.to_string());
        assert_eq!(read("9598").as_deref(), Ok("127.0.0.1:9598"));
        for text in ["192.0.2.1:9598", "[::1]:9598", "0.0.0.0:0"] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        for wrong in
            ["", ":9598", "65536", "-1", "localhost:9598", "192.0.2.1", "::1:", "http://127.0.0.1:9598"]
        {
            assert!(read(wrong).is_err(), "{wrong:?} was taken for an address");
        }
    }

    #[test]
    fn a_rotation_is_a_time_or_a_size() {
        let read = |text: &str| text.parse::<RotateArg>();
        for (text, meant) in [
            ("1s", RotateArg::Time(Duration::from_secs(1))),
            ("15m", RotateArg::Time(Duration::from_secs(900))),
            ("1h", RotateArg::Time(Duration::from_secs(3600))),
            ("1d", RotateArg::Time(Duration::from_secs(86_400))),
            ("100M", RotateArg::Size(100 << 20)),
            ("2G", RotateArg::Size(2 << 30)),
        ] {
            assert_eq!(read(text), Ok(meant), "{text}");
        }
        for wrong in [
            "",
            "1",
            "h",
            "0s",
            "0M",
            "2d",
            "25h",
            "1.5h",
            "-1h",
            "1K",
            "99999999999999999999G",
            "9999999999999G",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?} was taken for a rotation");
        }
    }

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(duration("120"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        for wrong in ["", "s", "2d", "-1s", "0", "2h", "1e3"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken for a time");
        }
    }
}
