//! Reads frames from capture files, one at a time: pcap and pcapng, plain or inside gzip or zstd, from a path or a pipe.
//!
//! The format is told by the first bytes, never by the file's name. Memory is one window over the input, which grows
//! only for a record that does not fit, up to [`MAX_RECORD`]; a length beyond it is a damaged file and is reported with
//! its byte offset. A file that was cut off (a capture killed while writing, a download broken off) is no error: every
//! whole record comes out, and [`CaptureReader::truncated`] says that there was more.
//!
//! The formats' records are parsed by the `pcap-parser` crate, by its functions on slices. Its streaming readers are
//! not used: they cannot tell a damaged length from a file that ends early, and drop the cause of a failed read.

mod pcap;
mod pcapng;
mod pipe;
mod window;

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, bail};

use self::pcap::PcapFormat;
use self::pcapng::PcapNgFormat;
use self::pipe::Pipe;
use self::window::Window;

/// The largest record (header, packet, options) that is believed, in bytes: far above any packet, far below harm.
pub const MAX_RECORD: usize = 16 * 1024 * 1024;

/// Below this many captured bytes a packet is believed even if the file's own snapshot length is smaller: the largest
/// snapshot length that libpcap uses by default, and more than the largest segmentation super-packet of most drivers.
const PLAUSIBLE_PACKET: u32 = 262_144;

/// Bytes read from a compressed file at a time.
const COMPRESSED_CHUNK: usize = 128 * 1024;

/// The latest time of a frame, in the year 2262: what a signed number of nanoseconds holds, as the formats that are written
/// want it. A later time can only be damage, and is taken as this one; the frames after it count as stepped back.
pub const LATEST: u64 = i64::MAX as u64;

/// One frame as it was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureFrame<'a> {
    /// When it was captured, in nanoseconds since the Unix epoch, from 1970 to [`LATEST`]. A record format without a
    /// clock (pcapng's simple packet) carries the time of the frame before it.
    pub timestamp_ns: u64,
    /// What the frame begins with: the number in the file, a libpcap `LINKTYPE_` (some writers put a `DLT_`).
    pub link_type: u32,
    /// The bytes that were captured, from the link layer on.
    pub data: &'a [u8],
    /// Length of the frame on the wire in bytes; never less than `data.len()`, even where the file says so.
    pub wire_len: u32,
}

/// A stream of frames out of one capture.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// # use flowmeter::capture::CaptureReader;
/// let mut capture = CaptureReader::open("traffic.pcapng.gz".as_ref())?;
/// while let Some(frame) = capture.next_frame()? {
///     println!("{} ns: {} bytes", frame.timestamp_ns, frame.wire_len);
/// }
/// # Ok(()) }
/// ```
pub struct CaptureReader {
    name: String,
    window: Window,
    format: Container,
    position: Arc<AtomicU64>,
    size: Option<u64>,
    truncated: bool,
    finished: bool,
}

/// The container the frames lie in, with what has been learned of it so far.
enum Container {
    Pcap(PcapFormat),
    PcapNg(PcapNgFormat),
}

/// Where in the window a frame lies; what a format's parser gives back.
struct Located {
    timestamp_ns: u64,
    link_type: u32,
    data: Range<usize>,
    wire_len: u32,
}

/// What a format's parser came upon.
enum Next {
    /// A frame.
    Frame(Located),
    /// The input ended, between records (`cut` is false) or inside one.
    End {
        /// Whether a record had begun.
        cut: bool,
    },
}

