//! What the formats of other tools ask of a flow, found once for all of them.

use flowmeter_common::flow::Direction;
use flowmeter_common::hash::HashKeys;
use flowmeter_common::key::kind;
use flowmeter_common::packet::{protocol, tcp_flags};

use crate::features::FlowView;
use crate::record::FlowRecord;

/// Source and destination port. `None` for what has none: ICMP, fragments after the first, protocols without ports.
pub fn ports(record: &FlowRecord) -> Option<(u16, u16)> {
    let key = &record.entry.key;
    let (source, destination) = (record.source().port, record.destination().port);
    match (key.protocol, key.kind) {
        (protocol::ICMP | protocol::ICMPV6, _) | (_, kind::FRAGMENT) => None,
        (protocol::TCP | protocol::UDP | protocol::SCTP, _) => Some((source, destination)),
        // Whatever else the parser finds ports in has some that are not zero.
        _ => (source != 0 || destination != 0).then_some((source, destination)),
    }
}

/// Type and code of the first ICMP message; `None` for other protocols, and for fragments that do not show it.
pub fn icmp(record: &FlowRecord) -> Option<(u8, u8)> {
    // The view is not cheap, and few flows are ICMP's.
    matches!(record.entry.key.protocol, protocol::ICMP | protocol::ICMPV6)
        .then(|| FlowView::new(record).icmp())
        .flatten()
}

/// All TCP flags that packets of this direction had, as they stand in octet 13 of the TCP header; `None` for other
/// protocols, and for fragments that do not show them.
pub fn flags(record: &FlowRecord, direction: &Direction) -> Option<u8> {
    let key = &record.entry.key;
    if key.protocol != protocol::TCP || key.kind == kind::FRAGMENT {
        return None;
    }
    let counts = [
        (tcp_flags::FIN, u64::from(direction.fin)),
        (tcp_flags::SYN, u64::from(direction.syn)),
        (tcp_flags::RST, u64::from(direction.rst)),
        (tcp_flags::PSH, direction.psh),
        (tcp_flags::ACK, direction.acks(key.protocol)),
        (tcp_flags::URG, u64::from(direction.urg)),
        (tcp_flags::ECE, u64::from(direction.ece)),
        (tcp_flags::CWR, u64::from(direction.cwr)),
    ];
    Some(counts.into_iter().filter(|(_, count)| *count != 0).fold(0, |all, (flag, _)| all | flag))
}

/// A number for the flow: the same in every line about it, and another one for the next flow between the same ends.
pub fn number(record: &FlowRecord, seed: u64) -> u64 {
    HashKeys::expand(seed ^ record.entry.state.first().rotate_left(17)).hash(record.entry.key.words())
}
