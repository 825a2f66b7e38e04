//! Promise: the programs of `examples/` do what their first lines say.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use harness::agent::{binary, run};
use harness::{example_model, require_program, runtime, sample_folder};

/// A compiled example, which cargo puts below the folder of the binary.
fn example(name: &str) -> Result<PathBuf> {
    let path = binary()?.with_file_name("examples").join(name);
    ensure!(path.is_file(), "there is no {}; cargo test builds it", path.display());
    Ok(path)
}

/// Lines of an output that ended well.
fn lines(output: &Output) -> Result<Vec<&str>> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(std::str::from_utf8(&output.stdout)?.lines().collect())
}

#[test]
fn a_capture_becomes_flows() -> Result<()> {
    let capture = sample_folder().join("ntp-clocks.pcap.zst");
    let output = Command::new(example("capture_flows")?).arg(capture).output()?;
    let lines = lines(&output)?;
    ensure!(
        lines.len() == 5 && lines.iter().all(|line| line.contains(" 123: 1 packets there, 1 back")),
        "{lines:?}"
    );
    Ok(())
}

#[test]
fn flows_are_scored_by_a_model_of_ones_own() -> Result<()> {
    if runtime().is_none() {
        return Ok(());
    }
    let capture = sample_folder().join("scan-syn.pcap.zst");
    let output = Command::new(example("score_flows")?).args([example_model("lightgbm"), capture]).output()?;
    let lines = lines(&output)?;
    let malicious = lines.iter().filter(|line| line.contains(": malicious (")).count();
    ensure!(lines.len() > 50 && malicious * 2 > lines.len(), "{malicious} of {} are malicious", lines.len());
    Ok(())
}

#[test]
fn parquet_is_read_in_python() -> Result<()> {
    if !require_program("python3") || runtime().is_none() {
        return Ok(());
    }
    // Not in CI either: pyarrow is no package of the distribution.
    if !Command::new("python3").args(["-c", "import pyarrow.parquet"]).output()?.status.success() {
        eprintln!("NOT RUN: python3 has no pyarrow");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let table = folder.path().join("flows.parquet");
    let captures = ["scan-syn", "browse"].map(|name| sample_folder().join(format!("{name}.pcap.zst")));
    let mut words = vec![
        "pcap".as_ref(),
        "--format".as_ref(),
        "parquet".as_ref(),
        "--output".as_ref(),
        table.as_os_str(),
    ];
    words.extend(captures.iter().map(|path| path.as_os_str()));
    ensure!(run(&words)?.status.success());
    let script = sample_folder().join("../../examples/flows.py");
    let output = Command::new("python3").arg(script).arg(&table).arg("--bin").arg(binary()?).output()?;
    let lines = lines(&output)?;
    let first =
        lines.iter().find(|line| line.starts_with("malicious: ")).context("a line of malicious flows")?;
    ensure!(
        first.contains(" flows, ") && lines.iter().any(|line| line.contains("standard deviations")),
        "{lines:?}"
    );
    Ok(())
}
