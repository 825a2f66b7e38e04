//! Network devices as they are now, asked of the kernel by rtnetlink (rtnetlink(7)).
//!
//! One request and a handful of attributes are read: of a crate for all of rtnetlink hardly anything would be used.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// Messages and attributes (linux/netlink.h, linux/rtnetlink.h, linux/if_link.h).
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const REQUEST: u16 = 1;
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const IF_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const STATS_64: u16 = 23;
const XDP: u16 = 43;
const XDP_ATTACHED: u16 = 2;
/// Flags of a device: up, and with carrier (linux/if.h).
const UP: u32 = 1 | 1 << 16;
/// `tx_packets` in `rtnl_link_stats64`.
const SENT: usize = 8;

/// A device as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number for it.
    pub index: u32,
    /// What its frames are (ARPHRD_*, linux/if_arp.h).
    pub link_type: u16,
    /// Its name.
    pub name: String,
    /// Whether it is up and has carrier.
    pub running: bool,
    /// Whether an XDP program is attached.
    pub xdp: bool,
    /// Whether it is one end of a virtual cable.
    pub veth: bool,
    /// Packets that it has sent.
    pub sent: u64,
}

/// Asks about the devices of the network namespace in which it was opened.
pub struct Devices {
    socket: OwnedFd,
    sequence: AtomicU32,
}

impl Devices {
    /// Opens a socket to the kernel.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn open() -> Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .context("cannot ask the kernel about interfaces")?;
        Ok(Self { socket, sequence: AtomicU32::new(0) })
    }

    /// The device with this number; None if there is none.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn by_index(&self, index: u32) -> Result<Option<Device>> {
        self.ask(index, &[])
    }

    /// The device of this name; None if there is none.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn by_name(&self, name: &str) -> Result<Option<Device>> {
        let mut attribute = Vec::new();
        attribute.extend((name.len() as u16 + 5).to_ne_bytes());
        attribute.extend(IF_NAME.to_ne_bytes());
        attribute.extend(name.as_bytes());
        attribute.push(0);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        self.ask(0, &attribute)
    }

    fn ask(&self, index: u32, attributes: &[u8]) -> Result<Option<Device>> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let length = HEADER + LINK_HEADER + attributes.len();
        let mut request = Vec::with_capacity(length);
        request.extend((length as u32).to_ne_bytes());
        request.extend(GET_LINK.to_ne_bytes());
        request.extend(REQUEST.to_ne_bytes());
        request.extend(sequence.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(index.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(attributes);
        send(&self.socket, &request, SendFlags::empty())
            .context("cannot ask the kernel about an interface")?;
        let mut answer = vec![0; 1 << 16];
        loop {
            let (length, _) = recv(&self.socket, &mut *answer, RecvFlags::empty())
                .context("the kernel does not say how an interface is")?;
            let message = answer.get(..length).unwrap_or_default();
            ensure!(message.len() >= HEADER + 4, "the kernel's answer about an interface is cut short");
            if u32_at(message, 8) != Some(sequence) {
                continue;
            }
            return match u16_at(message, 4) {
                Some(NEW_LINK) => Ok(device(message.get(HEADER..).unwrap_or_default())),
                Some(ERROR)
                    if u32_at(message, HEADER) == Some(Errno::NODEV.raw_os_error().wrapping_neg() as u32) =>
                {
                    Ok(None)
                }
                _ => bail!("the kernel does not say how an interface is"),
            };
        }
    }
}

/// A device from its link message, whose header stands before the attributes.
fn device(message: &[u8]) -> Option<Device> {
    let flags = u32_at(message, 8)?;
    let mut device = Device {
        index: u32_at(message, 4)?,
        link_type: u16_at(message, 2)?,
        running: flags & UP == UP,
        ..Device::default()
    };
    for (kind, value) in attributes(message.get(LINK_HEADER..)?) {
        match kind {
            IF_NAME => device.name = text(value),
            STATS_64 => device.sent = u64_at(value, SENT).unwrap_or(0),
            LINK_INFO => {
                device.veth =
                    attributes(value).any(|(kind, value)| kind == INFO_KIND && text(value) == "veth");
            }
            XDP => {
                device.xdp = attributes(value)
                    .any(|(kind, value)| kind == XDP_ATTACHED && value.first().is_some_and(|how| *how != 0));
            }
            _ => {}
        }
    }
    Some(device)
}

/// Attributes, each with its kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        // The highest bits say that attributes are inside, and in what byte order.
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_by_number_and_name() {
        let devices = Devices::open().expect("a socket");
        let by_index = devices.by_index(1).expect("an answer").expect("a loopback interface");
        assert_eq!((by_index.name.as_str(), by_index.veth, by_index.xdp), ("lo", false, false));
        let by_name = devices.by_name("lo").expect("an answer").expect("a loopback interface");
        assert_eq!(by_name.index, 1);
        assert_eq!(devices.by_name("no-such0").expect("an answer"), None);
        assert_eq!(devices.by_index(0x7fff_fff0).expect("an answer"), None);
    }
}
