//! IPFIX messages (RFC 7011) of two fixed templates, IPv4 and IPv6: biflows (RFC 5103) with verdict and score as elements
//! of an enterprise.

use std::net::IpAddr;

use flowmeter_common::lifecycle::EndReason;

use crate::model::Verdict;
use crate::record::{FlowRecord, Stage};
use crate::scoring::Scored;
use crate::sink::facts;

/// The enterprise whose elements verdict and score are: the number that RFC 5612 keeps for documentation, until IANA has
/// given FlowMeter one of its own.
pub const ENTERPRISE: u32 = 32_473;
/// Elements of the reverse direction (RFC 5103 section 6.1).
const REVERSE: u32 = 29_305;
/// Longest message: it fits into a frame of Ethernet with IPv6 and UDP headers.
pub const MAX_MESSAGE: usize = 1_400;
/// Length of a message's header.
pub const HEADER: usize = 16;
/// Length of a set's header.
const SET_HEADER: usize = 4;
/// The set that defines templates.
const TEMPLATE_SET: u16 = 2;
/// All flows are observed in one domain.
const DOMAIN: u32 = 1;
/// Marks an element as an enterprise's.
const ENTERPRISE_BIT: u16 = 0x8000;

/// An element of a record: what IANA numbers, or an enterprise does, and its length in bytes.
struct Element {
    id: u16,
    enterprise: Option<u32>,
    length: u16,
}

const fn iana(id: u16, length: u16) -> Element {
    Element { id, enterprise: None, length }
}

const fn of_enterprise(enterprise: u32, id: u16, length: u16) -> Element {
    Element { id, enterprise: Some(enterprise), length }
}

/// A template, and the lengths that follow from it.
struct Template {
    id: u16,
    addresses: [Element; 2],
    icmp: Element,
}

/// What both templates have between the addresses and the ICMP message.
const COMMON: [Element; 17] = [
    iana(152, 8),                    // flowStartMilliseconds
    iana(153, 8),                    // flowEndMilliseconds
    iana(7, 2),                      // sourceTransportPort
    iana(11, 2),                     // destinationTransportPort
    iana(4, 1),                      // protocolIdentifier
    iana(136, 1),                    // flowEndReason
    iana(239, 1),                    // biflowDirection
    iana(6, 2),                      // tcpControlBits
    of_enterprise(REVERSE, 6, 2),    // reverseTcpControlBits
    iana(58, 2),                     // vlanId
    iana(10, 4),                     // ingressInterface
    iana(2, 8),                      // packetDeltaCount
    iana(1, 8),                      // octetDeltaCount
    of_enterprise(REVERSE, 2, 8),    // reversePacketDeltaCount
    of_enterprise(REVERSE, 1, 8),    // reverseOctetDeltaCount
    of_enterprise(ENTERPRISE, 1, 1), // flowmeterVerdict
    of_enterprise(ENTERPRISE, 2, 4), // flowmeterScore, float32
];

const TEMPLATES: [Template; 2] = [
    // sourceIPv4Address, destinationIPv4Address, icmpTypeCodeIPv4
    Template { id: 400, addresses: [iana(8, 4), iana(12, 4)], icmp: iana(32, 2) },
    // sourceIPv6Address, destinationIPv6Address, icmpTypeCodeIPv6
    Template { id: 401, addresses: [iana(27, 16), iana(28, 16)], icmp: iana(139, 2) },
];

impl Template {
    fn elements(&self) -> impl Iterator<Item = &Element> {
        self.addresses.iter().chain(&COMMON).chain([&self.icmp])
    }
}

/// A message without its sequence number, export time: these are known when it is sent.
#[derive(Clone, Debug, Default)]
pub struct IpfixMessage {
    bytes: Vec<u8>,
    /// Data records in it.
    pub records: u32,
}

impl IpfixMessage {
    fn begin() -> Self {
        let mut bytes = Vec::with_capacity(MAX_MESSAGE);
        bytes.resize(HEADER, 0);
        Self { bytes, records: 0 }
    }

    /// The definitions of all templates.
    pub fn templates() -> Self {
        let mut message = Self::begin();
        let bytes = &mut message.bytes;
        let set = bytes.len();
        put16(bytes, TEMPLATE_SET);
        put16(bytes, 0);
        for template in &TEMPLATES {
            put16(bytes, template.id);
            put16(bytes, template.elements().count() as u16);
            for element in template.elements() {
                put16(bytes, element.id | if element.enterprise.is_some() { ENTERPRISE_BIT } else { 0 });
                put16(bytes, element.length);
                if let Some(number) = element.enterprise {
                    put32(bytes, number);
                }
            }
        }
        finish_set(bytes, set);
        message
    }

