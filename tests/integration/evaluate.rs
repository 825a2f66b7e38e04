//! Promise: `flowmeter evaluate` calculates what its page says, from every format alike; what it cannot use is counted or
//! named; and its figures are those of the corpus's own judge.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use harness::agent::{binary, run};
use harness::corpora::{self, files, unpack};
use harness::{independent, require_program, sample_folder};
use serde_json::{Value, json};

/// Runs `flowmeter evaluate`.
fn evaluate(words: &[&OsStr]) -> Result<Output> {
    run(&[&["evaluate".as_ref()], words].concat())
}

/// The figures as JSON, and how it ended.
fn figures(words: &[&OsStr]) -> Result<(Value, Option<i32>)> {
    let output = evaluate(&[words, &["--json".as_ref(), "-".as_ref()]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let figures = serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
    Ok((figures, output.status.code()))
}

fn is(found: &Value, expected: f64) -> bool {
    found.as_f64().is_some_and(|found| (found - expected).abs() < 1e-12)
}

/// A flow of the log.
fn flow(source: &str, port: u16, score: f64, verdict: &str, bytes: u64) -> Value {
    json!({"event": "flow", "observed": "/captures/day.pcap", "src_ip": source, "dst_port": port, "protocol": 6,
           "score": score, "verdict": verdict, "bytes": bytes, "packets": 2, "model": "m", "threshold": 0.8})
}

/// Two groups of attacks and one of use, with figures that can be reckoned by hand.
fn log() -> Vec<Value> {
    vec![
        flow("10.0.0.1", 80, 0.9, "malicious", 100),
        flow("10.0.0.1", 80, 0.5, "unknown", 100),
        flow("10.0.0.2", 22, 0.95, "malicious", 100),
        flow("10.0.0.3", 443, 0.85, "malicious", 100),
        flow("10.0.0.3", 443, 0.2, "benign", 500),
        flow("10.0.0.3", 443, 0.3, "benign", 300),
        // Its score would clear it: it is unlike the training.
        flow("10.0.0.3", 443, 0.1, "unknown", 100),
        json!({"event": "stats"}),
        json!({"event": "aggregate", "score": 0.9, "verdict": "malicious"}),
        flow("10.0.0.9", 443, 0.1, "benign", 100),
        json!({"event": "flow", "observed": "day.pcap", "src_ip": "10.0.0.3", "verdict": "none", "score": null}),
    ]
}

const KNOWN: &str = "observed,src_ip,dst_port,label,category
day.pcap,10.0.0.1,,malicious,flood
,10.0.0.2,22,1,guessing
day.pcap,10.0.0.3,,benign,office
";

/// Writes a log and a truth; the paths.
fn written(folder: &Path, rows: &[Value]) -> Result<(PathBuf, PathBuf)> {
    let (log, truth) = (folder.join("flows.jsonl"), folder.join("truth.csv"));
    std::fs::write(&log, rows.iter().map(|row| format!("{row}\n")).collect::<String>())?;
    std::fs::write(&truth, KNOWN)?;
    Ok((log, truth))
}

#[test]
fn a_small_case_by_hand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (log, truth) = written(folder.path(), &log())?;
    let page = folder.path().join("report.html");
    let words = [log.as_os_str(), "--truth".as_ref(), truth.as_os_str(), "--html".as_ref(), page.as_os_str()];
    let (figures, code) = figures(&[&words[..], &["--base-rate", "0.2"].map(OsStr::new)].concat())?;
    assert_eq!(code, Some(0));
    // Groups: flood 1 of 2 called malicious, guessing 1 of 1, office 1 of 4.
    assert!(
        is(&figures["macro_means"]["tpr"], 0.75) && is(&figures["macro_means"]["fpr"], 0.25),
        "{figures:#}"
    );
    assert!(is(&figures["pooled"]["tpr"], 2.0 / 3.0), "{figures:#}");
    assert!(is(&figures["macro_means"]["precision"], 0.15 / (0.15 + 0.2)), "{figures:#}");
    // Weighted by groups: guessing above all, the first of the flood above all, its second above three of four.
    assert!(is(&figures["roc_auc"], 0.5 + 0.25 + 0.25 * 0.75), "{figures:#}");
    let spared = &figures["spared"];
    assert!(is(&spared["as_judged"]["bytes"], 0.8) && is(&spared["as_judged"]["flows"], 0.5), "{spared:#}");
    assert!(is(&spared["as_judged"]["missed"], 0.0), "{spared:#}");
    // No threshold spares more without missing any, since what is unlike the training is never cleared.
    assert!(is(&spared["at_missed"][0][1]["bytes"], 0.8), "{spared:#}");
    let expected = json!({"not_ended": 1, "aggregates": 1, "without_truth": 1, "left_open": 0, "not_scored": 1,
                          "malformed": 0, "damaged": 0});
    assert_eq!(figures["left_out"], expected);
    let page = std::fs::read_to_string(page)?;
    assert!(page.contains("<svg") && page.contains("guessing") && page.contains("prefers-color-scheme"));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
    Ok(())
}

/// Verdicts on living flows: of what came after each, and before the next, benign traffic is spared or malicious missed.
#[test]
fn what_a_prefilter_would_spare() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let row = |event: &str, source: &str, packets: u64, bytes: u64, score: f64, verdict: &str| {
        json!({"event": event, "observed": "day.pcap", "timestamp": "2026-01-01T00:00:00Z", "src_ip": source, "src_port": 4000,
               "dst_ip": "192.0.2.1", "dst_port": 443, "protocol": 6, "packets": packets, "bytes": bytes, "score": score,
               "verdict": verdict, "model": "m"})
    };
    let rows = [
        // Cleared after 8 packets, taken back after 16, cleared again after 32 of 40.
        row("verdict", "10.0.0.1", 8, 800, 0.2, "benign"),
        row("verdict", "10.0.0.2", 8, 100, 0.3, "benign"),
        row("verdict", "10.0.0.1", 16, 1600, 0.6, "unknown"),
        row("verdict", "10.0.0.1", 32, 3200, 0.1, "benign"),
        row("flow", "10.0.0.1", 40, 4000, 0.9, "malicious"),
        // Too short for any verdict while it lived.
        row("flow", "10.0.0.3", 4, 1000, 0.1, "benign"),
        // Malicious: one is seen too late, one in time, one never and too short to be cleared.
        row("verdict", "10.0.0.4", 8, 100, 0.95, "malicious"),
        row("flow", "10.0.0.2", 20, 300, 0.9, "malicious"),
        row("flow", "10.0.0.4", 20, 300, 0.9, "malicious"),
        row("flow", "10.0.0.5", 2, 300, 0.1, "benign"),
        // It has not ended.
        row("verdict", "10.0.0.6", 8, 100, 0.1, "benign"),
    ];
    let (log, truth) = written(folder.path(), &rows)?;
    std::fs::write(&truth, "src_ip,label\n10.0.0.1,benign\n10.0.0.3,benign\n,malicious\n")?;
    let (figures, code) = figures(&[log.as_os_str(), "--truth".as_ref(), truth.as_os_str()])?;
    assert_eq!(code, Some(0));
    let (spared, judged) = (&figures["spared"], &figures["spared"]["as_judged"]);
    assert!(spared["by_checkpoints"] == true && figures["left_out"]["not_ended"] == 1, "{figures:#}");
    assert!(is(&judged["bytes"], 1600.0 / 5000.0) && is(&judged["packets"], 16.0 / 44.0), "{spared:#}");
    assert!(is(&judged["flows"], 0.5) && is(&judged["missed"], 1.0 / 3.0), "{spared:#}");
    assert!(is(&spared["seen_too_late"], 0.5), "{spared:#}");
    // Below 0.3 nothing malicious is cleared, and what came after the verdicts of 0.1 and 0.2 is spared.
    assert!(is(&spared["at_missed"][0][1]["bytes"], 1600.0 / 5000.0), "{spared:#}");
    assert!(is(&spared["at_missed"][0][1]["threshold"], 0.3), "{spared:#}");
    Ok(())
}

