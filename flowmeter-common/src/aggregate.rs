//! What becomes of a packet whose flow finds no slot: it is counted together with all others of its kind to the same
//! destination and service, for ten seconds.
//!
//! An aggregate is an [`Entry`](crate::flow::Entry) like a flow's, in a small table of its own, so that it is exported
//! and scored like one. A flood that fills the table shows as what it is: very many packets to one service, or from
//! very many addresses.

use crate::flow::Opening;
use crate::key::{FlowKey, kind, mapped_ipv4};
use crate::lifecycle::Timeouts;
use crate::packet::{Packet, protocol, tcp_flags};
use crate::table::Buckets;
use crate::time::SECOND;

/// Entries of the aggregates' table: services that are told apart at once while the flow table is full.
pub const SERVICES: u32 = 1024;
/// Its buckets.
pub const BUCKETS: Buckets = Buckets::for_flows(SERVICES);

/// How long packets are added up; then the aggregate is given out and a new one begins.
pub const PERIOD: u64 = 10 * SECOND;

/// An aggregate's timeouts: nothing closes it but the clock.
pub const TIMEOUTS: Timeouts = Timeouts { idle: PERIOD, active: PERIOD, linger: PERIOD };

/// How an aggregate opens: the clients are the initiator. Their address is unspecified, the least of all, so they are the
/// key's endpoint `a`.
pub const OPENING: Opening = Opening { initiator: 0, earlier: 0 };

/// The packet as its aggregate counts it: the unspecified address and port 0 stand in place of the client's.
#[inline(always)]
pub fn of(packet: &Packet) -> Packet {
    let key = &packet.key;
    let sent_by_a = packet.direction & 1 == 0;
    let (from, from_port, to, to_port) = if sent_by_a {
        (key.a_address, key.a_port, key.b_address, key.b_port)
    } else {
        (key.b_address, key.b_port, key.a_address, key.a_port)
    };
    let ports =
        matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) && key.kind == kind::WHOLE;
    let answers = ports && is_answer(packet.flags, from_port, to_port);
    let (service, service_port) = if answers { (from, from_port) } else { (to, to_port) };
    let anybody = if key.ip_version == 4 { mapped_ipv4(0) } else { [0, 0] };
    let mut whole = FlowKey { kind: kind::AGGREGATE, ..*key };
    let to_service = whole.set_endpoints(anybody, 0, service, if ports { service_port } else { 0 });
    Packet { key: whole, direction: to_service ^ answers as u8, ..*packet }
}

/// Whether the packet comes from the service: SYN and SYN+ACK tell; otherwise the lower port is taken for it.
#[inline(always)]
fn is_answer(flags: u8, from_port: u16, to_port: u16) -> bool {
    match flags & (tcp_flags::SYN | tcp_flags::ACK) {
        tcp_flags::SYN => false,
        both if both & tcp_flags::SYN != 0 => true,
        _ => from_port < to_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, from: (u8, u16), to: (u8, u16)) -> Packet {
        let address = |last| mapped_ipv4(u32::from_ne_bytes([10, 0, 0, last]));
        let mut key = FlowKey { protocol: protocol::TCP, ip_version: 4, ..FlowKey::default() };
        let direction = key.set_endpoints(address(from.0), from.1, address(to.0), to.1);
        Packet { direction, flags, size: 40, ..Packet::of(key) }
    }

    #[test]
    fn both_directions_of_all_clients_meet() {
        let probe = of(&packet(tcp_flags::SYN, (9, 40000), (1, 23)));
        for (other, towards) in [
            (packet(tcp_flags::SYN, (200, 50000), (1, 23)), true),
            (packet(tcp_flags::SYN, (7, 1), (1, 23)), true),
            (packet(tcp_flags::SYN | tcp_flags::ACK, (1, 23), (7, 1)), false),
            (packet(tcp_flags::RST | tcp_flags::ACK, (1, 23), (9, 40000)), false),
            (packet(tcp_flags::ACK, (9, 40000), (1, 23)), true),
        ] {
            let other = of(&other);
            assert_eq!(other.key, probe.key);
            assert_eq!(other.direction == probe.direction, towards, "{other:?}");
        }
        assert_eq!(probe.direction, OPENING.initiator, "clients are the initiator");
    }

    #[test]
    fn services_are_told_apart() {
        let one = of(&packet(tcp_flags::SYN, (9, 40000), (1, 23)));
        for other in [(2, 23), (1, 22)] {
            assert_ne!(of(&packet(tcp_flags::SYN, (9, 40000), other)).key, one.key);
        }
    }
}
