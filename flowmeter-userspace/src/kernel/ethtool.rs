//! What a card does to packets before a program sees them, and who else is attached.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Requests and flags (linux/sockios.h, linux/ethtool.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
const RX_VLAN: u32 = 1 << 8;
const LRO: u32 = 1 << 15;

/// What a card does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// It takes VLAN tags off.
    pub strips_vlan: bool,
    /// It merges packets as they come in.
    pub lro: bool,
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// What the card of this interface does; None if it does not say.
pub fn offloads(interface: &str) -> Option<Offloads> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    let mut value = EthtoolValue { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and the value that it points to live until the call returns, and have the kernel's layout.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    (result == 0).then_some(Offloads { strips_vlan: value.data & RX_VLAN != 0, lro: value.data & LRO != 0 })
}

/// Programs that are attached to an interface by TCX where flowmeter would attach.
///
/// # Errors
/// The kernel has no TCX, or does not say.
pub fn others_on(interface: &str, egress: bool) -> Result<u64> {
    let ways = [(TcAttachType::Ingress, true), (TcAttachType::Egress, egress)];
    ways.into_iter().filter(|(_, wanted)| *wanted).try_fold(0, |sum, (way, _)| {
        let (_, programs) = SchedClassifier::query_tcx(interface, way).context("no TCX")?;
        Ok(sum + programs.len() as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_no_card_and_what_is_not_there_says_nothing() {
        assert_eq!(offloads("lo").map(|offloads| offloads.lro), Some(false));
        assert_eq!(offloads("no-such0"), None);
        assert_eq!(offloads("a-name-that-is-too-long-for-the-kernel"), None);
    }
}
