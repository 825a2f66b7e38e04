//! The clock of a capture: what its packets were stamped with becomes a time that flows and their surroundings can rely on.
//!
//! Stamps go wrong in two ways. One packet's stamp may leap, and the next packet takes the leap back: then the stamp is that
//! packet's fault, and the packet comes at the time of the one before. Or the clock is set, and stays so: then the stamps
//! are a new reading of the same clock. Time goes on from the last packet, so that durations and windows stay true, and what is
//! told of a flow is what its packets were stamped with.
//!
//! Packets of several clocks may be mixed in a capture. Readings that were met before are tried before a new one is
//! believed in, or time would run away by the difference at each change.

use std::collections::{HashMap, VecDeque};

use flowmeter_common::flow::Entry;
use flowmeter_common::key::FlowKey;
use flowmeter_common::time::SECOND;

use super::flow_table::Parsed;
use crate::capture::LATEST;

/// A stamp that differs by no more from the time of the packet before is no leap. Smaller steps back are packets out of order.
const LEAP: i64 = SECOND as i64;
/// The longest silence that is believed, a year: nothing is remembered for so long.
const MAX_SILENCE: i64 = 365 * 86_400 * SECOND as i64;
/// Readings that are tried again.
const MAX_READINGS: usize = 8;
/// Changes of the reading that are told to whoever keeps the stamps, see [`Stamps`].
const MAX_CHANGES: usize = 65_536;
/// Flows of one time that are remembered, see [`Stamps`]; a capture may stamp all of its packets alike.
const MAX_LATEST: usize = 65_536;
/// Packets that are looked at before the first one's stamp is believed.
const FIRST: usize = 3;

/// A stamp that was not believed, or a clock that was set: which packet, and what the stamps were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leap {
    /// Number of the packet in the capture, from 1.
    pub packet: u64,
    /// What the packet before was stamped with, ns since the Unix epoch.
    pub before: u64,
    /// What it was stamped with.
    pub stamp: u64,
}

/// How often the stamps were not those of one clock, and where first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anomalies {
    /// Packets whose stamp was not believed.
    pub leaps: u64,
    /// The first of them.
    pub first_leap: Option<Leap>,
    /// Times that the clock was set.
    pub steps: u64,
    /// The first of them.
    pub first_step: Option<Leap>,
}

/// A packet with its number.
#[derive(Clone, Copy)]
struct Numbered {
    parsed: Parsed,
    number: u64,
}

impl Numbered {
    fn stamp(&self) -> i64 {
        // At most LATEST.
        self.parsed.1 as i64
    }
}

/// A change of the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadingChange {
    /// How many packets of the batch have the reading before.
    pub packets: usize,
    /// From which time on, ns.
    pub from: u64,
    /// The correction from then on: time = stamp + correction.
    pub correction: i64,
}

/// From stamps to times.
pub struct CaptureClock {
    /// The latest time given to a packet, ns.
    now: i64,
    /// What the present reading lacks: time = stamp + correction.
    correction: i64,
    /// Corrections of other readings, the latest first.
    others: VecDeque<i64>,
    /// What the packet before was stamped with.
    before: i64,
    packets: u64,
    /// The first packets, until there are enough to tell whether the first one's stamp is to be believed.
    first: Vec<Numbered>,
    started: bool,
    /// A packet whose stamp leaps, until the next one tells whether it is to be believed.
    held: Option<Numbered>,
    /// Changes that have not been told.
    changes: Vec<ReadingChange>,
    anomalies: Anomalies,
}

impl CaptureClock {
    /// Before the first packet.
    pub fn new() -> Self {
        Self {
            now: 0,
            correction: 0,
            others: VecDeque::new(),
            before: 0,
            packets: 0,
            first: Vec::with_capacity(FIRST),
            started: false,
            held: None,
            changes: Vec::new(),
            anomalies: Anomalies::default(),
        }
    }

    /// What was wrong so far.
    pub fn anomalies(&self) -> Anomalies {
        self.anomalies
    }

    /// Takes the next packet; packets whose time is known go to `out`, in the order in which they came.
    #[inline]
    pub fn take(&mut self, parsed: Parsed, out: &mut Vec<Parsed>) {
        self.packets += 1;
        // What nearly all packets are: after the one before, and by less than a second.
        if self.started && self.held.is_none() {
            let time = (parsed.1 as i64).saturating_add(self.correction);
            if (0..=LEAP).contains(&time.saturating_sub(self.now)) {
                self.now = time;
                self.before = parsed.1 as i64;
                out.push((parsed.0, time as u64));
                return;
            }
        }
        self.take_unusual(Numbered { parsed, number: self.packets }, out);
    }

