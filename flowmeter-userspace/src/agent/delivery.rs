//! Whether what is sent to the inspector arrives: the pre-filter's count held against what the inspector's interface says it
//! sent.
//!
//! The kernel tells nobody when it drops a redirected packet. A veth does so to each one while its peer has neither GRO nor an
//! XDP program, and Suricata turns GRO off when it starts.

use std::time::{Duration, Instant};

/// Fewer packets than these say nothing.
const MIN_PACKETS: u64 = 8;
/// How long nothing may arrive at a device whose driver counts late; a veth counts at once.
const LATE_COUNTS: Duration = Duration::from_secs(5);
/// How long all packets pass before it is tried again whether they arrive.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// What follows from a look at both counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing arrives: packets are to pass.
    Lost {
        /// Packets sent since the last that arrived.
        sent: u64,
    },
    /// It is time to try whether they arrive again.
    Try,
    /// They do.
    Healed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flowing,
    /// Packets pass until then.
    Passing(Instant),
    /// Packets are sent again, to see.
    Trying,
}

/// Compares the two counts.
#[derive(Debug)]
pub struct Delivery {
    /// Counts when they were compared last, in the order sent, arrived.
    before: [u64; 2],
    /// Since when nothing has arrived of what was sent.
    since: Option<Instant>,
    state: State,
    /// Sums since the start: sent to the inspector, and arrived of it at most.
    totals: [u64; 2],
}

impl Delivery {
    /// From these counts on.
    pub fn new(sent: u64, arrived: u64) -> Self {
        Self { before: [sent, arrived], since: None, state: State::Flowing, totals: [0, 0] }
    }

    /// Packets sent since the start, and how many of them arrived at most: others may send there as well.
    pub fn totals(&self) -> [u64; 2] {
        self.totals
    }

    /// True while packets pass because nothing arrives.
    pub fn is_lost(&self) -> bool {
        self.state != State::Flowing
    }

    /// The inspector's interface is another one now, whose counts begin here.
    pub fn replaced(&mut self, arrived: u64) {
        self.before[1] = arrived;
        self.since = None;
    }

    /// Looks at the counts, of which `sent` was read first. `prompt` says that the device counts at once.
    pub fn look(&mut self, now: Instant, sent: u64, arrived: u64, prompt: bool) -> Option<Change> {
        if let State::Passing(until) = self.state {
            self.before = [sent, arrived];
            return (now >= until).then(|| {
                (self.state, self.since) = (State::Trying, None);
                Change::Try
            });
        }
        let [sent_before, arrived_before] = self.before;
        let (sent_now, arrived_now) =
            (sent.saturating_sub(sent_before), arrived.saturating_sub(arrived_before));
        if sent_now < MIN_PACKETS {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        // An overloaded inspector loses some; only one that gets next to nothing is blind.
        if arrived_now >= sent_now.div_ceil(10) {
            self.settle(sent, arrived, sent_now, arrived_now);
            let healed = self.state == State::Trying;
            self.state = State::Flowing;
            return healed.then_some(Change::Healed);
        }
        if !prompt && now.duration_since(since) < LATE_COUNTS {
            return None;
        }
        self.settle(sent, arrived, sent_now, arrived_now);
        self.state = State::Passing(now + TRY_AGAIN);
        Some(Change::Lost { sent: sent_now })
    }

    fn settle(&mut self, sent: u64, arrived: u64, sent_now: u64, arrived_now: u64) {
        self.before = [sent, arrived];
        self.since = None;
        self.totals[0] += sent_now;
        self.totals[1] += arrived_now.min(sent_now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_arriving_is_noticed_and_tried_again() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut delivery = Delivery::new(100, 7);
        assert_eq!(delivery.look(at(1), 200, 107, true), None);
        assert_eq!(delivery.look(at(2), 203, 107, true), None, "too few to tell");
        assert_eq!(delivery.look(at(3), 300, 107, true), Some(Change::Lost { sent: 100 }));
        assert!(delivery.is_lost());
        assert_eq!(delivery.look(at(4), 310, 107, true), None, "packets pass");
        assert_eq!(delivery.look(at(13), 310, 107, true), Some(Change::Try));
        assert_eq!(delivery.look(at(14), 360, 107, true), Some(Change::Lost { sent: 50 }));
        assert_eq!(delivery.look(at(24), 360, 107, true), Some(Change::Try));
        assert_eq!(delivery.look(at(25), 400, 147, true), Some(Change::Healed));
        assert!(!delivery.is_lost());
        assert_eq!(delivery.totals(), [290, 140]);
    }

    #[test]
    fn an_overloaded_inspector_is_not_blind() {
        let start = Instant::now();
        let mut delivery = Delivery::new(0, 0);
        assert_eq!(delivery.look(start, 1000, 300, true), None);
        assert_eq!(delivery.totals(), [1000, 300]);
    }

    #[test]
    fn a_driver_that_counts_late_is_given_time() {
        let start = Instant::now();
        let mut delivery = Delivery::new(0, 0);
        assert_eq!(delivery.look(start, 1000, 0, false), None);
        assert_eq!(delivery.look(start + Duration::from_secs(2), 2000, 2000, false), None);
        assert_eq!(delivery.look(start + Duration::from_secs(3), 3000, 2000, false), None);
        let late = delivery.look(start + Duration::from_secs(9), 4000, 2000, false);
        assert_eq!(late, Some(Change::Lost { sent: 2000 }));
    }
}
