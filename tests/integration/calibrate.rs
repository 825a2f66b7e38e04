//! Promise: `flowmeter calibrate` makes of a network's own flows a file that the agent takes, whether they come as captures or
//! as what it has written; the agent says what is in force, judges by it, and refuses a file of another model.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use harness::agent::{pcap_rows, run};
use harness::sample_folder;
use serde_json::{Value, json};

/// Everyday traffic with a few false alarms, and two attacks.
fn site() -> Vec<PathBuf> {
    [
        "browse",
        "dns-lookups",
        "http-pages",
        "https-pages",
        "ntp-clocks",
        "api-polling",
        "scan-syn",
        "flood-syn",
    ]
    .iter()
    .map(|name| sample_folder().join(format!("{name}.pcap.zst")))
    .collect()
}

/// Calibrates on files; the calibration and what was printed.
fn calibrate(files: &[PathBuf], words: &[&str], output: &Path) -> Result<(Value, String)> {
    let mut all: Vec<&OsStr> = vec!["calibrate".as_ref(), "--output".as_ref(), output.as_os_str()];
    all.extend(words.iter().map(OsStr::new));
    all.extend(files.iter().map(|path| path.as_os_str()));
    let done = run(&all)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let file = serde_json::from_slice(&std::fs::read(output)?)?;
    Ok((file, String::from_utf8(done.stdout)?))
}

/// The set that the built-in model takes.
fn set_of_model(calibration: &Value) -> Result<&str> {
    calibration["feature_set"].as_str().context("the file names its set")
}

#[test]
fn captures_logs_and_tables_give_the_same_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("site.json");
    let (expected, said) = calibrate(&site(), &["--rate", "0.01"], &output)?;
    let site = site();
    let captures: Vec<&Path> = site.iter().map(PathBuf::as_path).collect();
    let flows = pcap_rows(&captures, &[])?.iter().filter(|row| row["event"] == "flow").count();
    ensure!(expected["origin"]["flows"] == json!(flows) && flows > 300, "{flows}: {}", expected["origin"]);
    ensure!(said.contains("flows called malicious") && said.contains("--calibration"), "{said}");
    let set = set_of_model(&expected)?;
    for (format, words) in
        [("jsonl", &["--features"][..]), ("csv", &[]), ("parquet", &["--no-model", "--timestamps", "ns"])]
    {
        let flows = folder.path().join(format);
        let mut all: Vec<&OsStr> =
            ["pcap", "--format", format, "--set", set, "--output"].map(OsStr::new).to_vec();
        all.push(flows.as_os_str());
        all.extend(words.iter().map(OsStr::new));
        all.extend(site.iter().map(|path| path.as_os_str()));
        ensure!(run(&all)?.status.success(), "{format}");
        let (found, _) = calibrate(&[flows], &["--rate", "0.01"], &output)?;
        ensure!(found == expected, "{format}: {found:#} is not {expected:#}");
    }
    Ok(())
}

/// A made-up file decides: its thresholds for each service, and what is normal makes malicious flows unknown, never benign.
#[test]
fn the_agent_judges_by_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("site.json");
    let capture = sample_folder().join("scan-syn.pcap.zst");
    let own = pcap_rows(&[&capture], &[])?;
    let malicious = own.iter().filter(|row| row["verdict"] == "malicious").count();
    ensure!(malicious > 10, "{malicious} of {} flows of a scan are malicious", own.len());
    let (file, _) = calibrate(&site(), &["--alerts-per-day", "5"], &output)?;
    let inputs = file["inputs"].as_array().context("inputs")?.len();
    // What surrounds the scan is one of a few ports that many of its flows go to.
    let port = own.iter().find(|row| row["verdict"] == "malicious").context("one")?["dst_port"].clone();
    let judged = |services: Value, threshold: f64| -> Result<Vec<Value>> {
        let mut file = file.clone();
        file["services"] = services;
        file["malicious"] = json!(threshold);
        file["benign"] = json!(0.0);
        std::fs::write(&output, file.to_string())?;
        pcap_rows(&[&capture], &["--calibration", &output.to_string_lossy()])
    };
    let everything = vec![json!([-3.0e38, 3.0e38]); inputs];
    let found = judged(json!([{"protocol": 6, "port": port, "normal": everything}]), 0.01)?;
    for (row, before) in found.iter().zip(&own) {
        ensure!(row["score"] == before["score"] && row["threshold"] == json!(0.01), "{row}");
        let expected = match before["verdict"].as_str() {
            // Unlike the training; that stays.
            _ if row["dst_port"] == port && row["protocol"] == 6 => "unknown",
            Some("malicious") => "malicious",
            _ => continue,
        };
        ensure!(row["verdict"] == expected, "{row}");
    }
    let found = judged(json!([{"protocol": 6, "port": port, "malicious": 1.0}]), 0.01)?;
    let there: Vec<&Value> =
        found.iter().filter(|row| row["dst_port"] == port && row["protocol"] == 6).collect();
    ensure!(!there.is_empty());
    for row in there {
        ensure!(row["threshold"] == json!(1.0) && row["verdict"] != "malicious", "{row}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("site.json");
    let (file, _) = calibrate(&site(), &["--rate", "0.01"], &output)?;
    let capture = sample_folder().join("ntp-clocks.pcap.zst");
    let changed = |name: &str, value: Value| -> Result<PathBuf> {
        let mut file = file.clone();
        file[name] = value;
        let path = folder.path().join(format!("{name}.json"));
        std::fs::write(&path, file.to_string())?;
        Ok(path)
    };
    let cases = [
        (changed("model", json!("other"))?, "it was made for other on"),
        (changed("golden_score", json!(0.123))?, "another model with the same name"),
        (changed("inputs", json!(["duration"]))?, "another model with the same name"),
        (changed("calibration", json!(9))?, "its version is 9"),
        (changed("malicious", json!(-1.0))?, "invalid threshold -1"),
        (capture.clone(), "cannot read the calibration"),
        (folder.path().join("missing.json"), "missing.json"),
    ];
    for (path, expected) in cases {
        let done = run(&["pcap".as_ref(), "--calibration".as_ref(), path.as_os_str(), capture.as_os_str()])?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(!done.status.success() && said.contains(expected), "{}: {said}", path.display());
    }
    let done = run(&["pcap".as_ref(), "--calibration".as_ref(), output.as_os_str(), capture.as_os_str()])?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && said.contains("calibrated on"), "{said}");
    // A log without features says how to write one with them; a budget must be said.
    let log = folder.path().join("flows.jsonl");
    ensure!(run(&["pcap".as_ref(), "-o".as_ref(), log.as_os_str(), capture.as_os_str()])?.status.success());
    let words = ["calibrate".as_ref(), log.as_os_str(), "-o".as_ref(), output.as_os_str()];
    let done = run(&[&words[..], &["--rate", "0.01"].map(OsStr::new)].concat())?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(!done.status.success() && said.contains("--features"), "{said}");
    ensure!(run(&words)?.status.code() == Some(2));
    Ok(())
}
