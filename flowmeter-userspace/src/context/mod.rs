//! What a flow alone cannot show: what its source, its destination and others like it did over the last minutes.
//!
//! A source of flows tells the context about each flow that opens and about each that ends, in that order. It asks what
//! surrounds a flow when the flow is scored. Memory is bounded: [`cache`] tells what gives way, [`window`] what the
//! counts mean and how exact they are, [`pair_profile`] what rhythm and likeness are.
//!
//! Flows to a group of hosts (multicast, broadcast) are not counted. They are announcements: nobody has to answer them,
//! and a device sends as many as it likes.
//!
//! Flows that end together are all counted before any is asked about, so that each sees the burst that it was part of.

pub mod cache;
pub mod pair_profile;
pub mod window;

use flowmeter_common::flow::{Entry, tcp_seen};
use flowmeter_common::hash::NameKeys;
use flowmeter_common::key::{FlowKey, kind};
use flowmeter_common::packet::protocol;

use cache::{Group, GroupCache};
use pair_profile::Outline;
use window::WINDOWS;

use crate::endpoint::{endpoint, to_group};

/// By what flows are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The initiator's address.
    Source,
    /// The other side's address.
    Destination,
    /// Both.
    Pair,
    /// The other side's address and port.
    Service,
    /// The initiator's address and the other side's port, whatever its address.
    SourceAndPort,
}

/// Number of [`By`]'s variants.
pub const GROUPINGS: usize = 5;
const ALL: [By; GROUPINGS] = [By::Source, By::Destination, By::Pair, By::Service, By::SourceAndPort];

/// Groups that each table has room for.
pub const ROOM: usize = 16_384;

/// What a group of flows did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupView {
    /// New flows by window.
    pub flows: [f32; WINDOWS],
    /// Distinct addresses on the other side by window.
    pub peers: [f32; WINDOWS],
    /// Distinct ports of destinations by window.
    pub ports: [f32; WINDOWS],
    /// Flows that ended without an answer by window.
    pub unanswered: [f32; WINDOWS],
    /// TCP flows that were reset before either side had sent anything by window.
    pub reset: [f32; WINDOWS],
    /// Flows that ended after one packet by window.
    pub single: [f32; WINDOWS],
    /// Bytes of flows that ended by window.
    pub bytes: [f32; WINDOWS],
    /// Flows that ended by window.
    pub ended: [f32; WINDOWS],
}

impl GroupView {
    const NONE: Self = Self {
        flows: [0.0; WINDOWS],
        peers: [0.0; WINDOWS],
        ports: [0.0; WINDOWS],
        unanswered: [0.0; WINDOWS],
        reset: [0.0; WINDOWS],
        single: [0.0; WINDOWS],
        bytes: [0.0; WINDOWS],
        ended: [0.0; WINDOWS],
    };

    fn of(group: &Group) -> Self {
        Self {
            flows: group.flows.values(),
            peers: group.peers.values(),
            ports: group.ports.values(),
            unanswered: group.unanswered.values(),
            reset: group.reset.values(),
            single: group.single.values(),
            bytes: group.bytes.values(),
            ended: group.ended.values(),
        }
    }
}

/// What surrounds a flow when it is judged; the flow itself is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surroundings {
    groups: [GroupView; GROUPINGS],
    /// Mean gap between the starts of the pair's flows, seconds; 0 without one.
    pub start_gap: f32,
    /// Deviation of these gaps over their mean; 1 with fewer than two.
    pub start_variation: f32,
    /// Gaps between the starts of the pair's flows, at most 65,535.
    pub starts: f32,
    /// Difference of the flow to the pair's flows that ended, in binary logarithms.
    pub difference: f32,
    /// Deviation of the pair's bytes forward and backward, in binary logarithms.
    pub spread: [f32; 2],
}

impl Surroundings {
    /// Nothing is known of what surrounds the flow.
    pub const NONE: Self = Self {
        groups: [GroupView::NONE; GROUPINGS],
        start_gap: 0.0,
        start_variation: 1.0,
        starts: 0.0,
        difference: 0.0,
        spread: [0.0; 2],
    };

    /// The group that the flow belongs to by `by`.
    pub fn by(&self, by: By) -> &GroupView {
        &self.groups[by as usize]
    }
}

/// The groups that flows belong to.
pub struct Context {
    /// Secrets of the groups' names, so that an attacker cannot choose addresses that share a set or a group.
    keys: NameKeys,
    tables: [GroupCache; GROUPINGS],
}

impl Context {
    /// Nothing known yet.
    pub fn new(seed: u64) -> Self {
        Self { keys: NameKeys::expand(seed), tables: ALL.map(|_| GroupCache::with_room(ROOM)) }
    }

    /// Memory that it takes at most, in bytes.
    pub const fn bytes() -> usize {
        GROUPINGS * GroupCache::bytes(ROOM)
    }

    /// Groups that were still remembered and had to give way to others.
    pub fn pushed_out(&self) -> u64 {
        self.tables.iter().map(GroupCache::pushed_out).sum()
    }

