//! Promise: the kernel programs and the capture path make the same flows of the same packets, to the last bit of every
//! counter. Shown packet by packet, with the same clock, on fixtures of hard cases, on the recorded sample, and on large
//! collections where they lie beside the repository.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use flowmeter::capture::CaptureReader;
use flowmeter::record::{FlowRecord, Stage};
use flowmeter::source::pcap::flow_table::Flows;
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::flow::Entry;
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::{ParseOptions, link::link_type, network_header, parse_link};
use harness::corpora::{files, unpack};
use harness::programs::Programs;
use harness::test_programs::SHORTEST;
use harness::{fixtures, machine, sample_folder};

/// Flows that a capture may have at once here.
const TABLE: u32 = 1 << 16;

const TIMEOUTS: fn() -> Timeouts = Timeouts::default;

/// What was compared.
#[derive(Default, Debug)]
struct Compared {
    captures: u64,
    packets: u64,
    flows: u64,
    /// Frames shorter than any that an Ethernet interface gives.
    too_short: u64,
    /// Frames of other links without a network header, which have no form on Ethernet.
    without_ethernet: u64,
}

/// Both ways at once.
struct Pair {
    look: ParseOptions,
    programs: Programs,
    compared: Compared,
}

/// The capture path's side of one capture.
struct Capture {
    flows: Flows,
    records: Vec<FlowRecord>,
    now: u64,
    /// True while every frame went both ways just as it was, so that the reasons of skips can be compared.
    unchanged: bool,
}

impl Pair {
    fn new(look: ParseOptions) -> Result<Self> {
        Ok(Self { look, programs: Programs::load(TIMEOUTS(), look, TABLE)?, compared: Compared::default() })
    }

    fn begin(&self) -> Capture {
        Capture { flows: Flows::new(TIMEOUTS()), records: Vec::new(), now: 0, unchanged: true }
    }

    fn packet(
        &mut self,
        capture: &mut Capture,
        link: u32,
        data: &[u8],
        wire_len: usize,
        at: u64,
    ) -> Result<()> {
        let Some((ethernet, wire)) = on_ethernet(link, data, wire_len) else {
            self.compared.without_ethernet += 1;
            return Ok(());
        };
        if ethernet.len() < SHORTEST {
            self.compared.too_short += 1;
            return Ok(());
        }
        capture.now = capture.now.max(at);
        capture.unchanged &= link == link_type::ETHERNET;
        let parsed = parse_link(&SliceFrame::new(data, wire_len), link, self.look);
        let records = &mut capture.records;
        capture.flows.packets(&[(parsed, at)], &mut |entry: &Entry, why| {
            records.push(FlowRecord::of_capture(entry, why));
            Ok(())
        })?;
        self.compared.packets += 1;
        self.programs.packet(&ethernet, capture.now, wire)
    }

    /// Ends a capture, and fails with every difference.
    fn end(&mut self, capture: Capture) -> Result<()> {
        let Capture { flows, mut records, now, unchanged } = capture;
        let totals = flows.finish(&mut |entry: &Entry, why| {
            records.push(FlowRecord::of_capture(entry, why));
            Ok(())
        })?;
        let mut kernel = self.programs.drain(now);
        let counted = self.programs.counted()?;
        ensure!(
            counted.folded == 0,
            "{} packets found no slot: the table is too small for this test",
            counted.folded
        );
        let expected = if unchanged {
            totals.counters
        } else {
            InterfaceCounters { skipped: counted.skipped, ..totals.counters }
        };
        ensure!(counted == expected, "the accounts differ\nkernel  {counted:?}\ncapture {expected:?}");
        ensure!(
            kernel.len() == records.len(),
            "the kernel has {} flows, the capture path {}",
            kernel.len(),
            records.len()
        );
        kernel.sort_by_key(order);
        records.sort_by_key(order);
        for (kernel, capture) in kernel.iter().zip(&records) {
            same(kernel, capture)?;
        }
        self.compared.captures += 1;
        self.compared.flows += records.len() as u64;
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let mut capture = self.begin();
        // What is wrong with a file is another test's matter; what was read before it counts here.
        if let Ok(mut reader) = CaptureReader::open(path) {
            while let Ok(Some(frame)) = reader.next_frame() {
                self.packet(
                    &mut capture,
                    frame.link_type,
                    frame.data,
                    frame.wire_len as usize,
                    frame.timestamp_ns,
                )?;
            }
        }
        self.end(capture).with_context(|| path.display().to_string())
    }
}

