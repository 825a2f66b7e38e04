//! Ethernet II headers with what may stand between them and IP: up to two VLAN tags (IEEE 802.1Q, 802.1ad), PPPoE
//! (RFC 2516), MPLS labels (RFC 3032).

use super::{Network, link};
use crate::counter::Skip;
use crate::frame::Frame;
use crate::key::VLAN_PRESENT;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// What switches used for the outer tag before 802.1ad.
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;
const ETHERTYPE_PPPOE_SESSION: u16 = 0x8864;
/// MPLS with a downstream-assigned label, which is the usual one.
pub(super) const ETHERTYPE_MPLS: u16 = 0x8847;
/// MPLS with an upstream-assigned label, or multicast (RFC 5332).
const ETHERTYPE_MPLS_MULTICAST: u16 = 0x8848;

/// Version, type, code, session and length, before PPP's protocol number.
const PPPOE_HEADER: usize = 6;
const MPLS_LABEL: usize = 4;
const MPLS_BOTTOM_OF_STACK: u32 = 0x100;
/// Labels followed. Networks use up to four or five (transport, service, entropy, flow).
const MAX_LABELS: usize = 8;

/// Destination and source address, before the EtherType.
const ADDRESSES: usize = 12;
const TAG: usize = 4;
const VLAN_ID_MASK: u16 = 0x0fff;

#[inline(always)]
pub(super) const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD)
}

/// Reads the header that begins at `offset`.
#[inline(always)]
pub(super) fn read<F: Frame>(frame: &F, offset: usize) -> Result<Network, Skip> {
    let at = offset + ADDRESSES;
    let ethertype = u16::from_be(frame.read::<u16>(at).ok_or(Skip::TruncatedLink)?);
    payload(frame, Network { ethertype, offset: at + 2, outer_vlan: 0, inner_vlan: 0 })
}

/// Follows whatever stands between an EtherType that has been read and the network header.
#[inline(always)]
pub(super) fn payload<F: Frame>(frame: &F, mut found: Network) -> Result<Network, Skip> {
    if is_tag(found.ethertype) {
        found.outer_vlan = tag(frame, &mut found)?;
        if is_tag(found.ethertype) {
            found.inner_vlan = tag(frame, &mut found)?;
            if is_tag(found.ethertype) {
                return Err(Skip::TooManyTags);
            }
        }
    }
    match found.ethertype {
        ETHERTYPE_PPPOE_SESSION => {
            let protocol = frame.read(found.offset + PPPOE_HEADER).ok_or(Skip::TruncatedLink)?;
            found.ethertype = link::ppp_ethertype(u16::from_be(protocol)).ok_or(Skip::NotIp)?;
            found.offset += PPPOE_HEADER + size_of::<u16>();
        }
        ETHERTYPE_MPLS | ETHERTYPE_MPLS_MULTICAST => labels(frame, &mut found)?,
        _ => {}
    }
    Ok(found)
}

/// Skips an MPLS label stack. What follows it has no type of its own; IP is told by its version (RFC 4928).
#[inline(always)]
fn labels<F: Frame>(frame: &F, found: &mut Network) -> Result<(), Skip> {
    let mut followed = 0;
    loop {
        let label: u32 = frame.read(found.offset).ok_or(Skip::TruncatedLink)?;
        found.offset = frame.forget(found.offset + MPLS_LABEL);
        if u32::from_be(label) & MPLS_BOTTOM_OF_STACK != 0 {
            break;
        }
        followed += 1;
        if followed == MAX_LABELS {
            return Err(Skip::TooManyLabels);
        }
    }
    found.ethertype = ip_ethertype(frame, found.offset)?;
    Ok(())
}

/// The EtherType of an IP header that nothing announces, by its version.
#[inline(always)]
pub(super) fn ip_ethertype<F: Frame>(frame: &F, offset: usize) -> Result<u16, Skip> {
    // Two bytes: of a single one at an unknown offset the kernel's verifier does not see that it lies before the end.
    let first: u16 = frame.read(offset).ok_or(Skip::TruncatedLink)?;
    match u16::from_be(first) >> 12 {
        4 => Ok(ETHERTYPE_IPV4),
        6 => Ok(ETHERTYPE_IPV6),
        _ => Err(Skip::NotIp),
    }
}

#[inline(always)]
fn tag<F: Frame>(frame: &F, found: &mut Network) -> Result<u16, Skip> {
    let [control, next] = frame.read::<[u16; 2]>(found.offset).ok_or(Skip::TruncatedLink)?;
    found.ethertype = u16::from_be(next);
    found.offset += TAG;
    Ok(VLAN_PRESENT | u16::from_be(control) & VLAN_ID_MASK)
}