    #[cold]
    fn take_unusual(&mut self, packet: Numbered, out: &mut Vec<Parsed>) {
        if !self.started {
            self.first.push(packet);
            if self.first.len() == FIRST {
                self.start(out);
            }
            return;
        }
        if let Some(held) = self.held.take() {
            self.resolve(held, packet.stamp(), out);
        }
        self.place(packet, out);
    }

    /// No packet comes any more.
    pub fn finish(&mut self, out: &mut Vec<Parsed>) {
        if !self.started {
            self.start(out);
        }
        if let Some(held) = self.held.take() {
            // Nobody can take it back. A capture seldom waits a year for its last packet.
            match self.gap(self.correction, held.stamp()) > MAX_SILENCE {
                true => self.fault(held, out),
                false => self.believe(held, out),
            }
        }
    }

    /// Changes of the reading since this was asked last; ask for each batch.
    pub fn changes(&mut self) -> std::vec::Drain<'_, ReadingChange> {
        self.changes.drain(..)
    }

    /// Begins with the first packets: the first one's stamp is its own fault if the others agree that it lies far off.
    fn start(&mut self, out: &mut Vec<Parsed>) {
        self.started = true;
        let first = std::mem::take(&mut self.first);
        let Some(one) = first.first() else { return };
        let off = first.len() == FIRST && {
            let [a, b, c] = [first[0].stamp(), first[1].stamp(), first[2].stamp()];
            // Behind by years, or ahead of both: a silence after the first packet is none.
            (b - a > MAX_SILENCE || a - b > LEAP) && (c - b).abs() < (a - b).abs() && (c - a).abs() > LEAP
        };
        self.before = one.stamp();
        self.now = if off { first[1].stamp() } else { one.stamp() };
        for (i, packet) in first.into_iter().enumerate() {
            if i == 0 && off {
                let leap = Leap { packet: packet.number, before: self.now as u64, stamp: packet.parsed.1 };
                self.note_leap(leap);
                out.push((packet.parsed.0, self.now as u64));
                self.before = self.now;
                continue;
            }
            if let Some(held) = self.held.take() {
                self.resolve(held, packet.stamp(), out);
            }
            self.place(packet, out);
        }
    }

    /// How far after the latest time a stamp lies, by a reading.
    fn gap(&self, correction: i64, stamp: i64) -> i64 {
        stamp.saturating_add(correction).saturating_sub(self.now)
    }

    /// Gives a packet its time, or holds it back until the next one has come.
    fn place(&mut self, packet: Numbered, out: &mut Vec<Parsed>) {
        if self.gap(self.correction, packet.stamp()).saturating_abs() <= LEAP {
            return self.accept(packet, out);
        }
        let fits = |correction: &i64| self.gap(*correction, packet.stamp()).saturating_abs() <= LEAP;
        if let Some(index) = self.others.iter().position(fits) {
            self.turn_to(self.others[index], out.len());
            return self.accept(packet, out);
        }
        self.held = Some(packet);
    }

    /// Decides about a packet that was held back, by the stamp of the one after it.
    fn resolve(&mut self, held: Numbered, next: i64, out: &mut Vec<Parsed>) {
        let gap = self.gap(self.correction, next);
        match gap >= -LEAP && gap.saturating_abs() < (next - held.stamp()).abs() {
            true => self.fault(held, out),
            false => self.believe(held, out),
        }
    }

    /// The stamp is the packet's own fault: it comes at the time of the one before.
    fn fault(&mut self, packet: Numbered, out: &mut Vec<Parsed>) {
        self.note_leap(Leap { packet: packet.number, before: self.before as u64, stamp: packet.parsed.1 });
        out.push((packet.parsed.0, self.now as u64));
    }

    fn note_leap(&mut self, leap: Leap) {
        self.anomalies.leaps += 1;
        self.anomalies.first_leap.get_or_insert(leap);
    }

    /// The stamp holds: after a silence, or by a clock that was set.
    fn believe(&mut self, packet: Numbered, out: &mut Vec<Parsed>) {
        let gap = self.gap(self.correction, packet.stamp());
        if !(0..=MAX_SILENCE).contains(&gap) {
            self.anomalies.steps += 1;
            let step = Leap { packet: packet.number, before: self.before as u64, stamp: packet.parsed.1 };
            self.anomalies.first_step.get_or_insert(step);
            // Times stay within what a signed number of nanoseconds holds; only a file made for it comes so far.
            let time = (self.now + gap.clamp(0, MAX_SILENCE)).min(LATEST as i64 - MAX_SILENCE);
            self.turn_to(time.max(self.now) - packet.stamp(), out.len());
        }
        self.accept(packet, out);
    }

    /// Goes by another reading from now on, after so many packets of the batch.
    fn turn_to(&mut self, correction: i64, packets: usize) {
        self.others.retain(|other| *other != correction);
        self.others.push_front(self.correction);
        self.others.truncate(MAX_READINGS);
        self.correction = correction;
        self.changes.push(ReadingChange { packets, from: self.now as u64, correction });
    }

    fn accept(&mut self, packet: Numbered, out: &mut Vec<Parsed>) {
        let time = packet.stamp().saturating_add(self.correction).max(0);
        self.now = self.now.max(time);
        self.before = packet.stamp();
        out.push((packet.parsed.0, time as u64));
    }
}

