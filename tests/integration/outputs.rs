//! Promise: all formats hold the same flows with the same values, however many captures are read at
//! once; and what has been read is not lost when a reading is stopped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrow_schema::{DataType, TimeUnit};
use flowmeter::features::{FeatureSet, SETS};
use harness::agent::{binary, pcap_rows, run};
use harness::table::{read_csv, read_parquet};
use harness::{sample_folder, samples};
use serde_json::Value;

/// Runs `flowmeter pcap` over captures into a file.
fn write(captures: &[PathBuf], output: &Path, words: &[&str]) -> Result<()> {
    let mut all: Vec<&OsStr> = vec!["pcap".as_ref(), "--output".as_ref(), output.as_ref()];
    all.extend(words.iter().map(OsStr::new));
    all.extend(captures.iter().map(|path| path.as_os_str()));
    let done = run(&all)?;
    ensure!(done.status.success(), "flowmeter pcap {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Fails unless the cells are equal as numbers or as texts.
fn same_cell(name: &str, one: &str, other: &str) -> Result<()> {
    let equal = match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    };
    ensure!(equal, "{name}: {one} and {other}");
    Ok(())
}

#[test]
fn csv_and_parquet_of_every_set_hold_the_same() -> Result<()> {
    let (folder, samples) = (tempfile::tempdir()?, samples()?);
    for set in SETS {
        let (csv, parquet) = (folder.path().join("flows.csv"), folder.path().join("flows.parquet"));
        write(&samples, &csv, &["--format", "csv", "--set", set.id])?;
        write(&samples, &parquet, &["--format", "parquet", "--set", set.id])?;
        let (columns, typed) = read_parquet(&parquet)?;
        let plain = read_csv(&csv)?;
        let names: Vec<String> = csv::Reader::from_path(&csv)?.headers()?.iter().map(str::to_owned).collect();
        let in_order: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(in_order, names, "{}", set.id);
        for column in set.reference() {
            let kind = columns.iter().find(|(name, _)| name == column.name).map(|(_, kind)| kind);
            let expected = match column.kind {
                "integer" => DataType::Int64,
                "real" => DataType::Float64,
                "text" => DataType::Utf8,
                _ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            };
            assert_eq!(kind, Some(&expected), "{}: {}", set.id, column.name);
        }
        assert_eq!(typed.len(), plain.len(), "{}", set.id);
        assert!(plain.len() > 1000, "{} flows", plain.len());
        for (typed, plain) in typed.iter().zip(&plain) {
            for (name, kind) in &columns {
                if !matches!(kind, DataType::Timestamp(..)) {
                    same_cell(name, &typed[name], &plain[name]).with_context(|| set.id.to_owned())?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn json_lines_hold_what_the_table_holds() -> Result<()> {
    let (folder, samples) = (tempfile::tempdir()?, samples()?);
    let csv = folder.path().join("flows.csv");
    write(&samples, &csv, &["--format", "csv"])?;
    let paths: Vec<&Path> = samples.iter().map(PathBuf::as_path).collect();
    let rows: Vec<Value> =
        pcap_rows(&paths, &["--features"])?.into_iter().filter(|row| row["event"] == "flow").collect();
    let table = read_csv(&csv)?;
    assert_eq!(rows.len(), table.len());
    let set = FeatureSet::find("flowmeter/v1").context("the own set")?;
    for (row, table) in rows.iter().zip(&table) {
        for name in set.names() {
            let number = row["features"][name].as_f64().with_context(|| format!("{name} in {row}"))?;
            same_cell(name, &number.to_string(), &table[name])?;
        }
        for name in ["src_ip", "dst_ip", "end_reason", "verdict", "observed"] {
            assert_eq!(row[name].as_str(), Some(table[name].as_str()), "{name} of {row}");
        }
        // The table has nine digits of the second always, the log as many as there are.
        let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
        assert_eq!(row["timestamp"].as_str().map(time), Some(time(&table["timestamp"])), "{row}");
        for name in ["src_port", "dst_port", "protocol", "score"] {
            same_cell(name, &row[name].to_string(), &table[name])?;
        }
    }
    Ok(())
}

#[test]
fn how_many_captures_are_read_at_once_changes_nothing() -> Result<()> {
    let (folder, samples) = (tempfile::tempdir()?, samples()?);
    let output = |jobs: &str| -> Result<Vec<u8>> {
        let path = folder.path().join(jobs);
        write(&samples, &path, &["--format", "csv", "--jobs", jobs])?;
        Ok(std::fs::read(path)?)
    };
    let one = output("1")?;
    for jobs in ["2", "7"] {
        assert!(output(jobs)? == one, "{jobs} at once give another file than one");
    }
    Ok(())
}

/// `flowmeter pcap -`, with a pipe that stays open.
struct Piped {
    child: Child,
    folder: tempfile::TempDir,
}

impl Piped {
    fn start(words: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut child = Command::new(binary()?)
            .args(["pcap", "-", "--output"])
            .arg(folder.path().join("out"))
            .args(words)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let capture = zstd::decode_all(File::open(sample_folder().join("ntp-clocks.pcap.zst"))?)?;
        let input = child.stdin.as_mut().context("standard input is piped")?;
        input.write_all(&capture)?;
        input.flush()?;
        Ok(Self { child, folder })
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Exit code and what it said; fails if it does not end.
    fn end(&mut self) -> Result<(Option<i32>, String)> {
        let limit = Instant::now() + Duration::from_secs(10);
        while Instant::now() < limit {
            if let Some(status) = self.child.try_wait()? {
                let mut said = String::new();
                self.child.stderr.take().context("standard error is piped")?.read_to_string(&mut said)?;
                return Ok((status.code(), said));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("flowmeter pcap has not ended")
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the sample's capture of clocks has: packets, flows.
const CLOCKS: (usize, usize) = (10, 5);

#[test]
fn the_standard_input_is_read_to_its_end() -> Result<()> {
    let mut piped = Piped::start(&[])?;
    drop(piped.child.stdin.take());
    let (code, said) = piped.end()?;
    assert_eq!(code, Some(0), "{said}");
    let log = std::fs::read_to_string(piped.output())?;
    assert_eq!(log.matches("\"event\":\"flow\"").count(), CLOCKS.1, "{log}");
    Ok(())
}

/// Nothing comes any more, and nobody has closed the pipe: what has come is written all the same.
#[test]
fn a_signal_ends_the_reading_of_a_silent_pipe() -> Result<()> {
    for (signal, format) in [(libc::SIGINT, "jsonl"), (libc::SIGTERM, "parquet")] {
        let mut piped = Piped::start(&["--format", format])?;
        // Time to start; what matters is that the signal comes while it waits for more.
        std::thread::sleep(Duration::from_millis(1500));
        // SAFETY: no pointers; the child has not been waited for.
        let sent = unsafe { libc::kill(piped.child.id() as libc::pid_t, signal) };
        ensure!(sent == 0, "signalling: {}", std::io::Error::last_os_error());
        let (code, said) = piped.end()?;
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains(&format!("seen {} = counted {}", CLOCKS.0, CLOCKS.0)), "{said}");
        let flows = match format {
            "parquet" => read_parquet(&piped.output())?.1.len(),
            _ => std::fs::read_to_string(piped.output())?.matches("\"event\":\"flow\"").count(),
        };
        assert_eq!(flows, CLOCKS.1, "{format}");
    }
    Ok(())
}

#[test]
fn whoever_stops_reading_is_not_told_of_an_error() -> Result<()> {
    for words in [&["pcap", "--format", "csv"][..], &["features", "--set", "flowmeter/v1"]] {
        let mut command = Command::new(binary()?);
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        if words[0] == "pcap" {
            command.args(samples()?);
        }
        let mut child = command.spawn()?;
        drop(child.stdout.take());
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !said.contains("ERROR") && !said.contains("panicked"),
            "{words:?}: {said}"
        );
    }
    Ok(())
}

#[test]
fn a_set_that_there_is_not_is_named_with_those_there_are() -> Result<()> {
    let output = run(&["pcap", "--format", "csv", "--set", "cic/v9", "-"].map(OsStr::new))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("cic/v9") && said.contains("cic-fixed/v1"), "{said}");
    Ok(())
}