    /// Completes the header. `sequence` is the number of data records before this message, modulo 2^32; `now` are seconds
    /// since the Unix epoch.
    pub fn seal(&mut self, sequence: u32, now: u32) -> &[u8] {
        const VERSION: u16 = 10;
        let length = self.bytes.len() as u16;
        let mut header = Vec::with_capacity(HEADER);
        put16(&mut header, VERSION);
        put16(&mut header, length);
        put32(&mut header, now);
        put32(&mut header, sequence);
        put32(&mut header, DOMAIN);
        self.bytes[..HEADER].copy_from_slice(&header);
        &self.bytes
    }
}

/// Puts records together to messages.
#[derive(Debug, Default)]
pub struct MessageBuilder {
    /// Records that wait, by template.
    waiting: [Vec<u8>; 2],
    records: u32,
}

impl MessageBuilder {
    /// Adds a flow that has ended; gives back a message when this flow finds no room in it.
    pub fn add(&mut self, scored: &Scored<'_>, why: EndReason) -> Option<IpfixMessage> {
        let which = usize::from(scored.record.destination().address.is_ipv6());
        let mut record = Vec::with_capacity(128);
        encode(scored, why, &mut record);
        let length = |waiting: &Vec<u8>| if waiting.is_empty() { 0 } else { SET_HEADER + waiting.len() };
        let all: usize = self.waiting.iter().map(length).sum();
        let full = HEADER + all + SET_HEADER + record.len() > MAX_MESSAGE;
        let message = if full { self.take() } else { None };
        self.waiting[which].append(&mut record);
        self.records += 1;
        message
    }

    /// The message of what waits; None if nothing does.
    pub fn take(&mut self) -> Option<IpfixMessage> {
        if self.records == 0 {
            return None;
        }
        let mut message = IpfixMessage::begin();
        for (template, waiting) in TEMPLATES.iter().zip(&mut self.waiting) {
            if !waiting.is_empty() {
                let set = message.bytes.len();
                put16(&mut message.bytes, template.id);
                put16(&mut message.bytes, 0);
                message.bytes.append(waiting);
                finish_set(&mut message.bytes, set);
            }
        }
        message.records = std::mem::take(&mut self.records);
        Some(message)
    }
}

/// Appends the record of a flow: its elements in the order of its template.
fn encode(scored: &Scored<'_>, why: EndReason, bytes: &mut Vec<u8>) {
    const FROM_THE_INITIATOR: u8 = 1;
    let record = scored.record;
    let (forward, backward) = (record.forward(), record.backward());
    let flags = |direction| u16::from(facts::flags(record, direction).unwrap_or(0));
    let (source_port, destination_port) = facts::ports(record).unwrap_or_default();
    for end in [record.source(), record.destination()] {
        match end.address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    put64(bytes, record.first_seen() / 1_000_000);
    put64(bytes, record.last_seen() / 1_000_000);
    put16(bytes, source_port);
    put16(bytes, destination_port);
    bytes.push(record.entry.key.protocol);
    bytes.push(end_reason(why));
    bytes.push(FROM_THE_INITIATOR);
    put16(bytes, flags(forward));
    put16(bytes, flags(backward));
    put16(bytes, record.vlans()[0].unwrap_or(0));
    put32(bytes, record.entry.key.interface);
    put64(bytes, forward.packets);
    put64(bytes, forward.bytes);
    put64(bytes, backward.packets);
    put64(bytes, backward.bytes);
    bytes.push(scored.verdict.map_or(0, Verdict::number) as u8);
    bytes.extend((scored.score.unwrap_or(0.0) as f32).to_be_bytes());
    let (message, code) = facts::icmp(record).unwrap_or_default();
    bytes.extend([message, code]);
}

/// Why a flow ended, by the numbers of flowEndReason (RFC 5102 section 5.11.3).
fn end_reason(why: EndReason) -> u8 {
    match why {
        EndReason::Idle => 1,
        EndReason::Active => 2,
        EndReason::Fin | EndReason::Reset | EndReason::PortReuse => 3,
        EndReason::Shutdown | EndReason::EndOfCapture => 4,
        EndReason::Pressure | EndReason::Folded => 5,
    }
}

/// How a flow that is exported ended; None if it lives.
pub fn ended(record: &FlowRecord) -> Option<EndReason> {
    match record.stage {
        Stage::End(why) => Some(why),
        Stage::Checkpoint { .. } => None,
    }
}

/// Writes the length into the header of the set that begins at `start`.
fn finish_set(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start) as u16;
    bytes[start + 2..start + SET_HEADER].copy_from_slice(&length.to_be_bytes());
}

