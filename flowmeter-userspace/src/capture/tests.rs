//! Captures written byte by byte, as the formats' drafts say, and what must be read from them.

use std::io::{Cursor, Write as _};

use super::{CaptureReader, LATEST};

/// A frame as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    timestamp_ns: u64,
    link_type: u32,
    data: Vec<u8>,
    wire_len: u32,
}

/// Reads everything; the last is true if the capture was cut off, or what was wrong with it.
fn read(bytes: Vec<u8>) -> (Vec<Read>, Result<bool, String>) {
    let mut reader = match CaptureReader::from_reader(Box::new(Cursor::new(bytes)), "test") {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Err(format!("{error:#}"))),
    };
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(Read {
                timestamp_ns: frame.timestamp_ns,
                link_type: frame.link_type,
                data: frame.data.to_vec(),
                wire_len: frame.wire_len,
            }),
            Ok(None) => return (frames, Ok(reader.truncated())),
            Err(error) => return (frames, Err(format!("{error:#}"))),
        }
    }
}

/// Writes numbers in one byte order.
#[derive(Clone, Copy)]
struct Order {
    big: bool,
}

impl Order {
    const BOTH: [Self; 2] = [Self { big: false }, Self { big: true }];

    fn u32s(self, values: &[u32]) -> Vec<u8> {
        let bytes = |value: &u32| if self.big { value.to_be_bytes() } else { value.to_le_bytes() };
        values.iter().flat_map(bytes).collect()
    }

    fn u16s(self, values: &[u16]) -> Vec<u8> {
        let bytes = |value: &u16| if self.big { value.to_be_bytes() } else { value.to_le_bytes() };
        values.iter().flat_map(bytes).collect()
    }

    /// A pcap file header.
    fn pcap(self, magic: u32, link_type: u32) -> Vec<u8> {
        [self.u32s(&[magic]), self.u16s(&[2, 4]), self.u32s(&[0, 0, 65_535, link_type])].concat()
    }

    /// A pcap record.
    fn record(self, seconds: u32, fraction: u32, data: &[u8], wire_len: u32) -> Vec<u8> {
        [&self.u32s(&[seconds, fraction, data.len() as u32, wire_len])[..], data].concat()
    }

    /// A pcapng block.
    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let length = (12 + body.len() + padding.len()) as u32;
        [&self.u32s(&[kind, length])[..], body, &padding, &self.u32s(&[length])].concat()
    }

    /// A section header.
    fn section(self) -> Vec<u8> {
        self.block(0x0a0d_0d0a, &[self.u32s(&[0x1a2b_3c4d]), self.u16s(&[1, 0]), vec![0xff; 8]].concat())
    }

    /// An interface description with a time resolution.
    fn interface(self, link_type: u16, resolution: Option<u8>) -> Vec<u8> {
        let mut body = [self.u16s(&[link_type, 0]), self.u32s(&[0])].concat();
        if let Some(resolution) = resolution {
            body.extend([self.u16s(&[9, 1]), vec![resolution, 0, 0, 0], self.u16s(&[0, 0])].concat());
        }
        self.block(1, &body)
    }

    /// An enhanced packet block.
    fn packet(self, interface: u32, time: u64, data: &[u8], wire_len: u32) -> Vec<u8> {
        let head = self.u32s(&[interface, (time >> 32) as u32, time as u32, data.len() as u32, wire_len]);
        self.block(6, &[&head[..], data].concat())
    }
}

fn frame(timestamp_ns: u64, link_type: u32, data: &[u8], wire_len: u32) -> Read {
    Read { timestamp_ns, link_type, data: data.to_vec(), wire_len }
}

#[test]
fn pcap_of_either_byte_order_and_resolution() {
    for order in Order::BOTH {
        for (magic, nanoseconds) in [(0xa1b2_c3d4, 7_000), (0xa1b2_3c4d, 7)] {
            let file =
                [order.pcap(magic, 1), order.record(3, 7, b"abc", 60), order.record(4, 0, b"", 0)].concat();
            let expected =
                vec![frame(3_000_000_000 + nanoseconds, 1, b"abc", 60), frame(4_000_000_000, 1, b"", 0)];
            assert_eq!(read(file), (expected, Ok(false)), "big-endian: {}, magic {magic:#x}", order.big);
        }
    }
}

#[test]
fn a_wire_length_below_the_captured_one_is_not_believed() {
    let order = Order { big: false };
    let file = [order.pcap(0xa1b2_c3d4, 101), order.record(0, 0, b"abcd", 2)].concat();
    assert_eq!(read(file).0, [frame(0, 101, b"abcd", 4)]);
}

#[test]
fn pcapng_with_several_interfaces_and_resolutions() {
    for order in Order::BOTH {
        let file = [
            order.section(),
            order.interface(1, None),
            order.interface(113, Some(9)),
            order.interface(101, Some(0x80 | 10)),
            // A block that nobody knows is passed over.
            order.block(0x0bad, &[1, 2, 3]),
            order.packet(0, 5_000_001, b"abc", 1500),
            order.packet(1, 5_000_000_002, b"d", 1),
            order.packet(2, 5 * 1024 + 512, b"efgh", 4),
        ]
        .concat();
        let expected = vec![
            frame(5_000_001_000, 1, b"abc", 1500),
            frame(5_000_000_002, 113, b"d", 1),
            frame(5_500_000_000, 101, b"efgh", 4),
        ];
        assert_eq!(read(file), (expected, Ok(false)), "big-endian: {}", order.big);
    }
}