/// A capture's checkpoints are those at which the kernel programs tell the agent.
#[test]
fn a_capture_has_its_checkpoints() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let captures: Vec<PathBuf> = files(&sample_folder())?
        .into_iter()
        .filter(|file| file.extension() == Some("zst".as_ref()))
        .collect();
    let log = folder.path().join("log");
    let mut words: Vec<&OsStr> =
        vec!["pcap".as_ref(), "--checkpoints".as_ref(), "--output".as_ref(), log.as_os_str()];
    words.extend(captures.iter().map(|file| file.as_os_str()));
    let output = run(&words)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut living: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut found = 0;
    for line in std::fs::read_to_string(&log)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let columns =
            ["observed", "timestamp", "community_id", "src_ip", "src_port", "dst_ip", "protocol", "vlan"];
        let name = columns.map(|column| row[column].to_string()).join(" ");
        let packets = row["packets"].as_u64().context("packets")?;
        if row["event"] == "verdict" {
            ensure!(row["score"].is_number() && row["stage"] == "checkpoint", "{row}");
            living.entry(name).or_default().push(packets);
            continue;
        }
        let expected: Vec<u64> = (3..).map(|power| 1 << power).take_while(|at| *at <= packets).collect();
        let told = living.remove(&name).unwrap_or_default();
        ensure!(told == expected, "{told:?} of {row}");
        found += told.len();
    }
    ensure!(living.is_empty() && found > 100, "{found} checkpoints, and some of no flow: {living:?}");
    let refused = run(&[
        "pcap".as_ref(),
        "--checkpoints".as_ref(),
        "--format".as_ref(),
        "csv".as_ref(),
        captures[0].as_os_str(),
    ])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("--format jsonl"), "{said}");
    Ok(())
}

