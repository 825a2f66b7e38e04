//! Reads a capture into flows with the library: who talked to whom, how much, and how it ended.
//!
//!     cargo run --example capture_flows -- tests/sample/http-pages.pcap.zst

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use flowmeter::record::Stage;
use flowmeter::source::pcap;

fn main() -> Result<()> {
    let capture = std::env::args_os().nth(1).context("give a capture: capture_flows FILE")?;
    let give = |flow: flowmeter::record::FlowRecord| {
        let Stage::End(why) = flow.stage else { return Ok(()) };
        let (source, destination) = (flow.source(), flow.destination());
        println!(
            "{} {} -> {} {}: {} packets there, {} back, {:.3} s, {}",
            source.address,
            source.port,
            destination.address,
            destination.port,
            flow.forward().packets,
            flow.backward().packets,
            flow.duration() as f64 / 1e9,
            why.name(),
        );
        Ok(())
    };
    let summary =
        pcap::read(Path::new(&capture), &pcap::ReadSettings::default(), &Arc::default(), give, |_| ())?;
    // A damaged capture gives the flows that could be read; the problem says what could not.
    match summary.problem {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}