/// The frame as an Ethernet interface would have given it, with its length on the wire.
fn on_ethernet(link: u32, data: &[u8], wire_len: usize) -> Option<(Vec<u8>, usize)> {
    let cooked = |protocol: usize, end: usize| {
        let ethertype = data.get(protocol..protocol + 2)?;
        Some(([ethertype[0], ethertype[1]], end))
    };
    let (ethertype, offset) = match link {
        link_type::ETHERNET => return Some((data.to_vec(), wire_len)),
        link_type::LINUX_SLL => cooked(14, 16)?,
        link_type::LINUX_SLL2 => cooked(0, 20)?,
        link_type::C_HDLC => cooked(2, 4)?,
        _ => {
            let (ethertype, offset) = network_header(&SliceFrame::new(data, wire_len), link).ok()?;
            (ethertype.to_be_bytes(), offset)
        }
    };
    let network = data.get(offset..)?;
    let frame = [&[2; 12][..], &ethertype, network].concat();
    Some((frame, wire_len.max(data.len()) - offset + SHORTEST))
}

/// An order that flows of one key have in both ways.
fn order(record: &FlowRecord) -> ([u64; 7], u64, u64) {
    (*record.entry.key.words(), record.entry.state.first(), record.entry.state.packets())
}

/// Every integer, and why it ended.
fn same(kernel: &FlowRecord, capture: &FlowRecord) -> Result<()> {
    let reason = |record: &FlowRecord| match record.stage {
        Stage::End(why) => why.name(),
        Stage::Checkpoint { .. } => "checkpoint",
    };
    let facts =
        |record: &FlowRecord| (record.entry.key, record.entry.initiator, reason(record), record.entry.state);
    ensure!(
        facts(kernel) == facts(capture),
        "a flow differs\nkernel  {:#?}\ncapture {:#?}",
        facts(kernel),
        facts(capture)
    );
    Ok(())
}

#[test]
fn fixtures_of_hard_cases() -> Result<()> {
    let Some(_machine) = machine::shared("kernel and capture path agree") else {
        return Ok(());
    };
    for tunnels in [false, true] {
        let mut pair = Pair::new(ParseOptions { tunnels })?;
        for fixture in fixtures::all() {
            let mut capture = pair.begin();
            for frame in &fixture.frames {
                let (data, wire_len) = (&frame.data, frame.wire_len as usize);
                pair.packet(&mut capture, link_type::ETHERNET, data, wire_len, frame.timestamp_ns)?;
            }
            pair.end(capture).with_context(|| format!("{:?}, tunnels {tunnels}", fixture.name))?;
        }
        ensure!(pair.compared.captures >= 30 && pair.compared.flows > 60, "{:?}", pair.compared);
    }
    Ok(())
}

#[test]
fn recorded_sample() -> Result<()> {
    let Some(_machine) = machine::shared("kernel and capture path agree") else {
        return Ok(());
    };
    let mut pair = Pair::new(ParseOptions::default())?;
    for path in files(&sample_folder())?.iter().filter(|path| path.to_string_lossy().contains(".pcap")) {
        pair.file(path)?;
    }
    ensure!(pair.compared.captures >= 20 && pair.compared.flows > 1000, "{:?}", pair.compared);
    Ok(())
}

#[test]
fn odd_captures() -> Result<()> {
    let Some(_machine) = machine::shared("kernel and capture path agree") else {
        return Ok(());
    };
    let Some(folder) = unpack("robust")? else { return Ok(()) };
    let captures = files(folder.path())?;
    for tunnels in [false, true] {
        let mut pair = Pair::new(ParseOptions { tunnels })?;
        for path in &captures {
            pair.file(path)?;
        }
        println!("tunnels {tunnels}: {:?}", pair.compared);
        ensure!(
            pair.compared.captures == captures.len() as u64 && pair.compared.flows > 10_000,
            "{:?}",
            pair.compared
        );
    }
    Ok(())
}
