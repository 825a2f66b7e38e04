//! Writes the inputs that fuzzing starts from: the hard cases of the tests, so that none is stored twice.
//!
//! One folder a target, as cargo-fuzz wants it: `frame` and `capture`. The target `flows` starts from nothing; every input
//! is a sequence of packets there.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use harness::replay::{Frame, write_capture};
use harness::{fixtures, sample_folder};

/// What a frame's input starts with: Ethernet, nothing cut off (see `fuzz_targets/frame.rs`).
const WHOLE_ETHERNET: [u8; 2] = [0, 0];

/// Writes the inputs that fuzzing starts from.
#[derive(Parser)]
struct Options {
    /// The folder of corpora, one below it for each target.
    folder: PathBuf,
}

fn main() -> Result<()> {
    let folder = Options::parse().folder;
    let (frame, capture) = (folder.join("frame"), folder.join("capture"));
    for folder in [&frame, &capture, &folder.join("flows")] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    for fixture in fixtures::all() {
        let name = fixture.name.replace([' ', '/'], "-");
        write_capture(&capture.join(format!("{name}.pcap")), &fixture.frames)?;
        for (i, one) in fixture.frames.iter().enumerate() {
            fs::write(frame.join(format!("{name}-{i}")), [&WHOLE_ETHERNET, one.data.as_slice()].concat())?;
        }
    }
    let few: Vec<Frame> = fixtures::all().into_iter().take(4).flat_map(|fixture| fixture.frames).collect();
    write_packed(&capture, &few)?;
    for entry in fs::read_dir(sample_folder())? {
        let path = entry?.path();
        // Small ones only: an input is read thousands of times a second.
        if path.extension().is_some_and(|end| end == "zst") && path.metadata()?.len() < 4096 {
            fs::copy(&path, capture.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

/// The frames as pcapng, and as a compressed pcap.
fn write_packed(folder: &Path, frames: &[Frame]) -> Result<()> {
    fs::write(folder.join("few.pcapng"), pcapng(frames))?;
    let plain = folder.join("few.pcap");
    write_capture(&plain, frames)?;
    let bytes = fs::read(&plain)?;
    let mut gzip = flate2::write::GzEncoder::new(
        fs::File::create(folder.join("few.pcap.gz"))?,
        flate2::Compression::fast(),
    );
    gzip.write_all(&bytes)?;
    gzip.finish()?;
    Ok(())
}

/// A section with two Ethernet interfaces, of microseconds and of nanoseconds, which take turns
/// (draft-ietf-opsawg-pcapng, sections 4.1 to 4.3).
fn pcapng(frames: &[Frame]) -> Vec<u8> {
    /// Resolution of time stamps (`if_tsresol`), as a power of ten.
    const TIME_RESOLUTION: u32 = 9;
    let mut out = Vec::new();
    let mut block = |kind: u32, words: &[u32], data: &[u8]| {
        let padded = data.len().next_multiple_of(4);
        let length = (12 + words.len() * 4 + padded) as u32;
        for word in [kind, length].iter().chain(words) {
            out.extend(word.to_le_bytes());
        }
        out.extend(data);
        out.resize(out.len() + padded - data.len(), 0);
        out.extend(length.to_le_bytes());
    };
    // Byte order, version 1.0, a section of unknown length.
    block(0x0a0d_0d0a, &[0x1a2b_3c4d, 1, u32::MAX, u32::MAX], &[]);
    block(1, &[1, 0], &[]);
    block(1, &[1, 0, 1 << 16 | TIME_RESOLUTION, 9, 0], &[]);
    for (i, frame) in frames.iter().enumerate() {
        let interface = i as u32 & 1;
        let time = if interface == 0 { frame.timestamp_ns / 1000 } else { frame.timestamp_ns };
        let lengths = [frame.data.len() as u32, frame.wire_len];
        block(6, &[interface, (time >> 32) as u32, time as u32, lengths[0], lengths[1]], &frame.data);
    }
    out
}
