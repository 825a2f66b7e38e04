//! Tunnels that may be looked into: IP in IP, GRE, VXLAN, Geneve. One level; a tunnel in a tunnel is a flow of it.

use super::ethernet;
use super::ethertype::{self, Network};
use super::ip::Layer;
use crate::frame::Frame;
use crate::key::tunnel as kind;
use crate::packet::protocol;

const UDP_HEADER: usize = 8;
/// IANA's ports of VXLAN and Geneve.
const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;
/// A whole Ethernet frame follows.
const ETHERTYPE_ETHERNET: u16 = 0x6558;

/// GRE's first two bytes (RFC 2784, RFC 2890).
mod gre {
    pub const CHECKSUM: u16 = 0x8000;
    pub const KEY: u16 = 0x2000;
    pub const SEQUENCE: u16 = 0x1000;
    /// Routing (RFC 1701) and versions other than 0 (PPTP) are not looked into.
    pub const UNKNOWN: u16 = 0x4c07;
    pub const HEADER: usize = 4;
    pub const OPTION: usize = 4;
}

/// VXLAN's flag for a valid network identifier (RFC 7348 section 5).
const VXLAN_HAS_IDENTIFIER: u32 = 0x0800_0000;
const VXLAN_HEADER: usize = 8;
/// Geneve's version and option length, in the first byte (RFC 8926 section 3.4).
const GENEVE_VERSION: u32 = 0xc000_0000;
const GENEVE_HEADER: usize = 8;

/// A packet inside a tunnel.
pub(super) struct Inner {
    /// Where its network header is. The VLANs are those of the frame inside; the outer ones belong to the tunnel.
    pub network: Network,
    /// One of [`kind`].
    pub kind: u8,
    /// The tunnel's identifier, 0 if it has none.
    pub id: u32,
}

/// What the packet carries, if it belongs to a tunnel. `None` also if the tunnel's header is cut, unknown, or announces
/// something other than IP: then the packet counts in the tunnel's own flow.
#[inline(always)]
pub(super) fn enter<F: Frame>(frame: &F, layer: &Layer) -> Option<Inner> {
    if layer.later_fragment {
        return None;
    }
    let (ethertype, offset, kind, id) = match layer.protocol {
        protocol::IPV4 => (ethertype::IPV4, layer.offset, kind::IP_IN_IP, 0),
        protocol::IPV6 => (ethertype::IPV6, layer.offset, kind::IP_IN_IP, 0),
        protocol::GRE => gre(frame, layer.offset)?,
        protocol::UDP => {
            let [_, to]: [u16; 2] = frame.read(layer.offset)?;
            match u16::from_be(to) {
                VXLAN_PORT => vxlan(frame, layer.offset + UDP_HEADER)?,
                GENEVE_PORT => geneve(frame, layer.offset + UDP_HEADER)?,
                _ => return None,
            }
        }
        _ => return None,
    };
    let offset = frame.forget(offset);
    let network = match ethertype {
        ETHERTYPE_ETHERNET => ethernet::read(frame, offset).ok()?,
        ethertype => ethernet::payload(frame, Network { ethertype, offset, ..Network::default() }).ok()?,
    };
    let is_ip = matches!(network.ethertype, ethertype::IPV4 | ethertype::IPV6);
    is_ip.then_some(Inner { network, kind, id })
}

#[inline(always)]
fn gre<F: Frame>(frame: &F, offset: usize) -> Option<(u16, usize, u8, u32)> {
    let [flags, ethertype]: [u16; 2] = frame.read(offset)?;
    let flags = u16::from_be(flags);
    if flags & gre::UNKNOWN != 0 {
        return None;
    }
    let mut at = offset + gre::HEADER;
    if flags & gre::CHECKSUM != 0 {
        at += gre::OPTION;
    }
    let at = frame.forget(at);
    let (id, end) =
        if flags & gre::KEY != 0 { (u32::from_be(frame.read(at)?), at + gre::OPTION) } else { (0, at) };
    let end = if flags & gre::SEQUENCE != 0 { end + gre::OPTION } else { end };
    Some((u16::from_be(ethertype), end, kind::GRE, id))
}

#[inline(always)]
fn vxlan<F: Frame>(frame: &F, offset: usize) -> Option<(u16, usize, u8, u32)> {
    let [flags, identifier]: [u32; 2] = frame.read(offset)?;
    let has_identifier = u32::from_be(flags) & VXLAN_HAS_IDENTIFIER != 0;
    has_identifier.then_some((
        ETHERTYPE_ETHERNET,
        offset + VXLAN_HEADER,
        kind::VXLAN,
        u32::from_be(identifier) >> 8,
    ))
}

#[inline(always)]
fn geneve<F: Frame>(frame: &F, offset: usize) -> Option<(u16, usize, u8, u32)> {
    let [first, identifier]: [u32; 2] = frame.read(offset)?;
    let first = u32::from_be(first);
    let options = (first >> 24 & 0x3f) as usize * 4;
    (first & GENEVE_VERSION == 0).then_some((
        first as u16,
        offset + GENEVE_HEADER + options,
        kind::GENEVE,
        u32::from_be(identifier) >> 8,
    ))
}