#[test]
fn a_time_beyond_what_is_written_is_the_latest_one() {
    for (resolution, time) in [(6, u64::MAX), (9, u64::MAX), (0, 1 << 63), (0x80, u64::MAX), (9, LATEST + 1)]
    {
        let order = Order { big: false };
        let file = [order.section(), order.interface(1, Some(resolution)), order.packet(0, time, b"a", 1)];
        assert_eq!(read(file.concat()).0, [frame(LATEST, 1, b"a", 1)], "resolution {resolution}");
    }
}

#[test]
fn a_second_section_has_interfaces_and_a_byte_order_of_its_own() {
    let [little, big] = Order::BOTH;
    let file = [
        little.section(),
        little.interface(1, None),
        little.packet(0, 1, b"a", 1),
        big.section(),
        big.interface(113, None),
        big.packet(0, 2, b"b", 1),
    ]
    .concat();
    assert_eq!(read(file), (vec![frame(1_000, 1, b"a", 1), frame(2_000, 113, b"b", 1)], Ok(false)));
}

#[test]
fn compressed_captures_are_told_by_their_content() {
    let order = Order { big: false };
    let plain = [order.pcap(0xa1b2_c3d4, 1), order.record(1, 0, &[7; 5000], 5000)].concat();
    let expected = vec![frame(1_000_000_000, 1, &[7; 5000], 5000)];

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    assert_eq!(read(gzip.clone()), (expected, Ok(false)), "gzip");
    let (_, cut) = read(gzip[..gzip.len() - 12].to_vec());
    assert_eq!(cut, Ok(true), "gzip that was cut off");

    let packed = zstd::encode_all(&plain[..], 1).unwrap();
    assert_eq!(read(packed), (vec![frame(1_000_000_000, 1, &[7; 5000], 5000)], Ok(false)), "zstd");
}

/// Wherever a capture is cut, what is whole is read, and it is said that there was more.
#[test]
fn a_capture_may_be_cut_anywhere() {
    let order = Order { big: false };
    let header = order.pcap(0xa1b2_c3d4, 1);
    let record = order.record(1, 0, b"abcdef", 6);
    let file = [&header[..], &record, &record].concat();
    for length in 1..file.len() {
        let (frames, end) = read(file[..length].to_vec());
        if length < header.len() {
            assert!(end.is_err(), "{length} bytes are no file header");
            continue;
        }
        let whole = (length - header.len()) / record.len();
        let between = (length - header.len()).is_multiple_of(record.len());
        assert_eq!((frames.len(), end), (whole, Ok(!between)), "cut to {length} bytes");
    }
    let file = [order.section(), order.interface(1, None), order.packet(0, 1, b"abc", 3)].concat();
    let before = file.len() - order.packet(0, 1, b"abc", 3).len();
    for length in before + 1..file.len() {
        assert_eq!(read(file[..length].to_vec()), (vec![], Ok(true)), "pcapng cut to {length} bytes");
    }
}

#[test]
fn damage_is_named_with_its_place() {
    let order = Order { big: false };
    let good = order.record(1, 0, b"abc", 3);
    let huge = order.u32s(&[1, 0, 0x7fff_ffff, 0x7fff_ffff]);
    let (frames, end) = read([order.pcap(0xa1b2_c3d4, 1), good, huge].concat());
    assert_eq!(frames.len(), 1, "the packets before it are read");
    assert!(end.as_ref().is_err_and(|error| error.contains("byte offset 43")), "{end:?}");

    let start = [order.section(), order.interface(1, None)].concat();
    let cases = [
        ("a packet longer than its block", order.block(6, &order.u32s(&[0, 0, 0, 1000, 1000])), "1000 bytes"),
        ("an interface that is not there", order.packet(3, 0, b"abc", 3), "interface 3"),
        ("a block length that is no multiple of four", order.u32s(&[6, 33, 0, 0, 0, 0, 0, 0, 0]), "33 bytes"),
        ("a block shorter than its header", order.u32s(&[6, 8, 0, 0]), "8 bytes"),
    ];
    for (what, block, named) in cases {
        let (_, end) = read([&start[..], &block].concat());
        assert!(end.as_ref().is_err_and(|error| error.contains(named)), "{what}: {end:?}");
    }
}

#[test]
fn what_is_no_capture_is_refused_with_a_hint() {
    for (bytes, hint) in [
        (&b""[..], "empty"),
        (b"hello, this is text", "no pcap"),
        (b"\xfd7zXZ\0 and more of it", "unxz"),
        (b"PK\x03\x04 and more of it...", "unzip"),
    ] {
        let (_, end) = read(bytes.to_vec());
        assert!(end.as_ref().is_err_and(|error| error.contains(hint)), "{end:?} should say {hint}");
    }
}

#[test]
fn a_directory_is_refused_with_a_hint() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let problem = CaptureReader::open(folder).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(problem.contains("directory") && problem.contains("*.pcap"), "{problem}");
}
