//! Generated captures: the same at every call, so that figures of two builds can be compared.

use std::path::Path;

use anyhow::Result;
use flowmeter::capture::CaptureReader;
use flowmeter::source::pcap::flow_table::{Flows, Parsed, TOGETHER, Totals};
use flowmeter_common::flow::Entry;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::{ParseOptions, parse_link};
use flowmeter_common::time::SECOND;
use harness::frames::{Packet, Transport, tcp};
use harness::replay::Frame;

/// Bytes kept of each packet: all headers.
const SNAPSHOT: usize = 96;
/// Time over which flows begin.
const SPAN: u64 = 600 * SECOND;
/// Mean gap within a flow.
const GAP: f64 = 0.2 * SECOND as f64;

/// A random number in (0, 1].
fn unit(random: &mut fastrand::Rng) -> f64 {
    1.0 - random.f64()
}

/// Generated packets in order of time; the same at every call.
pub fn generate(packets: usize, flows: usize) -> Vec<Frame> {
    let mut random = fastrand::Rng::with_seed(4);
    let mut all = Vec::with_capacity(packets + packets / 8);
    let mean = packets as f64 / flows as f64;
    for flow in 0..flows {
        let tcp = flow % 3 != 0;
        // Geometric, at least what a connection needs.
        let least = if tcp { 6 } else { 1 };
        let count = least + ((mean - least as f64).max(0.0) * -unit(&mut random).ln() + 0.5) as usize;
        let mut at = 1_700_000_000 * SECOND + (random.f64() * SPAN as f64) as u64;
        let client = format!("10.{}.{}.{}", flow >> 16 & 255, flow >> 8 & 255, flow & 255);
        let server = format!("192.0.2.{}", random.u8(1..=254));
        let port = random.u16(1024..);
        let (mut sent, mut received) = (random.u32(..), random.u32(..));
        for i in 0..count {
            let forward = i == 0 || (i != 1 && random.bool());
            let payload = if tcp && (i < 3 || i + 2 >= count) { 0 } else { random.usize(0..1400) };
            let (own, other) = if forward { (&mut sent, received) } else { (&mut received, sent) };
            let (from, to) = if forward { (port, 443) } else { (443, port) };
            let transport = if tcp {
                let flags = match i {
                    0 => tcp::SYN,
                    1 => tcp::SYN | tcp::ACK,
                    i if i + 2 == count => tcp::FIN | tcp::ACK,
                    i if i + 1 == count => tcp::RST,
                    _ => tcp::ACK | if random.bool() { tcp::PSH } else { 0 },
                };
                let segment = Transport::tcp(from, to).flags(flags).numbers(*own, other);
                let length = payload as u32 + u32::from(flags & (tcp::SYN | tcp::FIN) != 0);
                *own = own.wrapping_add(length);
                segment
            } else {
                Transport::udp(from, to)
            };
            let (source, destination) = if forward { (&client, &server) } else { (&server, &client) };
            let whole = Packet::ipv4(source, destination).with(transport.payload(vec![0; payload])).build();
            let mut frame = Frame::new(at, whole[..whole.len().min(SNAPSHOT)].to_vec());
            frame.wire_len = whole.len() as u32;
            all.push(frame);
            at += (GAP * -unit(&mut random).ln()) as u64;
        }
    }
    all.sort_by_key(|frame| frame.timestamp_ns);
    all
}

/// A packet for each flow, within a minute: none ends before the capture does.
pub fn scan(flows: usize) -> Vec<Frame> {
    let frame = |i: usize| {
        let target = format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
        let probe = Packet::ipv4("192.0.2.1", &target).with(Transport::tcp(40000, 23).flags(tcp::SYN));
        Frame::new(1_700_000_000 * SECOND + i as u64 * (60 * SECOND / flows as u64), probe.build())
    };
    (0..flows).map(frame).collect()
}

/// A capture in memory.
pub struct Loaded {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

struct Place {
    start: usize,
    length: usize,
    wire_len: usize,
    link: u32,
    at: u64,
}

impl Loaded {
    /// Reads a file.
    ///
    /// # Errors
    /// It is no capture, or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let mut reader = CaptureReader::open(path)?;
        let mut loaded = Self { bytes: Vec::new(), places: Vec::new() };
        while let Some(frame) = reader.next_frame()? {
            loaded.places.push(Place {
                start: loaded.bytes.len(),
                length: frame.data.len(),
                wire_len: frame.wire_len as usize,
                link: frame.link_type,
                at: frame.timestamp_ns,
            });
            loaded.bytes.extend_from_slice(frame.data);
        }
        Ok(loaded)
    }

    fn frames(&self) -> impl Iterator<Item = (SliceFrame<'_>, &Place)> {
        self.places.iter().map(|place| {
            let data = &self.bytes[place.start..place.start + place.length];
            (SliceFrame::new(data, place.wire_len), place)
        })
    }

    /// How many there are.
    pub fn packets(&self) -> usize {
        self.places.len()
    }

    /// Bytes kept of all of them.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Parses each, and throws away what came out.
    pub fn parse(&self) {
        for (frame, place) in self.frames() {
            std::hint::black_box(parse_link(&frame, place.link, ParseOptions::default()).ok());
        }
    }

    /// Parses each and counts it to its flow.
    ///
    /// # Errors
    /// None; a sink could fail.
    pub fn meter(&self) -> Result<Totals> {
        let mut flows = Flows::new(Timeouts::default());
        let mut give = |entry: &Entry, why| {
            std::hint::black_box((entry, why));
            Ok(())
        };
        let mut batch: Vec<Parsed> = Vec::with_capacity(TOGETHER);
        for (frame, place) in self.frames() {
            batch.push((parse_link(&frame, place.link, ParseOptions::default()), place.at));
            if batch.len() == TOGETHER {
                flows.packets(&batch, &mut give)?;
                batch.clear();
            }
        }
        flows.packets(&batch, &mut give)?;
        flows.finish(&mut give)
    }
}