#[test]
fn what_cannot_be_used_is_counted_or_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rows = log();
    rows.push(flow("10.0.0.3", 443, 1.5, "benign", 1));
    rows.push(flow("10.0.0.3", 443, 0.5, "evil", 1));
    let (log, truth) = written(folder.path(), &rows)?;
    let whole = std::fs::read_to_string(&log)?;
    std::fs::write(&log, format!("{whole}{{\"event\": \"flow\", \"scor"))?;
    let (figures, code) = figures(&[log.as_os_str(), "--truth".as_ref(), truth.as_os_str()])?;
    assert_eq!(code, Some(3), "what was left out is in the exit code");
    assert_eq!((&figures["left_out"]["malformed"], &figures["left_out"]["damaged"]), (&json!(2), &json!(1)));
    let capture = sample_folder().join("ntp-clocks.pcap.zst");
    let missing = folder.path().join("missing.csv");
    let mixed = folder.path().join("mixed.jsonl");
    let mut other = rows[0].clone();
    other["model"] = json!("other");
    std::fs::write(&mixed, format!("{}\n{other}\n", rows[0]))?;
    let cases: [(&[&OsStr], &str); 5] = [
        (&[log.as_os_str()], "--truth"),
        (&[capture.as_os_str()], "flowmeter pcap"),
        (&[missing.as_os_str()], "missing.csv"),
        (&[log.as_os_str(), "--truth".as_ref(), log.as_os_str()], "no column `label`"),
        (&[mixed.as_os_str(), "--truth".as_ref(), truth.as_os_str()], "m, other"),
    ];
    for (words, expected) in cases {
        let output = evaluate(words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
    }
    Ok(())
}

/// The recorded sample in each format gives the same figures, by a truth beside it and by columns of its own.
#[test]
fn every_format_gives_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let truth = folder.path().join("truth.csv");
    let mut manifest = csv::Reader::from_path(sample_folder().join("manifest.csv"))?;
    let rows: Vec<BTreeMap<String, String>> = manifest.deserialize().collect::<Result<_, _>>()?;
    let lines: Vec<String> =
        rows.iter().map(|row| format!("{},{},{}\n", row["file"], row["label"], row["activity"])).collect();
    std::fs::write(&truth, format!("observed,label,category\n{}", lines.concat()))?;
    let captures: Vec<PathBuf> = rows.iter().map(|row| sample_folder().join(&row["file"])).collect();
    let mut first = None;
    for format in ["jsonl", "csv", "parquet"] {
        let flows = folder.path().join(format);
        let mut words: Vec<&OsStr> = ["pcap", "--format", format, "--output"].map(OsStr::new).to_vec();
        words.push(flows.as_os_str());
        words.extend(captures.iter().map(|path| path.as_os_str()));
        ensure!(run(&words)?.status.success(), "{format}");
        let (mut found, _) = figures(&[flows.as_os_str(), "--truth".as_ref(), truth.as_os_str()])?;
        ensure!(found["flows"].as_u64() > Some(1000), "{found:#}");
        // Only the log has the threshold.
        found["thresholds"] = Value::Null;
        let first = first.get_or_insert_with(|| found.clone());
        assert_eq!(&found, first, "{format}");
        if format == "csv" {
            let own = labelled(&flows, &rows)?;
            let (mut own, _) = figures(&[own.as_os_str()])?;
            own["thresholds"] = Value::Null;
            assert_eq!(&own, first, "labels in the table");
        }
    }
    Ok(())
}

