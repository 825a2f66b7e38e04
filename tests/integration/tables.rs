//! Promise: tables open at the first try: every cell of a column has one form, times have a unit that engines read, the format
//! follows the file's name, and nothing binary reaches a terminal.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use arrow_schema::{DataType, TimeUnit};
use flowmeter::features::{Kind, SETS};
use harness::agent::run;
use harness::table::{read_csv, read_parquet};
use harness::{fixture, samples};

fn pcap(captures: &[PathBuf], output: &Path, words: &[&str]) -> Result<String> {
    let mut all: Vec<&OsStr> = vec!["pcap".as_ref(), "--no-model".as_ref(), "-o".as_ref(), output.as_ref()];
    all.extend(words.iter().map(OsStr::new));
    all.extend(captures.iter().map(|path| path.as_os_str()));
    let done = run(&all)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "flowmeter pcap {words:?}: {said}");
    Ok(said)
}

/// Readers guess a column's type from its first cells.
#[test]
fn a_real_column_is_real_and_a_time_has_nine_digits_in_every_row() -> Result<()> {
    let (folder, samples) = (tempfile::tempdir()?, samples()?);
    let csv = folder.path().join("flows.csv");
    for set in SETS {
        pcap(&samples, &csv, &["--set", set.id])?;
        let rows = read_csv(&csv)?;
        assert!(rows.len() > 1000);
        for row in &rows {
            for feature in set.features() {
                let cell = &row[feature.name];
                let is_real = cell.contains(['.', 'e']);
                assert_eq!(is_real, feature.kind == Kind::Real, "{}: {} is {cell}", set.id, feature.name);
            }
            for column in set.identity.iter().filter(|column| column.kind.name() == "time") {
                let cell = &row[column.name];
                assert_eq!(cell.len(), "2026-01-01T00:00:00.000000000Z".len(), "{}: {cell}", column.name);
            }
        }
    }
    Ok(())
}

#[test]
fn parquet_has_microseconds_unless_nanoseconds_are_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("flows.parquet");
    for (words, unit) in [
        (&[][..], TimeUnit::Microsecond),
        (&["--timestamps", "us"], TimeUnit::Microsecond),
        (&["--timestamps", "ns"], TimeUnit::Nanosecond),
    ] {
        pcap(&[fixture("rot_1.pcap")], &place, words)?;
        let columns = read_parquet(&place)?.0;
        let (_, field) = columns.iter().find(|(name, _)| name == "timestamp").context("the times")?;
        assert_eq!(*field, DataType::Timestamp(unit, Some("UTC".into())), "{words:?}");
    }
    Ok(())
}

#[test]
fn the_format_follows_the_files_ending_unless_it_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = [fixture("rot_1.pcap")];
    let begins = |name: &str, words: &[&str]| -> Result<Vec<u8>> {
        let place = folder.path().join(name);
        pcap(&capture, &place, words)?;
        Ok(fs::read(&place)?[..4].to_vec())
    };
    assert_eq!(begins("flows.csv", &[])?, b"obse");
    assert_eq!(begins("FLOWS.CSV", &[])?, b"obse");
    assert_eq!(begins("flows.parquet", &[])?, b"PAR1");
    assert_eq!(begins("flows.jsonl", &[])?, b"{\"ev");
    assert_eq!(begins("flows", &[])?, b"{\"ev");
    assert_eq!(begins("flows.csv", &["--format", "jsonl"])?, b"{\"ev");
    assert_eq!(begins("flows.txt", &["--format", "parquet"])?, b"PAR1");
    Ok(())
}

#[test]
fn labels_stand_beside_the_flows() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let truth = folder.path().join("truth.csv");
    fs::write(
        &truth,
        "observed,dst_port,label,source,category\nrot_0.pcap,,benign,lab,web\nrot_1.pcap,,malicious,lab,scan\n",
    )?;
    let label = ["--label", truth.to_str().context("a path of text")?];
    let captures = [fixture("rot_0.pcap"), fixture("rot_1.pcap"), fixture("rot_2.pcap")];
    let expected = |observed: &str| match Path::new(observed).file_name().and_then(OsStr::to_str) {
        Some("rot_0.pcap") => ["benign", "lab", "web"],
        Some("rot_1.pcap") => ["malicious", "lab", "scan"],
        _ => ["", "", ""],
    };
    for name in ["flows.csv", "flows.parquet"] {
        for set in ["flowmeter/v2", "cic-fixed/v1"] {
            let place = folder.path().join(name);
            pcap(&captures, &place, &[&label[..], &["--set", set]].concat())?;
            let rows = if name.ends_with("csv") { read_csv(&place)? } else { read_parquet(&place)?.1 };
            assert_eq!(rows.len(), 3);
            for row in rows {
                let found = ["label", "source", "category"].map(|name| row[name].as_str());
                assert_eq!(found, expected(&row["observed"]), "{name} {set}");
            }
        }
    }
    // The log has them, too, so that `evaluate` needs no other file.
    let place = folder.path().join("flows.jsonl");
    pcap(&captures, &place, &label)?;
    let text = fs::read_to_string(&place)?;
    assert!(text.contains(r#""label":"malicious","source":"lab","category":"scan""#), "{text}");
    Ok(())
}

#[test]
fn a_set_without_effect_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (log, csv) = (folder.path().join("flows.jsonl"), folder.path().join("flows.csv"));
    let capture = [fixture("rot_1.pcap")];
    let hint = "--set changes nothing";
    assert!(pcap(&capture, &log, &["--set", "cic-fixed/v1"])?.contains(hint));
    for (place, words) in [
        (&log, &["--set", "cic-fixed/v1", "--features"][..]),
        (&log, &[]),
        (&csv, &["--set", "cic-fixed/v1"]),
    ] {
        assert!(!pcap(&capture, place, words)?.contains(hint), "{words:?}");
    }
    Ok(())
}

/// `script` gives the command a terminal.
#[test]
fn nothing_binary_reaches_a_terminal() -> Result<()> {
    if !harness::require_program("script") {
        return Ok(());
    }
    let binary = harness::agent::binary()?;
    for output in ["-", "/dev/stdout", "/dev/tty"] {
        let command = format!(
            "{} pcap --no-model --format parquet -o {output} {}",
            binary.display(),
            fixture("rot_1.pcap").display()
        );
        let done = std::process::Command::new("script").args(["-qec", &command, "/dev/null"]).output()?;
        let shown = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(done.status.code(), Some(1), "{output}: {shown}");
        assert!(shown.contains("would garble the terminal") && !shown.contains("PAR1"), "{output}: {shown}");
    }
    Ok(())
}
