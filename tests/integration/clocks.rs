//! Promise: a wrong clock costs a capture nothing but that clock's reading: durations, windows and verdicts are those of the
//! traffic, and what was wrong is said once, with the packet and both times.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context as _, Result};
use harness::agent::{pcap_rows, run};
use harness::{fixture, runtime};
use serde_json::Value;

/// Durations of a capture's flows in seconds, and when they began.
fn durations(capture: &Path) -> Result<Vec<(f64, String)>> {
    let rows = pcap_rows(&[capture], &["--no-model"])?;
    let mut durations = Vec::new();
    for row in rows {
        let began = row["timestamp"].as_str().context("a time")?.to_owned();
        durations.push((row["duration"].as_f64().context("a duration")?, began));
    }
    Ok(durations)
}

/// What is said of a capture with `--quiet`.
fn said_quietly(capture: &Path) -> Result<String> {
    let words: [&OsStr; 6] = [
        "pcap".as_ref(),
        "-q".as_ref(),
        "--no-model".as_ref(),
        capture.as_os_str(),
        "-o".as_ref(),
        "/dev/null".as_ref(),
    ];
    Ok(String::from_utf8_lossy(&run(&words)?.stderr).into_owned())
}

#[test]
fn one_packets_leap_is_that_packets_fault() -> Result<()> {
    let capture = fixture("one_future_time.pcap");
    let found = durations(&capture)?;
    assert_eq!(found.iter().map(|(duration, _)| *duration).collect::<Vec<_>>(), [4.5], "{found:?}");
    let said = said_quietly(&capture)?;
    assert_eq!(said.matches("is stamped").count(), 1, "{said}");
    Ok(())
}

#[test]
fn a_step_back_is_a_new_reading() -> Result<()> {
    let capture = fixture("ng_two_sections_overlap.pcapng");
    let found = durations(&capture)?;
    assert_eq!(found.iter().map(|(duration, _)| *duration).collect::<Vec<_>>(), [9.0, 9.0], "{found:?}");
    // Each begins when its own packets say, not when the clock's other reading would have it.
    assert!(found[0].1 != found[1].1, "{found:?}");
    let said = said_quietly(&capture)?;
    assert_eq!(said.matches("the clock was set at packet").count(), 1, "{said}");
    Ok(())
}

/// Everyday traffic with one packet stamped three years ahead: nobody is called malicious for it.
#[test]
fn verdicts_are_those_without_the_wrong_stamp() -> Result<()> {
    if runtime().is_none() {
        return Ok(());
    }
    let capture = fixture("mix_one_wrong_clock.pcap.zst");
    let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
    let rows: Vec<Value> = pcap_rows(&[&capture], &[])?;
    for row in &rows {
        *verdicts.entry(row["verdict"].as_str().context("a verdict")?.to_owned()).or_default() += 1;
    }
    let without_duration = rows.iter().filter(|row| row["duration"] == 0.0 && row["packets"] != 1).count();
    assert!(without_duration * 10 < rows.len(), "{without_duration} of {} flows last no time", rows.len());
    let malicious = verdicts.get("malicious").copied().unwrap_or(0);
    assert!(malicious * 10 < rows.len(), "{verdicts:?}");
    Ok(())
}

#[test]
fn fractions_tell_nanoseconds_from_microseconds() -> Result<()> {
    let capture = fixture("nano_in_micro.pcap");
    let found = durations(&capture)?;
    assert!(found.iter().all(|(duration, _)| *duration < 60.0), "{found:?}");
    assert!(said_quietly(&capture)?.contains("nanoseconds"));
    Ok(())
}