/// A copy of a table with columns label, source and category.
fn labelled(table: &Path, rows: &[BTreeMap<String, String>]) -> Result<PathBuf> {
    let copy = table.with_extension("labelled.csv");
    let mut reader = csv::Reader::from_path(table)?;
    let mut writer = csv::Writer::from_path(&copy)?;
    let mut header = reader.headers()?.clone();
    for name in ["label", "source", "category"] {
        header.push_field(name);
    }
    writer.write_record(&header)?;
    for record in reader.records() {
        let mut record = record?;
        let name = Path::new(&record[0]).file_name().context("a name")?.to_string_lossy().into_owned();
        let row = rows.iter().find(|row| row["file"] == name).context("a row of the manifest")?;
        for text in [&row["label"], &row["file"], &row["activity"]] {
            record.push_field(text);
        }
        writer.write_record(&record)?;
    }
    writer.flush()?;
    Ok(copy)
}

#[test]
fn the_figures_are_those_of_the_corpus_judge() -> Result<()> {
    let judge = corpora::folder().join("score.py");
    if !judge.is_file() || !require_program("python3") {
        return Ok(());
    }
    let Some(folder) = unpack("val")? else { return Ok(()) };
    let (data, result) = (folder.path(), folder.path().join("score.json"));
    let scored = Command::new("python3")
        .arg(&judge)
        .args(["--bin".as_ref(), binary()?.as_os_str(), "--split".as_ref(), "val".as_ref()])
        .args(["--data".as_ref(), data.as_os_str(), "--json".as_ref(), result.as_os_str()])
        .output()?;
    ensure!(scored.status.success(), "{}", String::from_utf8_lossy(&scored.stderr));
    let expected: Value = serde_json::from_slice(&std::fs::read(&result)?)?;

    let root = data.join("val");
    let (flows, truth) = (data.join("flows.jsonl"), data.join("truth.csv"));
    let captures = files(&root)?;
    let mut words: Vec<&OsStr> = vec!["-q".as_ref(), "pcap".as_ref(), "--output".as_ref(), flows.as_os_str()];
    words.extend(captures.iter().map(|path| path.as_os_str()));
    ensure!(run(&words)?.status.success());
    let corpus = corpora::folder();
    let joined = Command::new("python3")
        .args([independent("truth.py").as_path(), corpus.as_path(), &root, &flows, &truth])
        .output()?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let (found, code) = figures(&[flows.as_os_str(), "--truth".as_ref(), truth.as_os_str()])?;
    ensure!(code == Some(0) && found["flows"] == expected["flows"], "{}", found["left_out"]);
    let at = |limit: f64| {
        let rows = found["at_fpr"].as_array().into_iter().flatten();
        rows.into_iter().find(|row| is(&row["fpr"], limit)).map_or(&Value::Null, |row| &row["tpr"])
    };
    let pairs = [
        ("macro_tpr", &found["macro_means"]["tpr"]),
        ("macro_fpr", &found["macro_means"]["fpr"]),
        ("roc_auc", &found["roc_auc"]),
        ("tpr_at_fpr_1e-2", at(1e-2)),
        ("tpr_at_fpr_1e-3", at(1e-3)),
        ("bytes_cleared_as_benign", &found["bytes_called_benign"]),
        ("malicious_flows_cleared", &found["pooled"]["missed"]),
    ];
    for (name, found) in pairs {
        let (found, expected) = (found.as_f64().context(name)?, expected[name].as_f64().context(name)?);
        ensure!((found - expected).abs() < 1e-9, "{name}: {found} here, {expected} there");
    }
    Ok(())
}
