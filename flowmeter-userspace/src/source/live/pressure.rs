//! How full the table is, and what leaves first when it fills.

use flowmeter_common::time::SECOND;

/// How full the table is, and what follows for the flows of which little is known, see [`is_slight`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// They are flows like any other.
    None,
    /// There are three quarters of the flows that there is room for: they have ended after five seconds of silence.
    Some,
    /// Nine tenths are, or packets have been folded since the last sweep: after half a second; and closed flows do not
    /// linger.
    Much,
}

impl Pressure {
    /// With so many living flows, room for so many, and packets folded or not since the last sweep.
    pub(super) fn of(living: u64, room: u64, folding: bool) -> Self {
        match () {
            () if folding || living >= room / 10 * 9 => Self::Much,
            () if living >= room / 4 * 3 => Self::Some,
            () => Self::None,
        }
    }

    /// Says what has changed.
    pub(super) fn log(self, living: u64, room: u64) {
        let why = match self {
            Self::None => {
                return log::info!("the flow table has room again: {living} of {room} flows");
            }
            Self::Some => "the flow table is three quarters full",
            Self::Much => {
                "the flow table is full, or nearly; packets that find no slot are counted in aggregates"
            }
        };
        let after = self.slight_idle(u64::MAX) as f64 / SECOND as f64;
        log::warn!(
            "{why} ({living} of {room} flows at the last look): one-packet and half-open flows end after {after} s of \
             silence; --max-flows makes it larger"
        );
    }

    /// How long flows of which little is known may be silent.
    pub(super) fn slight_idle(self, usual: u64) -> u64 {
        match self {
            Self::None => usual,
            Self::Some => usual.min(5 * SECOND),
            Self::Much => usual.min(SECOND / 2),
        }
    }
}
