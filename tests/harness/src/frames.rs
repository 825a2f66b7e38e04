//! Builds frames, header by header, with right lengths and checksums: what tests feed to parsers and interfaces.
//!
//! ```
//! use harness::frames::{Packet, Transport, tcp};
//! let syn = Packet::ipv4("10.0.0.1", "10.0.0.2").tag(7).with(Transport::tcp(40000, 80).flags(tcp::SYN)).build();
//! assert_eq!(syn.len(), 14 + 4 + 20 + 20);
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP flags, RFC 9293.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends it at once.
    pub const RST: u8 = 0x04;
    /// Deliver at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Congestion echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// IANA protocol numbers that builders write.
pub mod protocol {
    /// Hop-by-hop options of IPv6.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// Routing header of IPv6.
    pub const ROUTING: u8 = 43;
    /// Fragment header of IPv6.
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// Destination options of IPv6.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an IEEE 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad service tag.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// An IPv6 extension header; its content is padded to a multiple of eight octets.
#[derive(Clone, Debug)]
pub enum Extension {
    /// Hop-by-hop options: the options' bytes.
    HopByHop(Vec<u8>),
    /// Destination options: the options' bytes.
    Destination(Vec<u8>),
    /// Routing header: everything after its length field.
    Routing(Vec<u8>),
    /// Any other of the usual form, by number: everything after its length field.
    Other(u8, Vec<u8>),
}

/// What part of a datagram a packet carries.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Distance from the datagram's start, in units of eight octets.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// The same in all fragments of a datagram.
    pub identification: u32,
}

/// A transport header and what it carries.
#[derive(Clone, Debug)]
pub struct Transport {
    kind: Kind,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Kind {
    Tcp { ports: (u16, u16), sequence: u32, acknowledgement: u32, flags: u8, window: u16, options: Vec<u8> },
    Udp { ports: (u16, u16) },
    Sctp { ports: (u16, u16), tag: u32 },
    Echo { reply: bool, identifier: u16, sequence: u16 },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    Raw { protocol: u8 },
}

impl Transport {
    fn new(kind: Kind) -> Self {
        Self { kind, payload: Vec::new() }
    }

    /// A TCP segment; an acknowledgement unless told otherwise.
    pub fn tcp(source: u16, destination: u16) -> Self {
        Self::new(Kind::Tcp {
            ports: (source, destination),
            sequence: 1,
            acknowledgement: 0,
            flags: tcp::ACK,
            window: 64240,
            options: Vec::new(),
        })
    }

    /// A UDP datagram.
    pub fn udp(source: u16, destination: u16) -> Self {
        Self::new(Kind::Udp { ports: (source, destination) })
    }

    /// An SCTP common header; chunks are its payload.
    pub fn sctp(source: u16, destination: u16, tag: u32) -> Self {
        Self::new(Kind::Sctp { ports: (source, destination), tag })
    }

    /// An echo request, of ICMP or ICMPv6 as the packet needs.
    pub fn echo_request(identifier: u16, sequence: u16) -> Self {
        Self::new(Kind::Echo { reply: false, identifier, sequence })
    }

    /// An echo reply, likewise.
    pub fn echo_reply(identifier: u16, sequence: u16) -> Self {
        Self::new(Kind::Echo { reply: true, identifier, sequence })
    }

    /// Any ICMP or ICMPv6 message: type, code, and the four octets after the checksum.
    pub fn icmp(kind: u8, code: u8, rest: [u8; 4]) -> Self {
        Self::new(Kind::Icmp { kind, code, rest })
    }

    /// Bytes under a protocol number, with no header of ours: later fragments, unknown protocols.
    pub fn raw(protocol: u8, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind: Kind::Raw { protocol }, payload: bytes.into() }
    }

    /// What the header carries.
    pub fn payload(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload = bytes.into();
        self
    }

    /// TCP's flags; nothing for other protocols.
    pub fn flags(mut self, value: u8) -> Self {
        if let Kind::Tcp { flags, .. } = &mut self.kind {
            *flags = value;
        }
        self
    }

    /// TCP's sequence and acknowledgement numbers; nothing for other protocols.
    pub fn numbers(mut self, sequence_number: u32, acknowledgement_number: u32) -> Self {
        if let Kind::Tcp { sequence, acknowledgement, .. } = &mut self.kind {
            (*sequence, *acknowledgement) = (sequence_number, acknowledgement_number);
        }
        self
    }

