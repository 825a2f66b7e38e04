//! The pcapng format: blocks of several kinds in sections, each section with its own byte order and interfaces.
//!
//! Layout: <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/>. Section headers and interface descriptions are
//! parsed by `pcap-parser`. Not by it, as of version 0.17, and why:
//! - packet blocks: it allocates a list for the options of every packet, which takes a third of the reading time;
//! - the obsolete packet block: it does not know it;
//! - the clock: it refuses resolutions in powers of two and reads `if_tsoffset` as little-endian in any section.

use anyhow::{Context as _, bail, ensure};
use pcap_parser::{
    BOM_MAGIC, EPB_MAGIC, IDB_MAGIC, InterfaceDescriptionBlock, OptionCode, SHB_MAGIC, SPB_MAGIC,
    parse_interfacedescriptionblock_be, parse_interfacedescriptionblock_le, parse_sectionheaderblock,
};

use super::window::Window;
use super::{LATEST, Located, MAX_RECORD, Next};

/// Block type of the packet block that the enhanced packet block replaced; old captures have it.
const OLD_PACKET: u32 = 2;
/// Type and length before a block's body, in bytes.
const BLOCK_HEADER: usize = 8;
/// The length, once more, after a block's body, in bytes.
const BLOCK_TRAILER: usize = 4;
/// What a section header needs to be told from others: type, length, byte-order magic, in bytes.
const SECTION_START: usize = BLOCK_HEADER + 4;
/// Where the packet begins in an enhanced and in an old packet block, in bytes from the block's start.
const PACKET_DATA: usize = 28;
/// Where the packet begins in a simple packet block.
const SIMPLE_PACKET_DATA: usize = 12;
/// More interfaces than this in a section are taken for damage, not for a machine.
const MAX_INTERFACES: usize = 65_536;
/// Nanoseconds in a second, as a power of ten.
const NANO: u8 = 9;

/// What the present section has said so far.
pub(super) struct PcapNgFormat {
    big_endian: bool,
    interfaces: Vec<CaptureInterface>,
    /// Time of the last frame that had one: simple packets have no clock.
    last_timestamp_ns: u64,
}

struct CaptureInterface {
    link_type: u32,
    /// The longest piece of a packet that is kept, in bytes; 0 means all of it.
    snap_len: u32,
    clock: InterfaceClock,
}

impl PcapNgFormat {
    pub(super) fn recognise(start: &[u8]) -> bool {
        // The type of a section header reads the same in both byte orders.
        start.starts_with(&SHB_MAGIC.to_le_bytes())
    }

    pub(super) fn open(window: &mut Window) -> anyhow::Result<Self> {
        if !window.has(SECTION_START)? {
            bail!("it ends within the pcapng section header, after {} bytes", window.data().len());
        }
        let mut this = Self { big_endian: false, interfaces: Vec::new(), last_timestamp_ns: 0 };
        let Some((_, len)) = this.block_header(window)? else {
            bail!("it ends within the pcapng section header, after {} bytes", window.data().len());
        };
        this.open_section(&window.data()[..len])?;
        window.consume(len);
        Ok(this)
    }

    pub(super) fn next(&mut self, window: &mut Window) -> anyhow::Result<Next> {
        loop {
            let Some((kind, len)) = self.block_header(window)? else {
                return Ok(Next::End { cut: !window.is_empty() });
            };
            let block = &window.data()[..len];
            let packet = match kind {
                EPB_MAGIC => Some(self.packet(block, self.u32_at(block, 8))),
                OLD_PACKET => Some(self.packet(block, u32::from(self.u16_at(block, 8)))),
                SPB_MAGIC => Some(self.simple_packet(block)),
                IDB_MAGIC => self.add_interface(block).map(|()| None).transpose(),
                SHB_MAGIC => self.open_section(block).map(|()| None).transpose(),
                // Statistics, names, secrets, and what is not invented yet: no frames.
                _ => None,
            };
            let packet = packet
                .transpose()
                .with_context(|| format!("the block at byte offset {} is damaged", window.offset()))?;
            let block = window.consume(len);
            if let Some(mut frame) = packet {
                self.last_timestamp_ns = frame.timestamp_ns;
                frame.data = block.start + frame.data.start..block.start + frame.data.end;
                return Ok(Next::Frame(frame));
            }
        }
    }

