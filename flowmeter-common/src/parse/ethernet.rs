//! Ethernet II headers with what may stand between them and IP: up to two VLAN tags (IEEE 802.1Q, 802.1ad), PPPoE
//! (RFC 2516), MPLS labels (RFC 3032).

use super::ethertype::{self, Network};
use crate::counter::Skip;
use crate::frame::Frame;
use crate::key::VLAN_PRESENT;

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
    if ethertype::is_tag(found.ethertype) {
        found.outer_vlan = tag(frame, &mut found)?;
        if ethertype::is_tag(found.ethertype) {
            found.inner_vlan = tag(frame, &mut found)?;
            if ethertype::is_tag(found.ethertype) {
                return Err(Skip::TooManyTags);
            }
        }
    }
    match found.ethertype {
        ethertype::PPPOE_SESSION => {
            let protocol = frame.read(found.offset + PPPOE_HEADER).ok_or(Skip::TruncatedLink)?;
            found.ethertype = ethertype::of_ppp(u16::from_be(protocol)).ok_or(Skip::NotIp)?;
            found.offset += PPPOE_HEADER + size_of::<u16>();
        }
        ethertype::MPLS | ethertype::MPLS_MULTICAST => labels(frame, &mut found)?,
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
    found.ethertype = ethertype::of_ip(frame, found.offset)?;
    Ok(())
}

#[inline(always)]
fn tag<F: Frame>(frame: &F, found: &mut Network) -> Result<u16, Skip> {
    let [control, next] = frame.read::<[u16; 2]>(found.offset).ok_or(Skip::TruncatedLink)?;
    found.ethertype = u16::from_be(next);
    found.offset += TAG;
    Ok(VLAN_PRESENT | u16::from_be(control) & VLAN_ID_MASK)
}
