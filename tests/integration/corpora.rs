//! Promise: no capture makes FlowMeter fail, and every packet of one is accounted for. Shown on large collections of
//! captures where they lie beside the repository; its own sample and the formats' tests show it everywhere.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};
use harness::agent::binary;
use harness::corpora::{self, files, unpack};

/// The one capture whose original ends within a packet.
const CUT_IN_THE_ORIGINAL: &str = "MELSEC/melsoft_129_clean.pcap";

/// Reads captures; the agent says what it made of each on standard error.
fn read(captures: &[PathBuf], folder: &Path) -> Result<Output> {
    let words: Vec<OsString> = ["-v", "pcap", "--no-model", "--format", "csv", "--output", "/dev/null"]
        .into_iter()
        .map(OsString::from)
        .chain(captures.iter().map(OsString::from))
        .collect();
    Ok(Command::new(binary()?).args(words).current_dir(folder).stdin(Stdio::null()).output()?)
}

/// Packets seen in each capture, by what was said.
fn seen(said: &str) -> HashMap<&str, u64> {
    said.lines()
        .filter_map(|line| {
            let (start, rest) = line.split_once(": seen ")?;
            let (_, name) = start.split_once("] ")?;
            Some((name, rest.split(' ').next()?.parse().ok()?))
        })
        .collect()
}

/// Captures of other tools' test suites: malformed, tunnelled, of old link types, of all formats.
#[test]
fn odd_captures() -> Result<()> {
    let Some(folder) = unpack("robust")? else { return Ok(()) };
    let captures = files(folder.path())?;
    ensure!(captures.len() > 2000, "the collection has {} captures", captures.len());
    let output = read(&captures, folder.path())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(matches!(output.status.code(), Some(0 | 3)), "{}: {}", output.status, tail(&said));
    ensure!(!said.contains("panicked") && !said.contains("defect"), "{}", tail(&said));
    ensure!(
        seen(&said).len() == captures.len(),
        "{} of {} captures were accounted for",
        seen(&said).len(),
        captures.len()
    );
    // Damage is named with its place, a wrong clock with its packet and both times; there is nothing else to fail for.
    let reasons =
        ["byte offset", "the clock was set at packet ", " is stamped ", "they are taken for nanoseconds"];
    for line in said.lines().filter(|line| line.contains("ERROR")) {
        ensure!(reasons.iter().any(|reason| line.contains(reason)), "{line}");
    }
    Ok(())
}

/// Every capture of a labelled split is read, to its last packet.
#[test]
fn labelled_captures() -> Result<()> {
    let Some(folder) = unpack("val")? else { return Ok(()) };
    let mut manifest = csv::Reader::from_path(corpora::folder().join("manifest.csv"))?;
    let rows: Vec<HashMap<String, String>> = manifest.deserialize().collect::<Result<_, _>>()?;
    let expected: HashMap<PathBuf, u64> = rows
        .iter()
        .filter(|row| row["split"] == "val")
        .map(|row| Ok((folder.path().join("val").join(&row["path"]), row["packets"].parse()?)))
        .collect::<Result<_>>()?;
    let mut captures: Vec<PathBuf> = expected.keys().cloned().collect();
    captures.sort();
    let output = read(&captures, folder.path())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, tail(&said));
    let seen = seen(&said);
    for (path, packets) in &expected {
        let name = path.to_string_lossy();
        // The manifest counts a packet that the original file's end cuts; the collection's file is without it.
        let cut = name.ends_with(CUT_IN_THE_ORIGINAL);
        let found = seen.get(name.as_ref()).map(|seen| seen + u64::from(cut));
        ensure!(found == Some(*packets), "{name}: {packets} packets, seen {found:?}");
    }
    Ok(())
}

/// The end of what was said.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
