//! TCP, UDP, SCTP and ICMP headers; every other protocol is a flow without ports.

use super::ip::{Layer, Split};
use crate::counter::Skip;
use crate::frame::Frame;
use crate::key::kind;
use crate::packet::{Packet, protocol};

const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
const SCTP_HEADER: u32 = 12;
const ICMP_HEADER: u32 = 8;

/// Completes `packet` from the network layer and the transport header after it.
#[inline(always)]
pub(super) fn read<F: Frame>(frame: &F, layer: &Layer, packet: &mut Packet) -> Result<(), Skip> {
    packet.size = layer.size;
    packet.key.protocol = layer.protocol;
    packet.key.ip_version = layer.version;
    let offset = frame.forget(layer.offset);
    let body = layer.size - layer.headers;
    let (mut from_port, mut to_port) = (0, 0);
    let mut header = 0;
    if layer.later_fragment {
        if layer.protocol == protocol::TCP && layer.split == Split::Within {
            return Err(Skip::ShortFragment);
        }
        packet.key.kind = kind::FRAGMENT;
    } else if layer.split == Split::First && body < least(layer.protocol) {
        return Err(Skip::ShortFragment);
    } else {
        match layer.protocol {
            protocol::TCP => {
                let words: [u32; 5] = frame.read(offset).ok_or(Skip::TruncatedTransport)?;
                let control = u32::from_be(words[3]);
                header = (control >> 28) * 4;
                if body < TCP_HEADER {
                    return Err(Skip::ShortTransport);
                }
                if header > body && layer.split == Split::First {
                    return Err(Skip::ShortFragment);
                }
                if header < TCP_HEADER || header > body {
                    return Err(Skip::BadTcp);
                }
                (from_port, to_port) = ports(words[0]);
                packet.sequence = u32::from_be(words[1]);
                packet.acknowledgement = u32::from_be(words[2]);
                packet.flags = (control >> 16) as u8;
                packet.window = control as u16;
            }
            protocol::UDP => {
                header = UDP_HEADER;
                (from_port, to_port) = ports(frame.read(offset).ok_or(Skip::TruncatedTransport)?);
            }
            protocol::SCTP => {
                header = SCTP_HEADER;
                (from_port, to_port) = ports(frame.read(offset).ok_or(Skip::TruncatedTransport)?);
            }
            protocol::ICMP | protocol::ICMPV6 => {
                header = ICMP_HEADER;
                let words: [u32; 2] = frame.read(offset).ok_or(Skip::TruncatedTransport)?;
                packet.window = (u32::from_be(words[0]) >> 16) as u16;
                (from_port, to_port, packet.key.kind) =
                    icmp_ports(layer.protocol, u32::from_be(words[0]), u32::from_be(words[1]));
            }
            _ => {}
        }
    }
    if body < header {
        return Err(Skip::ShortTransport);
    }
    packet.header = header as u16;
    packet.payload = body - header;
    packet.direction = packet.key.set_endpoints(layer.from, from_port, layer.to, to_port);
    Ok(())
}

/// Length of the shortest transport header of this protocol.
#[inline(always)]
const fn least(protocol: u8) -> u32 {
    match protocol {
        protocol::TCP => TCP_HEADER,
        protocol::UDP => UDP_HEADER,
        protocol::SCTP => SCTP_HEADER,
        protocol::ICMP | protocol::ICMPV6 => ICMP_HEADER,
        _ => 0,
    }
}

#[inline(always)]
fn ports(word: u32) -> (u16, u16) {
    let word = u32::from_be(word);
    ((word >> 16) as u16, word as u16)
}

/// Source and destination "port" of an ICMP message, see the [module](super)'s page, and the key's kind.
#[inline(always)]
fn icmp_ports(protocol: u8, first: u32, second: u32) -> (u16, u16, u8) {
    let (message, code) = ((first >> 24) as u16, ((first >> 16) & 0xff) as u16);
    let identifier = (second >> 16) as u16;
    // (type of the request, is this the reply) for messages that come in pairs: RFC 792, RFC 950, RFC 4443.
    let query = match (protocol, message) {
        (protocol::ICMP, 8 | 13 | 15 | 17) | (protocol::ICMPV6, 128) => Some((message, false)),
        (protocol::ICMP, 0) => Some((8, true)),
        (protocol::ICMP, 14 | 16 | 18) | (protocol::ICMPV6, 129) => Some((message - 1, true)),
        _ => None,
    };
    match query {
        Some((request, false)) => (request, identifier, kind::QUERY),
        Some((request, true)) => (identifier, request, kind::QUERY),
        None => (message, code, kind::WHOLE),
    }
}
