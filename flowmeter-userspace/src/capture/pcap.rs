//! The classic pcap format: a file header, then records; microseconds or nanoseconds, either byte order.
//!
//! Layout: <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/>.

use anyhow::bail;
use pcap_parser::nom::{self, IResult, Needed};
use pcap_parser::{
    LegacyPcapBlock, PcapError, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified,
    parse_pcap_header,
};

use super::window::Window;
use super::{Located, MAX_RECORD, Next, PLAUSIBLE_PACKET};

/// Length of the file header in bytes.
const FILE_HEADER: usize = 24;
/// Length of a record's header in bytes.
const RECORD_HEADER: usize = 16;
/// Length of a record's header in bytes in files with the magic number 0xa1b2cd34 (an interface index and more follow).
const MODIFIED_RECORD_HEADER: usize = 24;
/// Microseconds in a second: a fraction of a second is less.
const MICROSECONDS: u32 = 1_000_000;
/// The file header's last field: the link type proper. The bits above say whether frames end in a checksum.
const LINK_TYPE: u32 = 0x0000_ffff;

/// Parses one record at the start of a slice.
type ParseRecord = for<'a> fn(&'a [u8]) -> IResult<&'a [u8], LegacyPcapBlock<'a>, PcapError<&'a [u8]>>;

/// What the file header says.
pub(super) struct PcapFormat {
    link_type: u32,
    layout: Layout,
    /// Nanoseconds in one unit of a timestamp's second field.
    fraction_ns: u64,
    /// The longest packet that is believed, in bytes.
    longest: u32,
    /// The header says microseconds, and the records have nanoseconds.
    misnamed: bool,
}

#[derive(Clone, Copy)]
enum Layout {
    LittleEndian,
    BigEndian,
    Modified,
}

impl PcapFormat {
    pub(super) fn recognise(start: &[u8]) -> bool {
        matches!(
            start,
            [0xd4, 0xc3, 0xb2, 0xa1, ..]
                | [0xa1, 0xb2, 0xc3, 0xd4, ..]
                | [0x4d, 0x3c, 0xb2, 0xa1, ..]
                | [0xa1, 0xb2, 0x3c, 0x4d, ..]
                | [0x34, 0xcd, 0xb2, 0xa1, ..]
        )
    }

    pub(super) fn open(window: &mut Window) -> anyhow::Result<Self> {
        if !window.has(FILE_HEADER)? {
            bail!(
                "it ends within the pcap file header, after {} of {FILE_HEADER} bytes",
                window.data().len()
            );
        }
        let Ok((_, header)) = parse_pcap_header(window.data()) else {
            bail!("its pcap file header cannot be read");
        };
        if header.version_major != 2 {
            bail!(
                "it is of pcap version {}.{}; only 2.x is known",
                header.version_major,
                header.version_minor
            );
        }
        window.consume(FILE_HEADER);
        let mut this = Self {
            link_type: header.network.0 as u32 & LINK_TYPE,
            layout: match (header.is_modified_format(), header.is_bigendian()) {
                (true, _) => Layout::Modified,
                (false, true) => Layout::BigEndian,
                (false, false) => Layout::LittleEndian,
            },
            fraction_ns: if header.is_nanosecond_precision() { 1 } else { 1_000 },
            longest: header.snaplen.clamp(PLAUSIBLE_PACKET, (MAX_RECORD - MODIFIED_RECORD_HEADER) as u32),
            misnamed: false,
        };
        this.look_ahead(window)?;
        Ok(this)
    }

    /// True if the records have nanoseconds although the file's header says microseconds.
    pub(super) fn is_misnamed(&self) -> bool {
        self.misnamed
    }

    /// Looks at the records that the window holds: a fraction of a second of a million and more is one in nanoseconds,
    /// whatever the header says.
    fn look_ahead(&mut self, window: &mut Window) -> anyhow::Result<()> {
        let (header, parse) = self.parser();
        // One record, if it is there: a pipe is not waited for longer than reading takes.
        window.has(header)?;
        let mut rest = window.data();
        while self.fraction_ns != 1
            && let Ok((after, record)) = parse(rest)
        {
            self.notice(record.ts_usec);
            rest = after;
        }
        Ok(())
    }

    #[inline]
    fn notice(&mut self, fraction: u32) {
        if fraction >= MICROSECONDS && self.fraction_ns != 1 {
            self.fraction_ns = 1;
            self.misnamed = true;
        }
    }

    /// Length of a record's header, and what parses a record.
    #[inline]
    fn parser(&self) -> (usize, ParseRecord) {
        match self.layout {
            Layout::LittleEndian => (RECORD_HEADER, parse_pcap_frame),
            Layout::BigEndian => (RECORD_HEADER, parse_pcap_frame_be),
            Layout::Modified => (MODIFIED_RECORD_HEADER, parse_pcap_frame_modified),
        }
    }

    #[inline]
    pub(super) fn next(&mut self, window: &mut Window) -> anyhow::Result<Next> {
        let (header, parse) = self.parser();
        loop {
            let missing = match parse(window.data()) {
                Ok((_, record)) => {
                    if record.caplen > self.longest {
                        break;
                    }
                    self.notice(record.ts_usec);
                    let (timestamp_ns, len, wire_len) = (
                        // At most 4.3e9 s and 4.3e9 us: less than 4.3e18 + 4.3e12, which u64 holds.
                        u64::from(record.ts_sec) * 1_000_000_000
                            + u64::from(record.ts_usec) * self.fraction_ns,
                        record.data.len(),
                        record.origlen.max(record.caplen),
                    );
                    let record = window.consume(header + len);
                    return Ok(Next::Frame(Located {
                        timestamp_ns,
                        link_type: self.link_type,
                        data: record.start + header..record.end,
                        wire_len,
                    }));
                }
                Err(nom::Err::Incomplete(Needed::Size(missing))) => missing.get(),
                Err(_) => bail!("the record at byte offset {} cannot be read", window.offset()),
            };
            // `missing` may be what a damaged length asks for: look before reading.
            if missing > header + self.longest as usize {
                break;
            }
            if !window.has(window.data().len() + missing)? {
                return Ok(Next::End { cut: !window.is_empty() });
            }
        }
        bail!(
            "the record at byte offset {} claims a packet of more than {} bytes: the file is damaged there; the packets \
             before it were read",
            window.offset(),
            self.longest,
        )
    }
}