impl CaptureReader {
    /// Opens the capture at `path`; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be opened or read, is empty, or is not a capture.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_until(path, Arc::default())
    }

    /// As [`open`](Self::open). A pipe, which may be silent for long, ends soon after `stop` is set.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_until(path: &Path, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let (name, input) = if path.as_os_str() == "-" {
            // Not io::stdin(), which reads ahead: what it holds back, a pipe's other end does not announce.
            let input = io::stdin().as_fd().try_clone_to_owned().map(File::from);
            ("standard input".to_owned(), input)
        } else {
            (path.display().to_string(), File::open(path))
        };
        let input = input.with_context(|| format!("cannot open the capture {name}"))?;
        let metadata = input.metadata().ok();
        if metadata.as_ref().is_some_and(Metadata::is_dir) {
            bail!("{name} is a directory; name its captures, such as {name}/*.pcap");
        }
        // Only a regular file has a size worth a progress bar; a pipe has none.
        let size = metadata.filter(Metadata::is_file).map(|m| m.len());
        let input: Box<dyn Read + Send> = match size {
            Some(_) => Box::new(input),
            None => Box::new(Pipe { input, stop }),
        };
        let mut reader = Self::from_reader(input, &name)?;
        reader.size = size;
        Ok(reader)
    }

    /// Reads a capture from `input`; `name` stands for it in messages.
    ///
    /// # Errors
    /// `input` cannot be read, is empty, or is not a capture.
    pub fn from_reader(input: Box<dyn Read + Send>, name: &str) -> anyhow::Result<Self> {
        let position = Arc::new(AtomicU64::new(0));
        let input = Box::new(CountedRead { input, count: Arc::clone(&position) });
        let (window, format) =
            Self::recognise(input).with_context(|| format!("cannot read the capture {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            window,
            format,
            position,
            size: None,
            truncated: false,
            finished: false,
        })
    }

    /// The next frame, or `None` at the end (which [`Self::truncated`] may qualify).
    ///
    /// # Errors
    /// The input cannot be read, or what stands there cannot be a record; the message names file and byte offset
    /// (counted after decompression). Nothing can be found behind such a place, so further calls give `None`.
    pub fn next_frame(&mut self) -> anyhow::Result<Option<CaptureFrame<'_>>> {
        if self.finished {
            return Ok(None);
        }
        let step = match &mut self.format {
            Container::Pcap(pcap) => pcap.next(&mut self.window),
            Container::PcapNg(pcapng) => pcapng.next(&mut self.window),
        };
        match step {
            Ok(Next::Frame(at)) => Ok(Some(CaptureFrame {
                timestamp_ns: at.timestamp_ns,
                link_type: at.link_type,
                data: self.window.slice(at.data),
                wire_len: at.wire_len,
            })),
            Ok(Next::End { cut }) => {
                self.finished = true;
                self.truncated = cut || self.window.input_was_cut();
                Ok(None)
            }
            Err(error) => {
                self.finished = true;
                Err(error.context(format!("cannot read on in the capture {}", self.name)))
            }
        }
    }

    /// Whether the input ended inside a record or inside its compression; known once [`Self::next_frame`] gave `None`.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Bytes taken from the file (or pipe) so far, as stored: compressed bytes where it is compressed.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Size of the file in bytes, as stored; `None` for a pipe.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// What was taken otherwise than the file says it, for whoever reads the diagnostics.
    pub fn note(&self) -> Option<&'static str> {
        match &self.format {
            Container::Pcap(pcap) if pcap.is_misnamed() => Some(
                "its header says that times are in microseconds, and fractions of a second reach a million: they are taken \
                 for nanoseconds",
            ),
            _ => None,
        }
    }

    /// What messages call this capture.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn recognise(input: Box<dyn Read + Send>) -> anyhow::Result<(Window, Container)> {
        let mut window = Window::new(input);
        if !window.has(MAGIC_LEN)? && window.is_empty() {
            bail!("it is empty: a capture begins with a file header, even one without packets");
        }
        if let Some(compression) = Compression::of(window.data()) {
            window = Window::new(compression.decoder(window.into_input())?);
            if !window.has(MAGIC_LEN)? && window.is_empty() {
                bail!(
                    "nothing comes out of its {} compression: the file is cut off or empty",
                    compression.name()
                );
            }
        }
        let format = if PcapFormat::recognise(window.data()) {
            Container::Pcap(PcapFormat::open(&mut window)?)
        } else if PcapNgFormat::recognise(window.data()) {
            Container::PcapNg(PcapNgFormat::open(&mut window)?)
        } else {
            bail!(not_a_capture(&mut window)?);
        };
        Ok((window, format))
    }
}

/// The longest magic number that is looked at, in bytes.
const MAGIC_LEN: usize = 4;

/// True if a file that begins so is a capture, or packed like one.
pub fn is_capture(start: &[u8]) -> bool {
    Compression::of(start).is_some() || PcapFormat::recognise(start) || PcapNgFormat::recognise(start)
}

/// How a capture is packed.
#[derive(Clone, Copy)]
enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A skippable frame, with which parallel compressors begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Both decoders go on behind the end of a member, as files put together with `cat` need.
    fn decoder(self, input: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        let input = BufReader::with_capacity(COMPRESSED_CHUNK, input);
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
        })
    }
}

/// Says what an input looks like that no parser takes, and what can be done about it.
fn not_a_capture(window: &mut Window) -> io::Result<String> {
    const LOOK: usize = 16;
    const HINTS: &[(&[u8], &str)] = &[
        (b"snoop\0\0\0", "a snoop capture: convert it with `editcap -F pcap FILE OUT`"),
        (b"GMBU", "a Network Monitor capture: convert it with `editcap -F pcap FILE OUT`"),
        (b"RTSS", "a Network Monitor capture: convert it with `editcap -F pcap FILE OUT`"),
        (b"\xfd7zXZ\0", "packed with xz: unpack it with `unxz` (gzip and zstd are read as they are)"),
        (b"BZh", "packed with bzip2: unpack it with `bunzip2` (gzip and zstd are read as they are)"),
        (b"\x04\x22\x4d\x18", "packed with lz4: unpack it with `unlz4` (gzip and zstd are read as they are)"),
        (b"PK\x03\x04", "a zip archive: unpack it with `unzip`"),
        (b"version https://", "a Git LFS pointer in place of the file: fetch it with `git lfs pull`"),
    ];
    window.has(LOOK)?;
    let start = window.data().get(..LOOK).unwrap_or(window.data());
    let hint = HINTS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, what)| *what);
    Ok(match hint {
        Some(what) => format!("it is no pcap or pcapng file but {what}"),
        None => format!(
            "it is no pcap or pcapng file: it begins with the bytes {}; `capinfos FILE` tells what it is",
            start.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
        ),
    })
}

/// Counts what is read through it, for a progress bar that may look from another place.
struct CountedRead {
    input: Box<dyn Read + Send>,
    count: Arc<AtomicU64>,
}

impl Read for CountedRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
