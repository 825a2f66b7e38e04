//! Made-up packets: any bytes are a sequence of packets of a few flows, with numbers and times that meet often.

use flowmeter_common::key::FlowKey;
use flowmeter_common::packet::{Packet, protocol};
use flowmeter_common::time::SECOND;

/// Bytes that make one packet.
pub const STEP: usize = 12;

/// A packet, and the time since the one before, ns.
pub fn step(bytes: &[u8; STEP]) -> (Packet, u64) {
    let [
        which,
        flags,
        gap,
        gap_unit,
        sequence,
        sequence_high,
        ack,
        size,
        size_high,
        window,
        header,
        segments,
    ] = *bytes;
    let protocols = [protocol::TCP, protocol::TCP, protocol::UDP, protocol::ICMP];
    let protocol = protocols[usize::from(which >> 1 & 3)];
    let key = FlowKey {
        a_address: [0, 1],
        b_address: [0, 2],
        a_port: u16::from(which >> 4),
        protocol,
        ip_version: 4,
        ..FlowKey::default()
    };
    let tcp = protocol == protocol::TCP;
    let header = if tcp { 20 + u16::from(header % 11) * 4 } else { 8 };
    let payload = u32::from(size) | u32::from(size_high) << 8;
    // Now and then a super-packet.
    let segments = if segments > 250 && payload > 100 { 2 + u16::from(segments & 3) } else { 1 };
    let packet = Packet {
        key,
        direction: which & 1,
        flags: if tcp { flags } else { 0 },
        header,
        window: u16::from(window) << 8,
        segments,
        segment_payload: if segments > 1 { payload / u32::from(segments) } else { 0 },
        size: payload + u32::from(header) + 20,
        payload,
        sequence: u32::from(sequence) << 7 | u32::from(sequence_high) << 24,
        acknowledgement: u32::from(ack) << 7,
    };
    let unit = [1, 1000, 1_000_000, SECOND / 10, SECOND, 20 * SECOND, 0, 0][usize::from(gap_unit & 7)];
    (packet, u64::from(gap) * unit)
}
