//! Promise: every column of `cic-fixed/v1` is what its definition says, and packets and bytes are those that tshark counts.
//! Shown by a slow recomputation in Python from tshark's fields, which shares no code with FlowMeter.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::corpora::{files, unpack};
use harness::replay::write_capture;
use harness::{agent, fixtures, independent, require_program, sample_folder};

/// Fixtures that tshark sees otherwise, and why.
const OTHERWISE: [(&str, &str); 8] = [
    ("three tags", "tshark follows any number"),
    ("authentication header", "the script does not follow it"),
    ("extension headers, none to more", "tshark follows any number"),
    ("cut after each of their bytes", "tshark gives what fields there are"),
    ("tunnels of all kinds", "the script looks at the outer header only, in some"),
    ("MPLS labels", "tshark guesses at what is not IP"),
    ("headers that contradict", "tshark gives what fields there are"),
    ("ESP is a protocol", "tshark looks into what is not encrypted"),
];

/// Runs both checks on a capture; returns how many values of features and sums of conversations were compared.
fn check(capture: &Path, folder: &Path) -> Result<[u64; 2]> {
    let mut compared = [0; 2];
    let checks = [("cic-fixed/v1", " values", &[][..]), ("flowmeter/v1", " sums", &["--conversations"][..])];
    for ((set, what, words), compared) in checks.into_iter().zip(&mut compared) {
        let table = folder.join("flows.csv");
        let words_of_agent = ["-q", "pcap", "--no-model", "--format", "csv", "--set", set, "--output"];
        let mut all: Vec<&OsStr> = words_of_agent.iter().map(OsStr::new).collect();
        all.extend([table.as_os_str(), capture.as_os_str()]);
        let metered = agent::run(&all)?;
        ensure!(metered.status.success(), "{}", String::from_utf8_lossy(&metered.stderr));
        let checked = Command::new("python3")
            .arg(independent("cic_fixed.py"))
            .args(words)
            .arg(capture)
            .arg(&table)
            .output()?;
        ensure!(
            checked.status.success(),
            "{} {set}:\n{}{}",
            capture.display(),
            String::from_utf8_lossy(&checked.stdout),
            String::from_utf8_lossy(&checked.stderr)
        );
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        let number = said.split(what).next().and_then(|before| before.rsplit(' ').next());
        *compared = number.and_then(|n| n.parse().ok()).with_context(|| said.clone())?;
    }
    Ok(compared)
}

#[test]
fn recorded_sample() -> Result<()> {
    if !require_program("tshark") || !require_program("python3") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (mut checked, mut compared) = (0, [0; 2]);
    for path in files(&sample_folder())?.iter().filter(|path| path.to_string_lossy().ends_with(".pcap.zst")) {
        // tshark reads no zstd.
        let plain = folder.path().join("plain.pcap");
        zstd::stream::copy_decode(std::fs::File::open(path)?, std::fs::File::create(&plain)?)?;
        let [values, sums] = check(&plain, folder.path()).with_context(|| path.display().to_string())?;
        compared = [compared[0] + values, compared[1] + sums];
        checked += 1;
    }
    ensure!(checked >= 20 && compared[0] > 100_000 && compared[1] > 1000, "{checked} captures, {compared:?}");
    Ok(())
}

#[test]
fn hard_cases() -> Result<()> {
    if !require_program("tshark") || !require_program("python3") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut all = Vec::new();
    let mut checked = 0;
    for fixture in fixtures::all() {
        if OTHERWISE.iter().any(|(name, _)| fixture.name.contains(name)) {
            continue;
        }
        checked += 1;
        let capture = folder.path().join("fixture.pcap");
        write_capture(&capture, &fixture.frames)?;
        if let Err(error) = check(&capture, folder.path()) {
            all.push(format!("{}: {error:#}", fixture.name));
        }
    }
    ensure!(all.is_empty() && checked >= 20, "{checked} fixtures, of which differ:\n{}", all.join("\n"));
    Ok(())
}

#[test]
fn labelled_captures() -> Result<()> {
    if !require_program("tshark") || !require_program("python3") {
        return Ok(());
    }
    let Some(folder) = unpack("val")? else { return Ok(()) };
    let own = tempfile::tempdir()?;
    let size = |path: &PathBuf| path.metadata().map_or(0, |m| m.len());
    let chosen: Vec<PathBuf> = files(folder.path())?
        .into_iter()
        .filter(|path| (20_000..2_000_000).contains(&size(path)))
        .step_by(5)
        .collect();
    ensure!(chosen.len() >= 10, "{} captures", chosen.len());
    for capture in &chosen {
        check(capture, own.path())?;
    }
    Ok(())
}