    /// A flow has opened. `now` is in the clock of the flow's own times, ns.
    pub fn opened(&mut self, entry: &Entry, now: u64) {
        let ends = Ends::of(entry);
        if ends.to_group {
            return;
        }
        let (source, destination) = (ends.value(&self.keys, 0), ends.value(&self.keys, 1));
        let port = ends.port_value(&self.keys);
        for by in ALL {
            let group = self.tables[by as usize].at(ends.name(by, &self.keys), now);
            group.flows.add(1);
            match by {
                By::Source => {
                    group.peers.add(destination);
                    group.ports.add(port);
                }
                By::Destination => {
                    group.peers.add(source);
                    group.ports.add(port);
                }
                By::Pair => {
                    group.ports.add(port);
                    group.rhythm.start(entry.state.first());
                }
                By::Service => group.peers.add(source),
                By::SourceAndPort => group.peers.add(destination),
            }
        }
    }

    /// A flow has ended.
    pub fn ended(&mut self, entry: &Entry, now: u64) {
        let ends = Ends::of(entry);
        if ends.to_group {
            return;
        }
        let outcome = Outcome::of(entry);
        for by in ALL {
            let group = self.tables[by as usize].at(ends.name(by, &self.keys), now);
            group.ended.add(1);
            group.bytes.add(entry.state.bytes());
            if outcome.unanswered {
                group.unanswered.add(1);
            }
            if outcome.reset {
                group.reset.add(1);
            }
            if outcome.single {
                group.single.add(1);
            }
            if by == By::Pair {
                group.likeness.add(&ends.outline);
            }
        }
    }

    /// What surrounds a flow, living or ended.
    pub fn around(&mut self, entry: &Entry, now: u64) -> Surroundings {
        let ends = Ends::of(entry);
        let mut found = Surroundings::NONE;
        for by in ALL {
            let group = self.tables[by as usize].at(ends.name(by, &self.keys), now);
            found.groups[by as usize] = GroupView::of(group);
            if by == By::Pair {
                found.start_gap = group.rhythm.mean();
                found.start_variation = group.rhythm.variation();
                found.starts = group.rhythm.gaps();
                found.difference = group.likeness.difference(&ends.outline);
                found.spread = group.likeness.spread();
            }
        }
        found
    }
}

/// How a flow came out.
struct Outcome {
    unanswered: bool,
    reset: bool,
    single: bool,
}

impl Outcome {
    fn of(entry: &Entry) -> Self {
        let [a, b] = &entry.state.directions;
        let quiet = a.payload_bytes == 0 && b.payload_bytes == 0;
        let reset = a.has(tcp_seen::RST) || b.has(tcp_seen::RST);
        Self {
            unanswered: a.packets == 0 || b.packets == 0,
            reset: entry.key.protocol == protocol::TCP && reset && quiet,
            single: a.packets + b.packets == 1,
        }
    }
}

/// A flow's ends, as groups are named by them.
struct Ends {
    key: FlowKey,
    /// Address of the source and of the destination.
    addresses: [[u64; 2]; 2],
    /// The destination's port; 0 where its place holds something else (ICMP, fragments).
    port: u16,
    /// It goes to a group of hosts.
    to_group: bool,
    outline: Outline,
}

impl Ends {
    fn of(entry: &Entry) -> Self {
        let key = entry.key;
        let (a, b) = ((key.a_address, key.a_port), (key.b_address, key.b_port));
        let (source, destination) = if entry.initiator & 1 == 0 { (a, b) } else { (b, a) };
        let has_ports =
            key.kind == kind::WHOLE && matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let [forward, backward] = match entry.initiator & 1 {
            0 => [&entry.state.directions[0], &entry.state.directions[1]],
            _ => [&entry.state.directions[1], &entry.state.directions[0]],
        };
        let duration = entry.state.last().saturating_sub(entry.state.first());
        Self {
            key,
            addresses: [source.0, destination.0],
            port: if has_ports { destination.1 } else { 0 },
            to_group: to_group(endpoint(&key, entry.initiator ^ 1).address),
            outline: Outline::of(forward.bytes, backward.bytes, forward.packets + backward.packets, duration),
        }
    }

    /// The name of the flow's group: that of the flow's key without the fields in which flows of the group may differ.
    /// VLANs, tunnels and interfaces stay in it: behind another one, the same address is another host.
    fn name(&self, by: By, keys: &NameKeys) -> u128 {
        let [source, destination] = self.addresses;
        let (a_address, b_address, port) = match by {
            By::Source => (source, [0; 2], false),
            By::Destination => ([0; 2], destination, false),
            By::Pair => (source, destination, false),
            By::Service => ([0; 2], destination, true),
            By::SourceAndPort => (source, [0; 2], true),
        };
        let key = FlowKey {
            a_address,
            b_address,
            a_port: 0,
            b_port: if port { self.port } else { 0 },
            protocol: if port { self.key.protocol } else { 0 },
            kind: by as u8,
            ..self.key
        };
        keys.name(key.words())
    }

    /// A value for the source's (0) or the destination's (1) address.
    fn value(&self, keys: &NameKeys, end: usize) -> u64 {
        keys.hash(FlowKey { a_address: self.addresses[end], ..FlowKey::default() }.words())
    }

    /// A value for protocol and port.
    fn port_value(&self, keys: &NameKeys) -> u64 {
        keys.hash(FlowKey { a_port: self.port, protocol: self.key.protocol, ..FlowKey::default() }.words())
    }
}