    /// Type and length of the next block, all of which is in the window then; `None` if the input ends before that.
    #[inline]
    fn block_header(&mut self, window: &mut Window) -> anyhow::Result<Option<(u32, usize)>> {
        if !window.has(SECTION_START)? {
            return Ok(None);
        }
        let start = window.data();
        let kind = self.u32_at(start, 0);
        if kind == SHB_MAGIC {
            // From here on, lengths may have the other byte order.
            self.big_endian = match u32::from_le_bytes([start[8], start[9], start[10], start[11]]) {
                BOM_MAGIC => false,
                swapped if swapped == BOM_MAGIC.swap_bytes() => true,
                magic => bail!(
                    "the section header at byte offset {} has the byte-order magic {magic:#010x}, which is none",
                    window.offset()
                ),
            };
        }
        let len = self.u32_at(start, 4) as usize;
        if len < self.shortest(kind) || len > MAX_RECORD || !len.is_multiple_of(4) {
            bail!(
                "the block at byte offset {} (type {kind:#x}) claims {len} bytes, which cannot be: the file is damaged \
                 there; the packets before it were read",
                window.offset()
            );
        }
        if !window.has(len)? {
            return Ok(None);
        }
        let trailer = self.u32_at(window.data(), len - BLOCK_TRAILER) as usize;
        if trailer != len {
            bail!(
                "the block at byte offset {} claims {len} bytes at its start and {trailer} at its end: the file is \
                 damaged there; the packets before it were read",
                window.offset()
            );
        }
        Ok(Some((kind, len)))
    }

    /// The least length of a block, in bytes, so that its fixed fields can be read.
    fn shortest(&self, kind: u32) -> usize {
        match kind {
            EPB_MAGIC | OLD_PACKET => PACKET_DATA + BLOCK_TRAILER,
            SPB_MAGIC => SIMPLE_PACKET_DATA + BLOCK_TRAILER,
            IDB_MAGIC => 20,
            SHB_MAGIC => 28,
            _ => BLOCK_HEADER + BLOCK_TRAILER,
        }
    }

    fn open_section(&mut self, block: &[u8]) -> anyhow::Result<()> {
        let Ok((_, header)) = parse_sectionheaderblock(block) else {
            bail!("its section header cannot be read");
        };
        ensure!(
            header.major_version == 1,
            "it is of pcapng version {}.{}; only 1.x is known",
            header.major_version,
            header.minor_version
        );
        self.interfaces.clear();
        Ok(())
    }

    fn add_interface(&mut self, block: &[u8]) -> anyhow::Result<()> {
        let parse = if self.big_endian {
            parse_interfacedescriptionblock_be
        } else {
            parse_interfacedescriptionblock_le
        };
        let Ok((_, description)) = parse(block) else {
            bail!("its interface description cannot be read");
        };
        ensure!(
            self.interfaces.len() < MAX_INTERFACES,
            "it has more than {MAX_INTERFACES} interfaces in a section"
        );
        self.interfaces.push(CaptureInterface {
            link_type: description.linktype.0 as u32,
            snap_len: description.snaplen,
            clock: InterfaceClock::of(&description, self.big_endian),
        });
        Ok(())
    }

    fn interface(&self, id: u32) -> anyhow::Result<&CaptureInterface> {
        self.interfaces.get(id as usize).with_context(|| {
            format!("it names interface {id}, and {} have been described before it", self.interfaces.len())
        })
    }

