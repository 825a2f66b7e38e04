//! What the parser says of one packet.

use crate::key::FlowKey;

/// TCP flag bits as they stand in octet 13 of the TCP header (RFC 9293 section 3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// IANA protocol numbers that the parser looks into.
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: u8 = 4;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// Generic routing encapsulation (RFC 2784).
    pub const GRE: u8 = 47;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}

/// One packet, reduced to what flows are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The flow it belongs to.
    pub key: FlowKey,
    /// 0 if it goes from the key's endpoint `a` to `b`, 1 if from `b` to `a`.
    pub direction: u8,
    /// TCP flags, 0 for other protocols.
    pub flags: u8,
    /// Length of the transport header in bytes: TCP data offset x 4, UDP 8, SCTP 12, ICMP 8, otherwise 0.
    pub header: u16,
    /// TCP window as sent, not scaled. ICMP has none: the field holds the message's type (high byte) and code (low byte).
    /// 0 for other protocols.
    pub window: u16,
    /// How many packets this will be on the wire: 1, or more for a segmentation super-packet seen on egress.
    pub segments: u16,
    /// Payload bytes of every segment of a super-packet but the last; 0 for an ordinary packet.
    pub segment_payload: u32,
    /// Length of the IP packet in bytes, without padding and link header. A super-packet counts whole.
    pub size: u32,
    /// Bytes after the transport header. A super-packet counts whole.
    pub payload: u32,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
}

impl Packet {
    /// A packet of this flow in which nothing has been found yet.
    #[inline(always)]
    pub const fn of(key: FlowKey) -> Self {
        Self {
            key,
            direction: 0,
            flags: 0,
            header: 0,
            window: 0,
            segments: 1,
            segment_payload: 0,
            size: 0,
            payload: 0,
            sequence: 0,
            acknowledgement: 0,
        }
    }

    /// Copies all but the key into `target`.
    ///
    /// # Safety
    /// `target` points to a packet's writable memory.
    #[inline(always)]
    pub unsafe fn write_facts(&self, target: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe {
            (*target).direction = self.direction;
            (*target).flags = self.flags;
            (*target).header = self.header;
            (*target).window = self.window;
            (*target).segments = self.segments;
            (*target).segment_payload = self.segment_payload;
            (*target).size = self.size;
            (*target).payload = self.payload;
            (*target).sequence = self.sequence;
            (*target).acknowledgement = self.acknowledgement;
        }
    }

    /// True if all of these TCP flags are set.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Bytes of IP and transport header together, of each segment.
    #[inline(always)]
    pub fn headers(&self) -> u32 {
        self.size.saturating_sub(self.payload)
    }

    /// Bytes of IP packets that this will be on the wire: each segment of a super-packet has all headers.
    #[inline(always)]
    pub fn wire_bytes(&self) -> u64 {
        if self.segments <= 1 {
            u64::from(self.size)
        } else {
            u64::from(self.payload) + u64::from(self.headers()) * u64::from(self.segments)
        }
    }
}