    /// TCP's window; nothing for other protocols.
    pub fn window(mut self, value: u16) -> Self {
        if let Kind::Tcp { window, .. } = &mut self.kind {
            *window = value;
        }
        self
    }

    /// TCP's options, padded to a multiple of four octets; nothing for other protocols.
    pub fn options(mut self, bytes: &[u8]) -> Self {
        if let Kind::Tcp { options, .. } = &mut self.kind {
            *options = padded(bytes, 4);
        }
        self
    }

    fn protocol(&self, six: bool) -> u8 {
        match self.kind {
            Kind::Tcp { .. } => protocol::TCP,
            Kind::Udp { .. } => protocol::UDP,
            Kind::Sctp { .. } => protocol::SCTP,
            Kind::Echo { .. } | Kind::Icmp { .. } if six => protocol::ICMPV6,
            Kind::Echo { .. } | Kind::Icmp { .. } => protocol::ICMP,
            Kind::Raw { protocol } => protocol,
        }
    }

    /// Header and payload, with the checksum over them and the addresses.
    fn bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let six = source.is_ipv6();
        let mut out = Vec::new();
        let checksum_at = match &self.kind {
            Kind::Tcp { ports, sequence, acknowledgement, flags, window, options } => {
                put_ports(&mut out, *ports);
                out.extend(sequence.to_be_bytes());
                out.extend(acknowledgement.to_be_bytes());
                out.push((((20 + options.len()) / 4) << 4) as u8);
                out.push(*flags);
                out.extend(window.to_be_bytes());
                out.extend([0; 4]);
                out.extend(options);
                Some(16)
            }
            Kind::Udp { ports } => {
                put_ports(&mut out, *ports);
                out.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                out.extend([0; 2]);
                Some(6)
            }
            Kind::Sctp { ports, tag } => {
                put_ports(&mut out, *ports);
                out.extend(tag.to_be_bytes());
                // SCTP's CRC32c is read by nobody here; zero is what offloading network cards show as well.
                out.extend([0; 4]);
                None
            }
            Kind::Echo { reply, identifier, sequence } => {
                out.push(match (six, reply) {
                    (false, false) => 8,
                    (false, true) => 0,
                    (true, false) => 128,
                    (true, true) => 129,
                });
                out.extend([0; 3]);
                out.extend(identifier.to_be_bytes());
                out.extend(sequence.to_be_bytes());
                Some(2)
            }
            Kind::Icmp { kind, code, rest } => {
                out.extend([*kind, *code, 0, 0]);
                out.extend(rest);
                Some(2)
            }
            Kind::Raw { .. } => None,
        };
        out.extend(&self.payload);
        if let Some(at) = checksum_at {
            let number = self.protocol(six);
            let pseudo = if number == protocol::ICMP {
                Vec::new()
            } else {
                pseudo_header(source, destination, number, out.len())
            };
            let sum = match checksum(&[&pseudo, &out]) {
                // UDP says "no checksum" by zero (RFC 768).
                0 if number == protocol::UDP => 0xffff,
                sum => sum,
            };
            out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }
}

/// A frame in the making: Ethernet, tags, IP, transport.
#[derive(Clone, Debug)]
pub struct Packet {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    tags: Vec<(u16, u16)>,
    source: IpAddr,
    destination: IpAddr,
    hops: u8,
    options: Vec<u8>,
    extensions: Vec<Extension>,
    fragment: Option<Fragment>,
    dont_fragment: bool,
    transport: Transport,
    padding: usize,
}

