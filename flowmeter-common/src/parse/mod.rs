//! A frame becomes a packet, or a named reason why it is not counted.
//!
//! Each file reads one layer and returns what follows it: [`ethernet`] or [`link`] finds the network header,
//! `ip` the transport header, `transport` fills in the rest.
//!
//! ICMP has no ports. A query and its reply (echo, timestamp, ...) are one flow: the asking side has the request's
//! type for a port, the answering side the identifier. Any other message has its type as the source port and its
//! code as the destination port.

pub mod ethernet;
mod ip;
pub mod link;
mod transport;

use crate::counter::Skip;
use crate::frame::Frame;
use crate::key::FlowKey;
use crate::packet::Packet;

/// What a link layer leaves for the network layer.
#[derive(Clone, Copy, Debug, Default)]
struct Network {
    /// EtherType of the network header, host order.
    ethertype: u16,
    /// Where it begins, in bytes from the frame's start.
    offset: usize,
    /// Outer VLAN, see [`FlowKey::outer_vlan`].
    outer_vlan: u16,
    /// Inner VLAN.
    inner_vlan: u16,
}

/// Parses an Ethernet frame seen on `interface` (0 in captures).
///
/// # Errors
/// The reason why the packet cannot be counted in a flow.
#[inline(always)]
pub fn parse_ethernet<F: Frame>(frame: &F, interface: u32) -> Result<Packet, Skip> {
    network(frame, ethernet::read(frame, 0)?, interface)
}

/// Parses a frame of a capture with the given link type (libpcap's LINKTYPE registry).
///
/// # Errors
/// The reason why the packet cannot be counted in a flow.
pub fn parse_link<F: Frame>(frame: &F, link_type: u32) -> Result<Packet, Skip> {
    network(frame, link::read(frame, link_type)?, 0)
}

#[inline(always)]
fn network<F: Frame>(frame: &F, found: Network, interface: u32) -> Result<Packet, Skip> {
    let mut packet = Packet {
        key: FlowKey {
            outer_vlan: found.outer_vlan,
            inner_vlan: found.inner_vlan,
            interface,
            ..FlowKey::default()
        },
        direction: 0,
        flags: 0,
        header: 0,
        window: 0,
        segments: 1,
        segment_payload: 0,
        size: 0,
        payload: 0,
        sequence: 0,
        acknowledgement: 0,
    };
    let layer = match found.ethertype {
        ethernet::ETHERTYPE_IPV4 => ip::read_v4(frame, found.offset)?,
        ethernet::ETHERTYPE_IPV6 => ip::read_v6(frame, found.offset)?,
        _ => return Err(Skip::NotIp),
    };
    transport::read(frame, &layer, &mut packet)?;
    Ok(packet)
}
