//! Ethernet II headers with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use super::Network;
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
    tags(frame, Network { ethertype, offset: at + 2, outer_vlan: 0, inner_vlan: 0 })
}

/// Follows up to two VLAN tags after an EtherType that has been read.
#[inline(always)]
pub(super) fn tags<F: Frame>(frame: &F, mut found: Network) -> Result<Network, Skip> {
    if is_tag(found.ethertype) {
        found.outer_vlan = tag(frame, &mut found)?;
        if is_tag(found.ethertype) {
            found.inner_vlan = tag(frame, &mut found)?;
            if is_tag(found.ethertype) {
                return Err(Skip::TooManyTags);
            }
        }
    }
    Ok(found)
}

#[inline(always)]
fn tag<F: Frame>(frame: &F, found: &mut Network) -> Result<u16, Skip> {
    let [control, next] = frame.read::<[u16; 2]>(found.offset).ok_or(Skip::TruncatedLink)?;
    found.ethertype = u16::from_be(next);
    found.offset += TAG;
    Ok(VLAN_PRESENT | u16::from_be(control) & VLAN_ID_MASK)
}
