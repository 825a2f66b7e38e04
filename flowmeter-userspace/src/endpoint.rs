//! The ends of a flow: addresses and ports, and how they are written.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use flowmeter_common::key::FlowKey;

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address; IPv4 where the packets were.
    pub address: IpAddr,
    /// Port, or ICMP's stand-in for it.
    pub port: u16,
}

/// True for a group of hosts: multicast (RFC 1112, RFC 4291) or broadcast. An IPv4 address that ends in 255 is taken for
/// broadcast, since the network's prefix is not known.
pub fn to_group(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(address) => address.is_multicast() || address.octets()[3] == 255,
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// One end of the flow with this key: `a` (0) or `b` (1).
pub fn endpoint(key: &FlowKey, which: u8) -> Endpoint {
    let (words, port) =
        if which & 1 == 0 { (key.a_address, key.a_port) } else { (key.b_address, key.b_port) };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    let address = Ipv6Addr::from(bytes);
    let address = match address.to_ipv4_mapped() {
        Some(v4) if key.ip_version == 4 => IpAddr::V4(v4),
        _ => IpAddr::V6(address),
    };
    Endpoint { address, port }
}

/// Appends an address. Most are IPv4, so these are written without the formatting machinery.
pub fn write_address(text: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (i, octet) in address.octets().into_iter().enumerate() {
                if i != 0 {
                    text.push(b'.');
                }
                text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(address) => drop(write!(text, "{address}")),
    }
}
