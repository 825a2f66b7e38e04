//! Promise: no command writes over what it reads, under whatever name, nor over an earlier result before the new one is whole.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use harness::agent::{binary, run};
use harness::{fixture, sample_folder};

/// Runs `flowmeter` with these words; whether it was content, its exit code, and what it said.
fn flowmeter(words: &[&OsStr]) -> Result<(Option<i32>, String)> {
    let output = run(words)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// The names in a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A capture in a folder of its own.
fn capture(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("capture.pcap");
    fs::copy(fixture("rot_1.pcap"), &path)?;
    Ok(path)
}

#[test]
fn pcap_does_not_write_over_its_capture() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = capture(folder.path())?;
    let (hard, soft) = (folder.path().join("hard"), folder.path().join("soft"));
    fs::hard_link(&capture, &hard)?;
    std::os::unix::fs::symlink(&capture, &soft)?;
    let before = fs::read(&capture)?;
    for output in [&capture, &hard, &soft] {
        for input in [&capture, &soft] {
            let (code, said) = flowmeter(&[
                "pcap".as_ref(),
                "--no-model".as_ref(),
                input.as_ref(),
                "-o".as_ref(),
                output.as_ref(),
            ])?;
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("same file as the input"), "{said}");
            assert!(fs::read(&capture)? == before, "the capture was written over");
        }
    }
    // The shell may have opened it for appending.
    let out = fs::OpenOptions::new().append(true).open(&capture)?;
    let status = Command::new(binary()?)
        .args(["pcap", "--no-model"])
        .arg(&capture)
        .stdout(out)
        .stderr(Stdio::null())
        .status()?;
    assert_eq!(status.code(), Some(1));
    assert!(fs::read(&capture)? == before, "the capture was appended to");
    assert_eq!(names(folder.path())?, ["capture.pcap", "hard", "soft"]);
    Ok(())
}

#[test]
fn pcap_does_not_write_over_its_other_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = capture(folder.path())?;
    let labels = folder.path().join("labels.csv");
    fs::write(&labels, "observed,label\ncapture.pcap,benign\n")?;
    let (code, said) = flowmeter(&[
        "pcap".as_ref(),
        "--no-model".as_ref(),
        capture.as_ref(),
        "--label".as_ref(),
        labels.as_ref(),
        "-o".as_ref(),
        labels.as_ref(),
    ])?;
    assert_eq!(code, Some(1), "{said}");
    assert!(fs::read_to_string(&labels)?.starts_with("observed,label"));
    Ok(())
}

#[test]
fn an_earlier_result_survives_a_mistyped_capture() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = capture(folder.path())?;
    for ending in ["jsonl", "csv", "parquet"] {
        let result = folder.path().join(format!("flows.{ending}"));
        let words = |input: &Path| -> Vec<std::ffi::OsString> {
            ["pcap".into(), "--no-model".into(), input.into(), "-o".into(), result.clone().into()].to_vec()
        };
        let go = |input: &Path| {
            let words = words(input);
            flowmeter(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())
        };
        assert_eq!(go(&capture)?.0, Some(0));
        let before = fs::read(&result)?;
        assert!(!before.is_empty());
        let (code, said) = go(&folder.path().join("typo.pcap"))?;
        assert_eq!(code, Some(1), "{said}");
        assert!(fs::read(&result)? == before, "{ending}: yesterday's result is gone");
        assert!(!names(folder.path())?.iter().any(|name| name.contains("partial")));
    }
    Ok(())
}

#[test]
fn evaluate_and_calibrate_do_not_write_over_what_they_read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (flows, truth) = (folder.path().join("day.jsonl"), folder.path().join("truth.csv"));
    fs::write(
        &flows,
        "{\"event\":\"flow\",\"observed\":\"a\",\"verdict\":\"benign\",\"score\":0.1,\"model\":\"m\"}\n",
    )?;
    fs::write(&truth, "observed,label\na,benign\n")?;
    let before = (fs::read(&flows)?, fs::read(&truth)?);
    for (option, output) in [("--json", &flows), ("--html", &flows), ("--json", &truth)] {
        let (code, said) = flowmeter(&[
            "evaluate".as_ref(),
            flows.as_ref(),
            "--truth".as_ref(),
            truth.as_ref(),
            option.as_ref(),
            output.as_ref(),
        ])?;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("same file as the input"), "{said}");
    }
    for input in [&flows, &sample_folder().join("ntp-clocks.pcap.zst")] {
        let own = folder.path().join("own");
        fs::copy(input, &own)?;
        let (code, said) = flowmeter(&[
            "calibrate".as_ref(),
            own.as_ref(),
            "--rate".as_ref(),
            "0.01".as_ref(),
            "--output".as_ref(),
            own.as_ref(),
        ])?;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("same file as the input"), "{said}");
        assert!(fs::read(&own)? == fs::read(input)?);
    }
    assert!((fs::read(&flows)?, fs::read(&truth)?) == before);
    Ok(())
}
