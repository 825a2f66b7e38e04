//! A flow on its way from a source to the sinks: its entry, how it ended, and what time it was.

use flowmeter_common::flow::{Direction, Entry};
use flowmeter_common::key::{VLAN_PRESENT, kind};
use flowmeter_common::lifecycle::EndReason;
use flowmeter_common::packet::protocol;

use crate::context::Surroundings;
use crate::endpoint::{Endpoint, endpoint, to_group};

/// When a flow is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// While it lives.
    Checkpoint {
        /// Number of its entry in the kernel's table, for the verdict.
        entry: u32,
    },
    /// It has ended.
    End(EndReason),
}

/// A flow, finished or living.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// Key and counters; times in the clock of the source.
    pub entry: Entry,
    /// Why it is reported now.
    pub stage: Stage,
    /// Added to the entry's times, wrapping, this gives nanoseconds since the Unix epoch.
    pub clock_offset: u64,
    /// What surrounds it, if a feature asks for that.
    pub context: Option<Box<Surroundings>>,
}

impl FlowRecord {
    /// A flow of a capture, whose times are since the Unix epoch.
    pub fn of_capture(entry: &Entry, why: EndReason) -> Self {
        Self { entry: *entry, stage: Stage::End(why), clock_offset: 0, context: None }
    }

    /// The side that began the flow, as far as can be seen.
    pub fn source(&self) -> Endpoint {
        endpoint(&self.entry.key, self.entry.initiator)
    }

    /// The other side.
    pub fn destination(&self) -> Endpoint {
        endpoint(&self.entry.key, self.entry.initiator ^ 1)
    }

    /// From source to destination.
    pub fn forward(&self) -> &Direction {
        &self.entry.state.directions[usize::from(self.entry.initiator & 1)]
    }

    /// From destination to source.
    pub fn backward(&self) -> &Direction {
        &self.entry.state.directions[usize::from(self.entry.initiator & 1 ^ 1)]
    }

    /// True if it goes to a group of hosts, see [`to_group`].
    pub fn to_group(&self) -> bool {
        to_group(self.destination().address)
    }

    /// True if this is the sum of packets to one service whose flows found no slot.
    pub fn is_aggregate(&self) -> bool {
        self.entry.key.kind == kind::AGGREGATE
    }

    /// Time of the first packet, nanoseconds since the Unix epoch.
    pub fn first_seen(&self) -> u64 {
        self.entry.state.first().wrapping_add(self.clock_offset)
    }

    /// Time of the last packet, nanoseconds since the Unix epoch.
    pub fn last_seen(&self) -> u64 {
        self.entry.state.last().wrapping_add(self.clock_offset)
    }

    /// Time between the first and the last packet, in nanoseconds.
    pub fn duration(&self) -> u64 {
        self.entry.state.last().saturating_sub(self.entry.state.first())
    }

    /// Outer and inner VLAN identifier, where there are tags.
    pub fn vlans(&self) -> [Option<u16>; 2] {
        let id = |tag: u16| (tag & VLAN_PRESENT != 0).then_some(tag & !VLAN_PRESENT);
        [id(self.entry.key.outer_vlan), id(self.entry.key.inner_vlan)]
    }

    /// Community ID version 1 with seed 0 (<https://github.com/corelight/community-id-spec>), the name by which other
    /// tools know this flow. `None` for fragments, whose ports are not known, and for aggregates.
    pub fn community_id(&self) -> Option<String> {
        let (mut source, mut destination) = (self.source(), self.destination());
        let protocol = self.entry.key.protocol;
        let ports = match (protocol, self.entry.key.kind) {
            (_, kind::FRAGMENT | kind::AGGREGATE) => return None,
            (_, kind::QUERY) => {
                // The specification takes type and code, so the side that asked comes first; a request's code is 0.
                if !is_request(protocol, source.port) {
                    std::mem::swap(&mut source, &mut destination);
                }
                Some((source.port, 0))
            }
            (protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6, _) => {
                Some((source.port, destination.port))
            }
            _ => None,
        };
        community_id::calculate_community_id(
            0,
            source.address,
            destination.address,
            ports.map(|p| p.0),
            ports.map(|p| p.1),
            protocol,
            false,
        )
        .ok()
    }
}

/// True if an ICMP message of this type is one that asks for an answer.
fn is_request(protocol: u8, message: u16) -> bool {
    matches!((protocol, message), (protocol::ICMP, 8 | 13 | 15 | 17) | (protocol::ICMPV6, 128))
}
