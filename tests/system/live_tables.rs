//! Promise: live tables, CSV and Parquet, hold the flows of the packets that passed, and are whole when the agent is stopped.

use std::sync::atomic::AtomicBool;

use anyhow::{Result, ensure};
use harness::agent::{Agent, Signal};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Oversized, Pace, Sender, read_capture};
use harness::table::{read_csv, read_parquet};
use harness::{machine, sample_folder};

/// What the sample's capture of clocks has: packets, flows.
const CLOCKS: (usize, usize) = (10, 5);

/// The log of an interface in each format: whole when the agent is stopped, and with the flows of the capture.
#[test]
fn live_tables() -> Result<()> {
    let Some(_machine) = machine::shared("tables are written live") else {
        return Ok(());
    };
    let frames = read_capture(&sample_folder().join("ntp-clocks.pcap.zst"))?;
    for format in ["csv", "parquet"] {
        let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
        sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let agent = Agent::start(&watches, &["in"], &log, &["--format", format, "--set", "cic-fixed/v1"])?;
        let sent = sends.run(|| {
            Sender::open("out")?.send(&frames, Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))
        })??;
        watches.wait_received("in", sent)?;
        let outcome = agent.end(Signal::Terminate)?;
        ensure!(outcome.status.success(), "{format}: {}", outcome.said);
        let table = if format == "csv" { read_csv(&log)? } else { read_parquet(&log)?.1 };
        assert_eq!(table.len(), CLOCKS.1, "{format}: {}", outcome.said);
        let packets: usize = table
            .iter()
            .map(|row| {
                Ok(row["Total Fwd Packet"].parse::<usize>()? + row["Total Bwd packets"].parse::<usize>()?)
            })
            .sum::<Result<_>>()?;
        assert_eq!(packets, CLOCKS.0, "{format}");
    }
    Ok(())
}
