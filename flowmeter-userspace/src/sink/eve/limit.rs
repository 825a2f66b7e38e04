//! How many alerts are written: one a minute for each source and service, as Suricata's threshold of type `limit` has it.
//! A scan is one alert that says how many like it were left out, and not one for each port.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// How long an alert stands for those that follow it, in nanoseconds.
const WINDOW: u64 = 60_000_000_000;
/// Sources and services remembered at once, and as many services. Each takes about 64 bytes.
pub(super) const MAX_REMEMBERED: usize = 16_384;
/// How often what is no longer needed is forgotten, in nanoseconds: it takes a walk through all that is remembered.
const FORGET_EVERY: u64 = 1_000_000_000;

/// Destination port (of ICMP what stands for it), and IANA protocol number.
pub type AlertService = (u16, u8);

/// Alerts written lately.
#[derive(Debug, Default)]
pub struct AlertLimit {
    by_source: Windows<(IpAddr, AlertService)>,
    /// Of sources that there was no room for: a flood whose addresses are forged.
    by_service: Windows<AlertService>,
    written: u64,
    left_out: u64,
}

impl AlertLimit {
    /// If an alert at this time (nanoseconds) is to be written: how many like it were left out before.
    pub fn admit(&mut self, source: IpAddr, service: AlertService, at: u64) -> Option<u64> {
        let admission = match self.by_source.admit((source, service), at) {
            Admission::NoRoom => self.by_service.admit(service, at),
            other => other,
        };
        match admission {
            Admission::Write { left_out } => {
                self.written += 1;
                Some(left_out)
            }
            Admission::LeaveOut | Admission::NoRoom => {
                self.left_out += 1;
                None
            }
        }
    }

    /// Alerts written, and left out.
    pub fn counts(&self) -> (u64, u64) {
        (self.written, self.left_out)
    }
}

/// What becomes of an alert.
#[derive(Debug, PartialEq)]
enum Admission {
    Write { left_out: u64 },
    LeaveOut,
    NoRoom,
}

/// The alert that stands for those after it.
#[derive(Debug)]
struct AlertWindow {
    since: u64,
    left_out: u64,
}

impl AlertWindow {
    /// True if an alert at this time is no longer stood for. Flows end out of order, and clocks are set back.
    fn is_over(&self, at: u64) -> bool {
        self.since.abs_diff(at) >= WINDOW
    }
}

/// A bounded number of them.
#[derive(Debug)]
struct Windows<K> {
    open: HashMap<K, AlertWindow>,
    forgotten_at: u64,
}

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self { open: HashMap::new(), forgotten_at: 0 }
    }
}

impl<K: Hash + Eq> Windows<K> {
    fn admit(&mut self, key: K, at: u64) -> Admission {
        if let Some(window) = self.open.get_mut(&key) {
            if window.is_over(at) {
                let left_out = window.left_out;
                *window = AlertWindow { since: at, left_out: 0 };
                return Admission::Write { left_out };
            }
            window.left_out += 1;
            return Admission::LeaveOut;
        }
        if self.open.len() >= MAX_REMEMBERED && self.forgotten_at.abs_diff(at) >= FORGET_EVERY {
            self.forgotten_at = at;
            self.open.retain(|_, window| !window.is_over(at));
        }
        if self.open.len() >= MAX_REMEMBERED {
            return Admission::NoRoom;
        }
        self.open.insert(key, AlertWindow { since: at, left_out: 0 });
        Admission::Write { left_out: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const START: u64 = 1_700_000_000_000_000_000;
    const SECOND: u64 = 1_000_000_000;
    const SSH: AlertService = (22, 6);

    fn host(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    #[test]
    fn one_alert_a_minute_says_how_many_were_left_out() {
        let mut limit = AlertLimit::default();
        let rows = [
            ("the first", host(1), SSH, 0, Some(0)),
            ("another just after it", host(1), SSH, 1, None),
            ("one that ended before the first", host(1), SSH, -5, None),
            ("another service", host(1), (80, 6), 2, Some(0)),
            ("the same port of another protocol", host(1), (22, 17), 2, Some(0)),
            ("another source", host(2), SSH, 3, Some(0)),
            ("the last moment of the minute", host(1), SSH, 59, None),
            ("a minute later", host(1), SSH, 60, Some(3)),
            ("a clock that was set back by an hour", host(1), SSH, -3600, Some(0)),
        ];
        for (what, source, service, second, expected) in rows {
            let at = START.wrapping_add_signed(second * SECOND as i64);
            assert_eq!(limit.admit(source, service, at), expected, "{what}");
        }
        assert_eq!(limit.counts(), (6, 3));
    }

    #[test]
    fn forged_sources_take_no_more_room_and_are_limited_by_service() {
        let mut limit = AlertLimit::default();
        let sources = MAX_REMEMBERED as u32 * 3;
        let written = (0..sources).filter(|n| limit.admit(host(*n), SSH, START).is_some()).count();
        assert_eq!(written, MAX_REMEMBERED + 1);
        assert_eq!(limit.counts(), (written as u64, u64::from(sources) - written as u64));
        assert_eq!(limit.by_source.open.len(), MAX_REMEMBERED);
        assert_eq!(limit.by_service.open.len(), 1);
        // A minute later there is room again.
        assert_eq!(limit.admit(host(sources), SSH, START + 60 * SECOND), Some(0));
        assert_eq!(limit.by_source.open.len(), 1);
    }
}