    /// An enhanced or an old packet block: they differ in how the interface is written. The range counts from the block.
    #[inline]
    fn packet(&self, block: &[u8], interface: u32) -> anyhow::Result<Located> {
        let interface = self.interface(interface)?;
        let units = u64::from(self.u32_at(block, 12)) << 32 | u64::from(self.u32_at(block, 16));
        let captured = self.u32_at(block, 20);
        let room = block.len() - PACKET_DATA - BLOCK_TRAILER;
        ensure!(captured as usize <= room, "it claims a packet of {captured} bytes and has room for {room}");
        Ok(Located {
            timestamp_ns: interface.clock.nanoseconds(units),
            link_type: interface.link_type,
            data: PACKET_DATA..PACKET_DATA + captured as usize,
            wire_len: self.u32_at(block, 24).max(captured),
        })
    }

    /// A simple packet block belongs to the first interface and says its wire length only.
    fn simple_packet(&self, block: &[u8]) -> anyhow::Result<Located> {
        let interface = self.interface(0)?;
        let wire_len = self.u32_at(block, 8);
        let snap_len = if interface.snap_len == 0 { u32::MAX } else { interface.snap_len };
        let captured = wire_len.min(snap_len) as usize;
        let room = block.len() - SIMPLE_PACKET_DATA - BLOCK_TRAILER;
        ensure!(captured <= room, "it claims a packet of {captured} bytes and has room for {room}");
        Ok(Located {
            timestamp_ns: self.last_timestamp_ns,
            link_type: interface.link_type,
            data: SIMPLE_PACKET_DATA..SIMPLE_PACKET_DATA + captured,
            wire_len,
        })
    }

    #[inline]
    fn u32_at(&self, bytes: &[u8], at: usize) -> u32 {
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    #[inline]
    fn u16_at(&self, bytes: &[u8], at: usize) -> u16 {
        let bytes = [bytes[at], bytes[at + 1]];
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }
}

/// How an interface's timestamps become nanoseconds since the Unix epoch.
struct InterfaceClock {
    unit: Unit,
    /// What is added to every timestamp, in nanoseconds.
    offset_ns: i64,
}

/// The length of one unit of time.
#[derive(Debug, PartialEq, Eq)]
enum Unit {
    /// So many nanoseconds.
    Nanoseconds(u64),
    /// A nanosecond divided by so many.
    NanosecondOver(u64),
    /// A second divided by two to this power.
    BinarySecond(u8),
    /// So short that 2^64 of them are less than a nanosecond: every time is zero.
    Vanishing,
}

impl InterfaceClock {
    fn of(description: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Self {
        let offset_s = description
            .options
            .iter()
            .find(|option| option.code == OptionCode::IfTsoffset)
            .and_then(|option| option.as_bytes().ok())
            .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok())
            .map_or(0, if big_endian { i64::from_be_bytes } else { i64::from_le_bytes });
        Self {
            unit: Unit::from_resolution(description.if_tsresol),
            offset_ns: offset_s.saturating_mul(1_000_000_000),
        }
    }

    #[inline]
    fn nanoseconds(&self, units: u64) -> u64 {
        let since = match self.unit {
            Unit::Nanoseconds(length) => units.saturating_mul(length),
            Unit::NanosecondOver(parts) => units / parts,
            // 2^64 units times 1e9 is less than 2^94.
            Unit::BinarySecond(power) => {
                u64::try_from((u128::from(units) * 1_000_000_000) >> power).unwrap_or(u64::MAX)
            }
            Unit::Vanishing => 0,
        };
        since.saturating_add_signed(self.offset_ns).min(LATEST)
    }
}

impl Unit {
    /// From the option `if_tsresol`: a negative power of ten or, with the highest bit, of two.
    fn from_resolution(resolution: u8) -> Self {
        let power = resolution & 0x7f;
        if resolution & 0x80 != 0 {
            return Self::BinarySecond(power);
        }
        match NANO.checked_sub(power) {
            Some(power) => Self::Nanoseconds(10_u64.pow(power.into())),
            None => 10_u64.checked_pow((power - NANO).into()).map_or(Self::Vanishing, Self::NanosecondOver),
        }
    }
}