fn put16(bytes: &mut Vec<u8>, number: u16) {
    bytes.extend(number.to_be_bytes());
}

fn put32(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_be_bytes());
}

fn put64(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend(number.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use flowmeter_common::flow::{Direction, Entry};
    use flowmeter_common::key::FlowKey;
    use flowmeter_common::packet::protocol;

    use super::*;

    /// A flow between two addresses, IPv4 or IPv6.
    fn flow(version: u8) -> FlowRecord {
        let address = |last: u8| {
            let mut bytes = if version == 4 { [0; 16] } else { [0x20; 16] };
            if version == 4 {
                bytes[10..15].copy_from_slice(&[0xff, 0xff, 10, 0, 0]);
            }
            bytes[15] = last;
            let (a, b) = bytes.split_at(8);
            [a, b].map(|half| u64::from_ne_bytes(half.try_into().expect("eight bytes")))
        };
        let key = FlowKey {
            a_address: address(1),
            b_address: address(2),
            a_port: 40_000,
            b_port: 443,
            outer_vlan: 0x8007,
            protocol: protocol::TCP,
            ip_version: version,
            interface: 3,
            ..FlowKey::default()
        };
        // SAFETY: an entry is whole words, of which all are valid.
        let mut entry: Entry = unsafe { std::mem::zeroed() };
        entry.key = key;
        let start = 1_700_000_000_123_456_789;
        entry.state.directions[0] = Direction {
            packets: 6,
            bytes: 540,
            first: start,
            last: start + 5_000_000,
            syn: 1,
            ..Direction::EMPTY
        };
        entry.state.directions[1] = Direction {
            packets: 4,
            bytes: 2160,
            first: start + 1_000_000,
            last: start + 7_000_000,
            rst: 1,
            ..Direction::EMPTY
        };
        FlowRecord::of_capture(&entry, EndReason::Reset)
    }

    fn scored(record: &FlowRecord) -> Scored<'_> {
        Scored {
            record,
            observed: None,
            features: &[],
            verdict: Some(Verdict::Malicious),
            score: Some(0.75),
            threshold: Some(0.5),
            model: None,
            reasons: &[],
            unexplained: false,
        }
    }

    /// Byte by byte, as RFC 7011 section 3 and IANA's registry have it.
    #[test]
    fn a_message_is_what_the_standard_says() {
        let record = flow(4);
        let mut collector = MessageBuilder::default();
        assert!(collector.add(&scored(&record), EndReason::Reset).is_none());
        let mut message = collector.take().expect("a record waits");
        let hexadecimal: String =
            message.seal(0x0102_0304, 0x6553_f100).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = [
            "000a",
            "0064",
            "6553f100",
            "01020304",
            "00000001", // version, length, time, sequence, domain
            "0190",
            "0054", // template 400, length of the set
            "0a000001",
            "0a000002", // addresses
            "0000018bcfe5687b",
            "0000018bcfe56882", // 1700000000123 and 1700000000130 ms
            "9c40",
            "01bb",
            "06",
            "03",
            "01", // ports, TCP, end detected, from the initiator
            "0012",
            "0014", // SYN and ACK; RST and ACK
            "0007",
            "00000003", // VLAN, interface
            "0000000000000006",
            "000000000000021c",
            "0000000000000004",
            "0000000000000870", // packets, octets
            "03",
            "3f400000", // malicious, 0.75
            "0000",     // no ICMP
        ]
        .concat();
        assert_eq!(hexadecimal, expected);
        assert!(collector.take().is_none(), "taken");
    }

    #[test]
    fn records_are_as_long_as_their_templates_say() {
        for (version, template) in [4, 6].into_iter().zip(&TEMPLATES) {
            let record = flow(version);
            let mut bytes = Vec::new();
            encode(&scored(&record), EndReason::Idle, &mut bytes);
            let length: usize = template.elements().map(|element| usize::from(element.length)).sum();
            assert_eq!(bytes.len(), length, "IPv{version}");
        }
    }

    #[test]
    fn no_message_is_longer_than_a_frame() {
        let (four, six) = (flow(4), flow(6));
        let mut collector = MessageBuilder::default();
        let (mut records, mut messages) = (0, 0);
        let mut take = |message: IpfixMessage| {
            assert!(message.bytes.len() <= MAX_MESSAGE, "{} bytes", message.bytes.len());
            records += message.records;
            messages += 1;
        };
        for i in 0..100 {
            let record = if i % 3 == 0 { &six } else { &four };
            collector.add(&scored(record), EndReason::Idle).map(&mut take);
        }
        collector.take().map(&mut take);
        assert!(records == 100 && messages <= 8, "{records} records in {messages} messages");
    }
}
