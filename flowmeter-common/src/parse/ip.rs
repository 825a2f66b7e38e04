//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, with options, extension headers and fragments.

use super::ethertype::{self, Network};
use crate::counter::Skip;
use crate::frame::Frame;
use crate::key::mapped_ipv4;
use crate::packet::protocol;

/// What the network layer leaves for the transport layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    pub version: u8,
    pub protocol: u8,
    /// True for a fragment after the first: no transport header follows.
    pub later_fragment: bool,
    /// What the fragment does to the transport header.
    pub split: Split,
    pub from: [u64; 2],
    pub to: [u64; 2],
    /// Where the transport header begins, in bytes from the frame's start.
    pub offset: usize,
    /// Length of the IP packet in bytes.
    pub size: u32,
    /// Length of the IP header with its options or extension headers.
    pub headers: u32,
}

/// Whether a fragment can hold the whole transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// It is no fragment, or one that begins well after the header.
    No,
    /// The first fragment of several: it must hold the whole header.
    First,
    /// It begins eight bytes into what the first one carries: within a TCP header.
    Within,
}

impl Split {
    /// Of a fragment at this offset, in bytes.
    #[inline(always)]
    const fn of(offset: u32, more: bool) -> Self {
        match offset {
            0 if more => Self::First,
            FRAGMENT_UNIT => Self::Within,
            _ => Self::No,
        }
    }
}

/// Fragments begin at multiples of so many bytes.
const FRAGMENT_UNIT: u32 = 8;

/// Length in bytes of an IPv4 header without options.
const IPV4_HEADER: u32 = 20;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;

/// Length in bytes of an IPv6 header.
const IPV6_HEADER: u32 = 40;
/// Extension headers followed: as many as RFC 8200 section 4.1 has kinds of, less the upper-layer header.
const MAX_EXTENSIONS: usize = 6;
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;
const IPV6_MORE_FRAGMENTS: u16 = 1;