impl Packet {
    fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            source,
            destination,
            hops: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            dont_fragment: false,
            transport: Transport::raw(protocol::NO_NEXT, []),
            padding: 0,
        }
    }

    /// An IPv4 packet between two addresses.
    ///
    /// # Panics
    /// If one is not an IPv4 address: the caller is a test, and wrote it.
    pub fn ipv4(source: &str, destination: &str) -> Self {
        let parse = |text: &str| -> Ipv4Addr {
            text.parse().unwrap_or_else(|_| panic!("`{text}` is no IPv4 address"))
        };
        Self::new(parse(source).into(), parse(destination).into())
    }

    /// An IPv6 packet between two addresses.
    ///
    /// # Panics
    /// If one is not an IPv6 address.
    pub fn ipv6(source: &str, destination: &str) -> Self {
        let parse = |text: &str| -> Ipv6Addr {
            text.parse().unwrap_or_else(|_| panic!("`{text}` is no IPv6 address"))
        };
        Self::new(parse(source).into(), parse(destination).into())
    }

    /// A packet between two addresses of either version.
    ///
    /// # Panics
    /// If the versions differ.
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        assert_eq!(source.is_ipv6(), destination.is_ipv6(), "both addresses are of one IP version");
        Self::new(source, destination)
    }

    /// The link's addresses: source, destination.
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// Adds an 802.1Q tag with a VLAN identifier, inside of those there are.
    pub fn tag(self, vlan: u16) -> Self {
        self.tag_of(ETHERTYPE_VLAN, vlan)
    }

    /// Adds an 802.1ad service tag (QinQ's outer one), inside of those there are.
    pub fn service_tag(self, vlan: u16) -> Self {
        self.tag_of(ETHERTYPE_SERVICE_VLAN, vlan)
    }

    fn tag_of(mut self, ethertype: u16, vlan: u16) -> Self {
        self.tags.push((ethertype, vlan));
        self
    }

    /// Time to live, or hop limit.
    pub fn hops(mut self, value: u8) -> Self {
        self.hops = value;
        self
    }

    /// IPv4 options, padded to a multiple of four octets.
    pub fn ip_options(mut self, bytes: &[u8]) -> Self {
        self.options = padded(bytes, 4);
        self
    }

    /// Adds an IPv6 extension header.
    pub fn extension(mut self, header: Extension) -> Self {
        self.extensions.push(header);
        self
    }

    /// Marks the packet as a fragment. With an offset, [`Transport::raw`] is what it should carry.
    pub fn fragment(mut self, fragment: Fragment) -> Self {
        self.fragment = Some(fragment);
        self
    }

    /// Sets IPv4's bit that forbids fragments.
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// What the IP packet carries.
    pub fn with(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Adds zeros after the IP packet, as short frames have them on a cable.
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.destination_mac);
        out.extend(self.source_mac);
        for (ethertype, vlan) in &self.tags {
            out.extend(ethertype.to_be_bytes());
            out.extend(vlan.to_be_bytes());
        }
        let ethertype = if self.source.is_ipv6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        out.extend(ethertype.to_be_bytes());
        out.extend(self.build_ip());
        out.resize(out.len() + self.padding, 0);
        out
    }

    /// The IP packet alone, for links without Ethernet and for tunnels.
    pub fn build_ip(&self) -> Vec<u8> {
        let body = self.transport.bytes(self.source, self.destination);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ipv4_bytes(source, destination, &body),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.ipv6_bytes(source, destination, &body),
            _ => unreachable!("constructors take two addresses of one version"),
        }
    }

    fn ipv4_bytes(&self, source: Ipv4Addr, destination: Ipv4Addr, body: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut out = vec![0x40 | (header / 4) as u8, 0];
        out.extend(((header + body.len()) as u16).to_be_bytes());
        let (identification, place) = match self.fragment {
            Some(f) => (f.identification as u16, f.offset | if f.more { 0x2000 } else { 0 }),
            None => (0, if self.dont_fragment { 0x4000 } else { 0 }),
        };
        out.extend(identification.to_be_bytes());
        out.extend(place.to_be_bytes());
        out.extend([self.hops, self.transport.protocol(false), 0, 0]);
        out.extend(source.octets());
        out.extend(destination.octets());
        out.extend(&self.options);
        let sum = checksum(&[&out]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(body);
        out
    }

    fn ipv6_bytes(&self, source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
        // Each header as (its number, its bytes with a hole for the next one's number).
        let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
        for extension in &self.extensions {
            let (number, content) = match extension {
                Extension::HopByHop(bytes) => (protocol::HOP_BY_HOP, bytes),
                Extension::Destination(bytes) => (protocol::DESTINATION, bytes),
                Extension::Routing(bytes) => (protocol::ROUTING, bytes),
                Extension::Other(number, bytes) => (*number, bytes),
            };
            let bytes = padded(&[&[0, 0], content.as_slice()].concat(), 8);
            let units = (bytes.len() / 8 - 1) as u8;
            chain.push((number, [&[0, units], &bytes[2..]].concat()));
        }
        if let Some(f) = self.fragment {
            let place = (f.offset << 3) | u16::from(f.more);
            chain.push((
                protocol::FRAGMENT,
                [&[0, 0], &place.to_be_bytes()[..], &f.identification.to_be_bytes()].concat(),
            ));
        }
        let mut next = self.transport.protocol(true);
        for (number, bytes) in chain.iter_mut().rev() {
            bytes[0] = next;
            next = *number;
        }
        let headers: Vec<u8> = chain.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let mut out = vec![0x60, 0, 0, 0];
        out.extend(((headers.len() + body.len()) as u16).to_be_bytes());
        out.extend([next, self.hops]);
        out.extend(source.octets());
        out.extend(destination.octets());
        out.extend(headers);
        out.extend(body);
        out
    }
}

