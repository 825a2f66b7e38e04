//! A frame becomes a packet, or a named reason why it is not counted.
//!
//! Each file reads one layer and returns what follows it: `ethernet` or [`link`] finds the network header,
//! `ip` the transport header, `tunnel` another network header where that is wanted, `transport` fills in the rest.
//!
//! ICMP has no ports. A query and its reply (echo, timestamp, ...) are one flow: the asking side has the request's
//! type for a port, the answering side the identifier. Any other message has its type as the source port and its
//! code as the destination port.

mod ethernet;
mod ethertype;
mod ip;
pub mod link;
mod transport;
mod tunnel;

use self::ethertype::Network;
use crate::counter::Skip;
use crate::frame::Frame;
use crate::key::{FlowKey, kind};
use crate::packet::Packet;

/// How deep to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// Whether a packet inside a tunnel (IP in IP, GRE, VXLAN, Geneve) stands for itself, instead of belonging to the
    /// tunnel's flow. The tunnel's identifier is part of its flow's key then, and the inner packet's length, VLAN tags and
    /// skip reason count.
    pub tunnels: bool,
}

/// Parses an Ethernet frame seen on `interface` (0 in captures).
///
/// # Errors
/// The reason why the packet cannot be counted in a flow.
#[inline(always)]
pub fn parse_ethernet<F: Frame>(frame: &F, interface: u32, look: ParseOptions) -> Result<Packet, Skip> {
    network(frame, ethernet::read(frame, 0)?, interface, look)
}

/// Parses a frame of a capture with the given link type (libpcap's LINKTYPE registry).
///
/// # Errors
/// The reason why the packet cannot be counted in a flow.
pub fn parse_link<F: Frame>(frame: &F, link_type: u32, look: ParseOptions) -> Result<Packet, Skip> {
    network(frame, link::read(frame, link_type)?, 0, look)
}

/// The address pair of an Ethernet frame with an IP header, as the key of a packet without ports: what the lists are asked
/// about where nothing more can be parsed.
#[inline(always)]
pub fn address_pair<F: Frame>(frame: &F) -> Option<FlowKey> {
    let (ip_version, from, to) = ip::addresses(frame, &ethernet::read(frame, 0).ok()?)?;
    let mut key = FlowKey { ip_version, kind: kind::FRAGMENT, ..FlowKey::default() };
    key.set_endpoints(from, 0, to, 0);
    Some(key)
}

/// Where the network header of a captured frame is (bytes from its start), and its EtherType.
///
/// # Errors
/// The reason why no network header was found.
pub fn network_header<F: Frame>(frame: &F, link_type: u32) -> Result<(u16, usize), Skip> {
    link::read(frame, link_type).map(|found| (found.ethertype, found.offset))
}

#[inline(always)]
fn network<F: Frame>(frame: &F, found: Network, interface: u32, look: ParseOptions) -> Result<Packet, Skip> {
    let mut packet = Packet::of(FlowKey {
        outer_vlan: found.outer_vlan,
        inner_vlan: found.inner_vlan,
        interface,
        ..FlowKey::default()
    });
    let mut layer = ip::read(frame, &found)?;
    if look.tunnels
        && let Some(inner) = tunnel::enter(frame, &layer)
    {
        packet.key.outer_vlan = inner.network.outer_vlan;
        packet.key.inner_vlan = inner.network.inner_vlan;
        packet.key.tunnel = inner.kind;
        packet.key.tunnel_id = inner.id;
        layer = ip::read(frame, &inner.network)?;
    }
    transport::read(frame, &layer, &mut packet)?;
    Ok(packet)
}