mod next_header {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const NONE: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// The length field's value, or what the wire carried where that is less (a cut or forged packet) or where the
/// field is zero, as it is for packets that the sender's kernel has still to segment.
#[inline(always)]
fn bounded_size<F: Frame>(frame: &F, claimed: u32, offset: usize) -> u32 {
    if claimed != 0 && frame.holds(offset + claimed as usize) {
        return claimed;
    }
    let available = (frame.wire_len() as u32).saturating_sub(offset as u32);
    if claimed == 0 || claimed > available { available } else { claimed }
}

/// Reads the network header that a link or a tunnel led to.
#[inline(always)]
pub(super) fn read<F: Frame>(frame: &F, found: &Network) -> Result<Layer, Skip> {
    match found.ethertype {
        ethertype::IPV4 => read_v4(frame, found.offset),
        ethertype::IPV6 => read_v6(frame, found.offset),
        _ => Err(Skip::NotIp),
    }
}

/// Sender and receiver of the IP packet, if its header is there and of the version announced, whatever follows it.
#[inline(always)]
pub(super) fn addresses<F: Frame>(frame: &F, found: &Network) -> Option<(u8, [u64; 2], [u64; 2])> {
    match found.ethertype {
        ethertype::IPV4 => {
            let words: [u32; 5] = frame.read(found.offset)?;
            (u32::from_be(words[0]) >> 28 == 4).then(|| (4, mapped_ipv4(words[3]), mapped_ipv4(words[4])))
        }
        ethertype::IPV6 => {
            let fixed: [u32; 10] = frame.read(found.offset)?;
            (u32::from_be(fixed[0]) >> 28 == 6).then(|| (6, address(&fixed, 2), address(&fixed, 6)))
        }
        _ => None,
    }
}

/// Length of an authentication header whose length field is `field`: words of four bytes, less two (RFC 4302).
#[inline(always)]
const fn authentication_length(field: u8) -> usize {
    (field as usize + 2) * 4
}

#[inline(always)]
fn read_v4<F: Frame>(frame: &F, offset: usize) -> Result<Layer, Skip> {
    let words: [u32; 5] = frame.read(offset).ok_or(Skip::TruncatedIpv4)?;
    let first = u32::from_be(words[0]);
    let mut headers = ((first >> 24) & 0xf) * 4;
    let total = first & 0xffff;
    if first >> 28 != 4 || headers < IPV4_HEADER || (total != 0 && total < headers) {
        return Err(Skip::BadIpv4);
    }
    let fragment = u32::from_be(words[1]) as u16;
    let size = bounded_size(frame, total, offset);
    let place = u32::from(fragment & IPV4_FRAGMENT_OFFSET) * FRAGMENT_UNIT;
    let later_fragment = place != 0;
    let split = Split::of(place, fragment & IPV4_MORE_FRAGMENTS != 0);
    let mut protocol = (u32::from_be(words[2]) >> 16) as u8;
    let mut end = offset + headers as usize;
    if protocol == protocol::AUTHENTICATION && !later_fragment {
        let [following, length]: [u8; 2] = frame.read(end).ok_or(Skip::TruncatedIpv4)?;
        let length = authentication_length(length);
        protocol = following;
        headers += length as u32;
        end = frame.forget(end + length);
    }
    if size < headers {
        return Err(Skip::TruncatedIpv4);
    }
    Ok(Layer {
        version: 4,
        protocol,
        later_fragment,
        split,
        from: mapped_ipv4(words[3]),
        to: mapped_ipv4(words[4]),
        offset: end,
        size,
        headers,
    })
}

#[inline(always)]
fn read_v6<F: Frame>(frame: &F, offset: usize) -> Result<Layer, Skip> {
    let fixed: [u32; 10] = frame.read(offset).ok_or(Skip::TruncatedIpv6)?;
    let first = u32::from_be(fixed[0]);
    if first >> 28 != 6 {
        return Err(Skip::BadIpv6);
    }
    let second = u32::from_be(fixed[1]);
    let payload = second >> 16;
    let mut next = (second >> 8) as u8;
    // A payload length of zero means "longer than the field can say" (RFC 2675, or a packet still to be segmented),
    // unless there is nothing after the header.
    let claimed = if payload == 0 && next != next_header::NONE { 0 } else { payload + IPV6_HEADER };
    let size = bounded_size(frame, claimed, offset);
    let mut at = offset + IPV6_HEADER as usize;
    let mut later_fragment = false;
    let mut split = Split::No;
    let mut followed = 0;
    #[expect(clippy::while_let_loop, reason = "which header follows and how long it is belong together")]
    loop {
        let length = match next {
            next_header::HOP_BY_HOP
            | next_header::ROUTING
            | next_header::DESTINATION
            | next_header::MOBILITY
            | next_header::HIP
            | next_header::SHIM6
            | protocol::AUTHENTICATION
            | next_header::FRAGMENT => {
                if split == Split::First && at - offset >= size as usize {
                    return Err(Skip::ShortFragment);
                }
                let [following, length]: [u8; 2] = frame.read(at).ok_or(Skip::TruncatedIpv6)?;
                let length = match next {
                    next_header::FRAGMENT => {
                        let place: u16 = frame.read(at + 2).ok_or(Skip::TruncatedIpv6)?;
                        let place = u16::from_be(place);
                        later_fragment = place & IPV6_FRAGMENT_OFFSET != 0;
                        split = Split::of(
                            u32::from(place & IPV6_FRAGMENT_OFFSET),
                            place & IPV6_MORE_FRAGMENTS != 0,
                        );
                        8
                    }
                    protocol::AUTHENTICATION => authentication_length(length),
                    _ => (usize::from(length) + 1) * 8,
                };
                next = following;
                length
            }
            _ => break,
        };
        at = frame.forget(at + length);
        followed += 1;
        if later_fragment {
            break;
        }
        if followed > MAX_EXTENSIONS {
            return Err(Skip::TooManyExtensions);
        }
    }
    let headers = (at - offset) as u32;
    if size < headers {
        return Err(if split == Split::First { Skip::ShortFragment } else { Skip::TruncatedIpv6 });
    }
    Ok(Layer {
        version: 6,
        protocol: next,
        later_fragment,
        split,
        from: address(&fixed, 2),
        to: address(&fixed, 6),
        offset: at,
        size,
        headers,
    })
}

/// Four words, as they lie in memory, as the two words of a key.
#[inline(always)]
fn address(fixed: &[u32; 10], at: usize) -> [u64; 2] {
    let pair =
        |high: u32, low: u32| (u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low))).to_be();
    [pair(fixed[at], fixed[at + 1]), pair(fixed[at + 2], fixed[at + 3])]
}
