//! Link headers that occur in capture files, besides Ethernet.

use super::ethernet;
use super::ethertype::{self, Network};
use crate::counter::Skip;
use crate::frame::Frame;

/// Numbers of libpcap's LINKTYPE registry, and of the DLT values that some writers put in their place.
pub mod link_type {
    /// BSD loopback, address family in the byte order of the capturing host.
    pub const NULL: u32 = 0;
    /// Ethernet.
    pub const ETHERNET: u32 = 1;
    /// PPP.
    pub const PPP: u32 = 9;
    /// Raw IP as some systems number it.
    pub const RAW_DLT_12: u32 = 12;
    /// Raw IP as OpenBSD numbers it.
    pub const RAW_DLT_14: u32 = 14;
    /// PPP in HDLC-like framing (RFC 1662).
    pub const PPP_HDLC: u32 = 50;
    /// Raw IP, version from the first nibble.
    pub const RAW: u32 = 101;
    /// Cisco HDLC.
    pub const C_HDLC: u32 = 104;
    /// OpenBSD loopback, address family in network order.
    pub const LOOP: u32 = 108;
    /// Linux cooked capture, version 1.
    pub const LINUX_SLL: u32 = 113;
    /// Raw IPv4.
    pub const IPV4: u32 = 228;
    /// Raw IPv6.
    pub const IPV6: u32 = 229;
    /// Linux cooked capture, version 2.
    pub const LINUX_SLL2: u32 = 276;
}

/// Address and control field of HDLC-like framing.
const PPP_ADDRESS_CONTROL: u16 = 0xff03;

const SLL_HEADER: usize = 16;
const SLL_PROTOCOL: usize = 14;
const SLL2_HEADER: usize = 20;

/// Finds the network header of a frame with the given link type.
pub(super) fn read<F: Frame>(frame: &F, link: u32) -> Result<Network, Skip> {
    match link {
        link_type::ETHERNET => ethernet::read(frame, 0),
        link_type::LINUX_SLL => cooked(frame, SLL_PROTOCOL, SLL_HEADER),
        link_type::LINUX_SLL2 => cooked(frame, 0, SLL2_HEADER),
        link_type::RAW | link_type::RAW_DLT_12 | link_type::RAW_DLT_14 => raw(frame, 0),
        link_type::IPV4 => Ok(Network { ethertype: ethertype::IPV4, ..Network::default() }),
        link_type::IPV6 => Ok(Network { ethertype: ethertype::IPV6, ..Network::default() }),
        link_type::NULL | link_type::LOOP => loopback(frame),
        link_type::PPP => ppp(frame),
        link_type::PPP_HDLC => ppp(frame),
        link_type::C_HDLC => cooked(frame, 2, 4),
        _ => Err(Skip::UnsupportedLink),
    }
}

/// A header with an EtherType at `protocol`, the network header or VLAN tags following at `end`.
fn cooked<F: Frame>(frame: &F, protocol: usize, end: usize) -> Result<Network, Skip> {
    let ethertype = u16::from_be(frame.read(protocol).ok_or(Skip::TruncatedLink)?);
    ethernet::payload(frame, Network { ethertype, offset: end, ..Network::default() })
}

/// IP without a link header.
fn raw<F: Frame>(frame: &F, offset: usize) -> Result<Network, Skip> {
    Ok(Network { ethertype: ethertype::of_ip(frame, offset)?, offset, ..Network::default() })
}

/// Four bytes of address family in either byte order. AF_INET is 2 everywhere, AF_INET6 is 10, 24, 28 or 30.
fn loopback<F: Frame>(frame: &F) -> Result<Network, Skip> {
    let family: u32 = frame.read(0).ok_or(Skip::TruncatedLink)?;
    let family = if family > 0xffff { family.swap_bytes() } else { family };
    let ethertype = match family {
        2 => ethertype::IPV4,
        10 | 24 | 28 | 30 => ethertype::IPV6,
        _ => return Err(Skip::NotIp),
    };
    Ok(Network { ethertype, offset: 4, ..Network::default() })
}

/// PPP (RFC 1661) with or without address and control field; the protocol field may be cut to one byte.
fn ppp<F: Frame>(frame: &F) -> Result<Network, Skip> {
    let first = u16::from_be(frame.read(0).ok_or(Skip::TruncatedLink)?);
    let mut offset = if first == PPP_ADDRESS_CONTROL { 2 } else { 0 };
    let lead: u8 = frame.read(offset).ok_or(Skip::TruncatedLink)?;
    let protocol = if lead & 1 == 1 {
        offset += 1;
        u16::from(lead)
    } else {
        let whole = u16::from_be(frame.read(offset).ok_or(Skip::TruncatedLink)?);
        offset += 2;
        whole
    };
    let ethertype = ethertype::of_ppp(protocol).ok_or(Skip::NotIp)?;
    ethernet::payload(frame, Network { ethertype, offset, ..Network::default() })
}