/// What flows were stamped with, by their times.
///
/// The last packet before a change and the first one after it can have the same time. Which reading a flow of that time was
/// opened by, its time does not tell: so those opened before the change are remembered by their keys.
#[derive(Debug, Default)]
pub struct Stamps {
    /// Changes in their order.
    changes: VecDeque<ReadingChange>,
    /// The latest time at which a flow was opened, ns, and the flows opened then.
    latest: (u64, Vec<FlowKey>),
    /// Flows opened just before a change, and the correction that they were opened by.
    tied: HashMap<(FlowKey, u64), i64>,
}

impl Stamps {
    /// Notes a change, after all packets before it have been counted in flows.
    pub fn change(&mut self, change: ReadingChange) {
        if self.latest.0 == change.from {
            let correction = self.correction(change.from);
            for key in self.latest.1.drain(..) {
                self.tied.entry((key, change.from)).or_insert(correction);
            }
        }
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Notes that a flow was opened.
    #[inline]
    pub fn opened(&mut self, entry: &Entry) {
        let time = entry.state.first();
        if self.latest.0 != time {
            self.latest.0 = time;
            self.latest.1.clear();
        }
        if self.latest.1.len() < MAX_LATEST {
            self.latest.1.push(entry.key);
        }
        // A packet out of order may lie before a change that it came after.
        if let Some(change) = self.changes.back()
            && change.correction != self.correction(time)
        {
            self.tied.insert((entry.key, time), change.correction);
        }
    }

    /// What to add (wrapping) to the times of a flow to have stamps.
    pub fn offset(&self, entry: &Entry) -> u64 {
        let first = entry.state.first();
        let tied = if self.tied.is_empty() { None } else { self.tied.get(&(entry.key, first)) };
        tied.copied().unwrap_or_else(|| self.correction(first)).wrapping_neg() as u64
    }

    /// Forgets a flow that has ended.
    pub fn ended(&mut self, entry: &Entry) {
        if !self.tied.is_empty() {
            self.tied.remove(&(entry.key, entry.state.first()));
        }
    }

    fn correction(&self, time: u64) -> i64 {
        let after = self.changes.partition_point(|change| change.from <= time);
        after.checked_sub(1).and_then(|i| self.changes.get(i)).map_or(0, |change| change.correction)
    }
}

#[cfg(test)]
mod tests {
    use flowmeter_common::counter::Skip;
    use proptest::prelude::*;

    use super::*;

    /// Times of packets with these stamps, both in seconds, and what was wrong.
    fn times(stamps: &[i64]) -> (Vec<i64>, Anomalies) {
        let (mut clock, mut out) = (CaptureClock::new(), Vec::new());
        for &stamp in stamps {
            clock.take((Err(Skip::NotIp), (stamp * LEAP) as u64), &mut out);
        }
        clock.finish(&mut out);
        assert_eq!(out.len(), stamps.len());
        (out.iter().map(|(_, time)| *time as i64 / LEAP).collect(), clock.anomalies())
    }

