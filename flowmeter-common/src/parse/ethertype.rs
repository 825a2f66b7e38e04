//! EtherTypes: what a link says of the header after it, whatever the link is.

use crate::counter::Skip;
use crate::frame::Frame;

/// EtherType of IPv4.
pub(super) const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const VLAN: u16 = 0x8100;
pub(super) const QINQ: u16 = 0x88a8;
/// What switches used for the outer tag before 802.1ad.
pub(super) const QINQ_OLD: u16 = 0x9100;
pub(super) const PPPOE_SESSION: u16 = 0x8864;
/// MPLS with a downstream-assigned label, which is the usual one.
pub(super) const MPLS: u16 = 0x8847;
/// MPLS with an upstream-assigned label, or multicast (RFC 5332).
pub(super) const MPLS_MULTICAST: u16 = 0x8848;

const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;
/// What a link layer leaves for the network layer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Network {
    /// EtherType of the network header, host order.
    pub ethertype: u16,
    /// Where it begins, in bytes from the frame's start.
    pub offset: usize,
    /// Outer VLAN, see [`crate::key::FlowKey::outer_vlan`].
    pub outer_vlan: u16,
    /// Inner VLAN.
    pub inner_vlan: u16,
}

#[inline(always)]
pub(super) const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, VLAN | QINQ | QINQ_OLD)
}

/// The EtherType of an IP header that no link header announces, told by its version.
#[inline(always)]
pub(super) fn of_ip<F: Frame>(frame: &F, offset: usize) -> Result<u16, Skip> {
    // Reads two bytes, for the verifier: it does not see that a single one at an unknown offset lies before the end.
    let first: u16 = frame.read(offset).ok_or(Skip::TruncatedLink)?;
    match u16::from_be(first) >> 12 {
        4 => Ok(IPV4),
        6 => Ok(IPV6),
        _ => Err(Skip::NotIp),
    }
}

/// The EtherType that stands for a PPP protocol number; `None` if the parser does not read that protocol.
#[inline(always)]
pub(super) const fn of_ppp(protocol: u16) -> Option<u16> {
    match protocol {
        PPP_IPV4 => Some(IPV4),
        PPP_IPV6 => Some(IPV6),
        PPP_MPLS => Some(MPLS),
        _ => None,
    }
}