fn put_ports(out: &mut Vec<u8>, (source, destination): (u16, u16)) {
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
}

/// Zeros added up to a multiple of `unit`.
fn padded(bytes: &[u8], unit: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(bytes.len().next_multiple_of(unit), 0);
    out
}

/// What TCP, UDP and ICMPv6 sum up besides themselves (RFC 9293, RFC 8200).
fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(four) => out.extend(four.octets()),
            IpAddr::V6(six) => out.extend(six.octets()),
        }
    }
    out.extend((length as u32).to_be_bytes());
    out.extend([0, 0, 0, protocol]);
    out
}

/// The Internet checksum (RFC 1071) over parts, of which all but the last have even lengths.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_header_has_the_checksum_of_rfc_1071() {
        // A sum over a header that holds its own right checksum is zero.
        let packet = Packet::ipv4("192.0.2.1", "198.51.100.7")
            .ip_options(&[7, 7, 4, 0, 0, 0, 0, 0])
            .with(Transport::udp(53, 40000));
        let bytes = packet.build_ip();
        assert_eq!(bytes[0], 0x47, "two words of options");
        assert_eq!(checksum(&[&bytes[..28]]), 0);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len());
    }

    #[test]
    fn transport_checksums_hold() {
        for six in [false, true] {
            let packet = if six {
                Packet::ipv6("2001:db8::1", "2001:db8::2")
            } else {
                Packet::ipv4("10.0.0.1", "10.0.0.2")
            };
            let at = if six { 40 } else { 20 };
            for (transport, number) in [
                (Transport::tcp(1, 2).flags(tcp::SYN).options(&[2, 4, 5, 180]), 6),
                (Transport::udp(1, 2).payload(*b"odd"), 17),
                (Transport::echo_request(3, 4).payload(*b"ping"), if six { 58 } else { 1 }),
            ] {
                let bytes = packet.clone().with(transport).build_ip();
                let pseudo = pseudo_header(packet.source, packet.destination, number, bytes.len() - at);
                let parts: &[&[u8]] = if number == 1 { &[&bytes[at..]] } else { &[&pseudo, &bytes[at..]] };
                assert_eq!(checksum(parts), 0, "protocol {number} over IPv{}", if six { 6 } else { 4 });
            }
        }
    }

    #[test]
    fn extension_headers_are_chained() {
        let bytes = Packet::ipv6("2001:db8::1", "2001:db8::2")
            .extension(Extension::HopByHop(vec![5, 2, 0, 0]))
            .extension(Extension::Destination(vec![1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
            .fragment(Fragment { offset: 0, more: true, identification: 9 })
            .with(Transport::udp(1, 2))
            .build_ip();
        assert_eq!(bytes[6], protocol::HOP_BY_HOP);
        assert_eq!((bytes[40], bytes[41]), (protocol::DESTINATION, 0));
        assert_eq!((bytes[48], bytes[49]), (protocol::FRAGMENT, 1));
        assert_eq!((bytes[64], bytes[67]), (protocol::UDP, 1));
        assert_eq!(bytes.len(), 40 + 8 + 16 + 8 + 8);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[4], bytes[5]])), bytes.len() - 40);
    }

    #[test]
    fn tags_stand_before_the_ethertype() {
        let bytes = Packet::ipv4("10.0.0.1", "10.0.0.2").service_tag(100).tag(7).build();
        assert_eq!(bytes[12..22], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 7, 0x08, 0]);
    }
}