    #[test]
    fn a_leap_that_the_next_packet_takes_back_is_that_packets_fault() {
        const YEARS: i64 = 100_000_000;
        for (stamps, expected) in [
            ([10, 11, 12, YEARS, 13, 14], [10, 11, 12, 12, 13, 14]),
            ([1000, 1001, 1002, 2, 1003, 1004], [1000, 1001, 1002, 1002, 1003, 1004]),
            ([YEARS, 10, 11, 12, 13, 14], [10, 10, 11, 12, 13, 14]),
            (
                [2, YEARS, YEARS + 1, YEARS + 2, YEARS + 3, YEARS + 4],
                [YEARS, YEARS, YEARS + 1, YEARS + 2, YEARS + 3, YEARS + 4],
            ),
            ([10, 11, 12, 13, 14, YEARS], [10, 11, 12, 13, 14, 14]),
        ] {
            let (found, anomalies) = times(&stamps);
            assert_eq!(found, expected, "{stamps:?}");
            assert_eq!((anomalies.leaps, anomalies.steps), (1, 0), "{stamps:?}");
        }
        let leap = times(&[10, 11, 12, YEARS, 13, 14]).1.first_leap.expect("a leap");
        assert_eq!(leap, Leap { packet: 4, before: 12 * SECOND, stamp: YEARS as u64 * SECOND });
    }

    #[test]
    fn a_lasting_step_is_a_new_reading_and_a_silence_is_none() {
        let (found, anomalies) = times(&[1000, 1001, 1002, 500, 501, 502, 504]);
        assert_eq!(found, [1000, 1001, 1002, 1002, 1003, 1004, 1006]);
        assert_eq!((anomalies.leaps, anomalies.steps), (0, 1));
        let (found, anomalies) = times(&[1000, 1001, 5000, 5001, 90_000]);
        assert_eq!(found, [1000, 1001, 5000, 5001, 90_000]);
        assert_eq!(anomalies, Anomalies::default());
    }

    #[test]
    fn two_clocks_in_one_capture_do_not_run_away() {
        let stamps: Vec<i64> = (0..1000).flat_map(|i| [1000 + i, 1000 + i, 900 + i, 900 + i]).collect();
        let (found, _) = times(&stamps);
        assert!(found.is_sorted() && found[found.len() - 1] <= 2001, "{:?}", found.last());
    }

    #[test]
    fn stamps_are_told_as_they_were() {
        let (mut clock, mut out, mut stamps) = (CaptureClock::new(), Vec::new(), Stamps::default());
        let given: Vec<u64> = [1000, 1001, 1002, 500, 501, 502].map(|s| s * SECOND).to_vec();
        for &stamp in &given {
            clock.take((Err(Skip::NotIp), stamp), &mut out);
        }
        clock.finish(&mut out);
        clock.changes().for_each(|change| stamps.change(change));
        let told: Vec<i64> = out.iter().map(|(_, time)| *time as i64 - stamps.correction(*time)).collect();
        let given: Vec<i64> = given.iter().map(|stamp| *stamp as i64).collect();
        // The packet before a step has the time of the one after it.
        assert_eq!(told[3..], given[3..]);
        assert_eq!(told[..2], given[..2]);
    }

    #[test]
    fn a_capture_that_stamps_all_its_packets_alike_takes_no_more_memory() {
        let mut stamps = Stamps::default();
        // SAFETY: an entry is whole words, of which all are valid.
        let mut entry: Entry = unsafe { std::mem::zeroed() };
        for i in 0..2 * MAX_LATEST as u64 {
            entry.key.a_address = [0, i];
            stamps.opened(&entry);
        }
        assert_eq!(stamps.latest.1.len(), MAX_LATEST);
    }

    proptest! {
        #[test]
        fn every_packet_has_a_time_in_order(stamps in proptest::collection::vec(0..=LATEST, 0..300)) {
            let (mut clock, mut out) = (CaptureClock::new(), Vec::new());
            for &stamp in &stamps {
                clock.take((Err(Skip::NotIp), stamp), &mut out);
            }
            clock.finish(&mut out);
            prop_assert_eq!(out.len(), stamps.len());
            let mut latest = 0;
            for (_, time) in &out {
                prop_assert!(*time <= LATEST && time + SECOND >= latest, "{time} after {latest}");
                latest = latest.max(*time);
            }
        }
    }
}
