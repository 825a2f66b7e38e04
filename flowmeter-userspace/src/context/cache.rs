//! A table of groups of flows with a fixed number of places: what is asked for least gives way.
//!
//! Places lie in sets of eight. When a set is full, one group gives way: the first that is forgotten anyway, because it
//! has been silent for longer than [`MEMORY`]; else one that has seen a single flow; else the one that has been silent
//! longest. So a flood of addresses that never come again pushes out its own groups.

use super::pair_profile::{Likeness, Rhythm};
use super::window::{Distinct, MEMORY, Passed, Tally};

/// Places in a set.
const WAYS: usize = 8;

/// Flows that have something in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// When it was last looked at, ns.
    at: u64,
    /// New flows.
    pub flows: Tally<u32>,
    /// Distinct addresses on the other side.
    pub peers: Distinct,
    /// Distinct ports of destinations.
    pub ports: Distinct,
    /// Flows that ended without an answer.
    pub unanswered: Tally<u32>,
    /// TCP flows that were reset before either side had sent anything.
    pub reset: Tally<u32>,
    /// Flows that ended after one packet.
    pub single: Tally<u32>,
    /// Bytes of flows that ended.
    pub bytes: Tally<u64>,
    /// Flows that ended.
    pub ended: Tally<u32>,
    /// When the flows began.
    pub rhythm: Rhythm,
    /// How alike they were.
    pub likeness: Likeness,
}

impl Group {
    /// Lets time pass until `now`.
    fn pass(&mut self, now: u64) {
        let passed = Passed::between(self.at, now);
        for tally in
            [&mut self.flows, &mut self.unanswered, &mut self.reset, &mut self.single, &mut self.ended]
        {
            tally.pass(passed);
        }
        self.bytes.pass(passed);
        self.peers.pass(passed);
        self.ports.pass(passed);
        self.at = self.at.max(now);
    }

    /// In a full set the group of least worth gives way.
    fn worth(&self, now: u64) -> (bool, bool, u64) {
        (now.saturating_sub(self.at) < MEMORY, self.flows.values()[2] > 1.0, self.at)
    }
}

/// Places for groups whose names lead to the same set.
#[derive(Default)]
struct Set {
    /// Names of the groups, 0 where there is none. Of 128 bits: two groups that share one are one.
    names: [u128; WAYS],
    groups: [Group; WAYS],
}

/// The table.
pub struct GroupCache {
    /// Allocated when first needed: most captures fill a few.
    sets: Vec<Option<Box<Set>>>,
    pushed_out: u64,
}

impl GroupCache {
    /// A table with room for that many groups, rounded up to a power of two, at least eight.
    pub fn with_room(groups: usize) -> Self {
        Self { sets: std::iter::repeat_with(|| None).take(sets_for(groups)).collect(), pushed_out: 0 }
    }

    /// Memory that it takes at most, in bytes.
    pub const fn bytes(groups: usize) -> usize {
        sets_for(groups) * (size_of::<Set>() + size_of::<usize>())
    }

    /// Groups that were still remembered and had to give way.
    pub fn pushed_out(&self) -> u64 {
        self.pushed_out
    }

    /// The group with this name, as it stands at `now`; a new one if there is none.
    pub fn at(&mut self, name: u128, now: u64) -> &mut Group {
        let name = name.max(1);
        let index = (name >> 96) as usize & (self.sets.len() - 1);
        let Set { names, groups } = &mut **self.sets[index].get_or_insert_default();
        let known = names.iter().position(|&present| present == name);
        let way = known.or_else(|| names.iter().position(|&present| present == 0)).unwrap_or_else(|| {
            let worths = groups.iter().enumerate().map(|(way, group)| (group.worth(now), way));
            let ((remembered, ..), way) = worths.min().unwrap_or_default();
            self.pushed_out += u64::from(remembered);
            way
        });
        let group = &mut groups[way];
        if known.is_none() {
            names[way] = name;
            *group = Group { at: now, ..Group::default() };
        }
        group.pass(now);
        group
    }
}

/// Sets of a table for that many groups.
const fn sets_for(groups: usize) -> usize {
    groups.div_ceil(WAYS).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use flowmeter_common::time::SECOND;

    use super::*;

    #[test]
    fn a_flood_of_others_pushes_out_its_own() {
        let mut groups = GroupCache::with_room(1024);
        let size = groups.sets.len();
        for i in 0..100 {
            groups.at(0x1234_5678_9abc_def0_1234_5678_9abc_def0, i * SECOND).flows.add(1);
        }
        for i in 1..=1_000_000_u64 {
            let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            groups.at(u128::from(hash) << 64, 100 * SECOND + i * 1000).flows.add(1);
        }
        assert_eq!(
            groups.at(0x1234_5678_9abc_def0_1234_5678_9abc_def0, 101 * SECOND).flows.values()[2],
            100.0
        );
        assert_eq!(groups.sets.len(), size);
        assert!(groups.pushed_out() > 900_000, "what gave way is counted: {}", groups.pushed_out());
    }

    #[test]
    fn what_is_forgotten_gives_way_without_being_counted() {
        let mut groups = GroupCache::with_room(8);
        for i in 1..=8 {
            groups.at(i << 96, 0).flows.add(5);
        }
        groups.at(9 << 96, 700 * SECOND).flows.add(1);
        assert_eq!(groups.pushed_out(), 0);
    }
}
