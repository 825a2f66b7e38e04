//! Which flow a packet belongs to: the canonical key, and the packet's direction.

/// What kind of packets a key stands for.
pub mod kind {
    /// Packets with their own transport header.
    pub const WHOLE: u8 = 0;
    /// ICMP messages that are asked and answered: one port is the request's type, the other the identifier.
    pub const QUERY: u8 = 2;
    /// Fragments after the first (RFC 791, RFC 8200): no ports, counted to their address pair and protocol.
    pub const FRAGMENT: u8 = 1;
    /// All flows to one service that found no slot, see [`crate::aggregate`]: the client's address and port are zero.
    pub const AGGREGATE: u8 = 3;
}

/// What kind of tunnel a flow was found in.
pub mod tunnel {
    /// None, or tunnels are not looked into.
    pub const NONE: u8 = 0;
    /// IPv4 or IPv6 directly in IP (RFC 2003, RFC 2473, RFC 4213).
    pub const IP_IN_IP: u8 = 1;
    /// Generic routing encapsulation (RFC 2784, RFC 2890).
    pub const GRE: u8 = 2;
    /// VXLAN (RFC 7348).
    pub const VXLAN: u8 = 3;
    /// Geneve (RFC 8926).
    pub const GENEVE: u8 = 4;

    /// Name as it stands in the log; `None` for [`NONE`].
    pub const fn name(kind: u8) -> Option<&'static str> {
        match kind {
            IP_IN_IP => Some("ipip"),
            GRE => Some("gre"),
            VXLAN => Some("vxlan"),
            GENEVE => Some("geneve"),
            _ => None,
        }
    }
}

/// Canonical key of a bidirectional flow; both directions of a conversation have the same one.
///
/// The endpoint with the smaller (address, port), compared as memory words, is `a`. That order means nothing
/// beyond being the same for both directions; who opened the flow is kept beside it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    /// Address of endpoint a, as 16 bytes in network order held in two words; IPv4 as `::ffff:a.b.c.d` (RFC 4291).
    pub a_address: [u64; 2],
    /// Address of endpoint b.
    pub b_address: [u64; 2],
    /// Port of endpoint a. ICMP: see [`crate::parse`].
    pub a_port: u16,
    /// Port of endpoint b.
    pub b_port: u16,
    /// Outer VLAN identifier with bit 15 set when there is a tag, so that a priority tag (VLAN 0) is not "none".
    pub outer_vlan: u16,
    /// Inner VLAN identifier, likewise.
    pub inner_vlan: u16,
    /// Identifier of the tunnel that the flow was found in (GRE's key, VXLAN's and Geneve's network identifier), 0 if
    /// the tunnel has none.
    pub tunnel_id: u32,
    /// Interface index that the packet was seen on; 0 in captures.
    pub interface: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// One of [`tunnel`].
    pub tunnel: u8,
    /// Always zero: the key is compared and hashed as whole words.
    pub reserved: [u8; 4],
}

/// Words of 64 bits in a key.
pub const KEY_WORDS: usize = size_of::<FlowKey>() / 8;
const _: () = assert!(size_of::<FlowKey>() == 56, "FlowKey has no padding and fills seven words");

/// Marks a VLAN identifier as present.
pub const VLAN_PRESENT: u16 = 0x8000;

impl FlowKey {
    /// The key as words.
    #[inline(always)]
    pub fn words(&self) -> &[u64; KEY_WORDS] {
        // SAFETY: FlowKey is repr(C), 8-aligned, without padding, and exactly KEY_WORDS words long (asserted above).
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// Compares whole words without leaving early: a tag of 62 hash bits has matched already.
    #[inline(always)]
    pub fn same(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        (a[0] ^ b[0])
            | (a[1] ^ b[1])
            | (a[2] ^ b[2])
            | (a[3] ^ b[3])
            | (a[4] ^ b[4])
            | (a[5] ^ b[5])
            | (a[6] ^ b[6])
            == 0
    }

    /// The key as words, put together from its fields: of a key that is in registers, and was never in memory.
    #[inline(always)]
    pub fn to_words(&self) -> [u64; KEY_WORDS] {
        let halves = |a: u16, b: u16, c: u16, d: u16| {
            u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
        };
        let bytes = |a: u8, b: u8, c: u8, d: u8| {
            u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16 | u64::from(d) << 24
        };
        // As a little-endian processor has them in memory; the programs are compiled for no other.
        [
            self.a_address[0],
            self.a_address[1],
            self.b_address[0],
            self.b_address[1],
            halves(self.a_port, self.b_port, self.outer_vlan, self.inner_vlan),
            u64::from(self.tunnel_id) | u64::from(self.interface) << 32,
            bytes(self.protocol, self.kind, self.ip_version, self.tunnel),
        ]
    }

    /// Orders the endpoints and returns the direction of a packet that goes from the first to the second given:
    /// 0 if `a` is the sender, 1 if `b` is.
    #[inline(always)]
    pub fn set_endpoints(&mut self, from: [u64; 2], from_port: u16, to: [u64; 2], to_port: u16) -> u8 {
        let swap = if from[1] != to[1] {
            from[1] > to[1]
        } else if from[0] != to[0] {
            from[0] > to[0]
        } else {
            from_port > to_port
        };
        if swap {
            self.a_address = to;
            self.a_port = to_port;
            self.b_address = from;
            self.b_port = from_port;
        } else {
            self.a_address = from;
            self.a_port = from_port;
            self.b_address = to;
            self.b_port = to_port;
        }
        swap as u8
    }
}

/// An IPv4 address, given as it stands in memory, as the words of its IPv4-mapped IPv6 address.
#[inline(always)]
pub fn mapped_ipv4(address: u32) -> [u64; 2] {
    [0, (0x0000_ffff_0000_0000 | u64::from(u32::from_be(address))).to_be()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_have_one_key() {
        let (mut x, mut y) = (FlowKey::default(), FlowKey::default());
        let (client, server) =
            (mapped_ipv4(u32::from_ne_bytes([10, 0, 0, 1])), mapped_ipv4(u32::from_ne_bytes([10, 0, 0, 2])));
        let there = x.set_endpoints(client, 40000, server, 443);
        let back = y.set_endpoints(server, 443, client, 40000);
        assert_eq!(x, y);
        assert_ne!(there, back);
    }

    #[test]
    fn mapped_ipv4_is_rfc_4291() {
        let words = mapped_ipv4(u32::from_ne_bytes([192, 0, 2, 1]));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
        bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
        assert_eq!(std::net::Ipv6Addr::from(bytes), std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
    }
}
