//! Promise: `flowmeter adapt` makes of a network's own flows a model that keeps the contract and knows the network; it shows
//! what it set aside, and takes the operator's word.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use harness::agent::run;
use harness::sample_folder;
use serde_json::Value;

/// Everyday traffic, and a scan.
fn site() -> Vec<PathBuf> {
    [
        "browse",
        "dns-lookups",
        "http-pages",
        "https-pages",
        "ntp-clocks",
        "api-polling",
        "mqtt-sensors",
        "scan-syn",
    ]
    .iter()
    .map(|name| sample_folder().join(format!("{name}.pcap.zst")))
    .collect()
}

/// Adapts to files; what was printed.
fn adapt(files: &[PathBuf], words: &[&OsStr], output: &Path) -> Result<String> {
    let mut all: Vec<&OsStr> = vec!["adapt".as_ref(), "--output".as_ref(), output.as_os_str()];
    all.extend(words);
    all.extend(files.iter().map(|path| path.as_os_str()));
    let done = run(&all)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

/// Verdicts by a model on a capture: how many flows, how many malicious.
fn judged(model: &Path, capture: &Path) -> Result<(usize, usize)> {
    let done = run(&["pcap".as_ref(), "--model".as_ref(), model.as_os_str(), capture.as_os_str()])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let rows: Vec<Value> =
        String::from_utf8(done.stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let flows: Vec<&Value> = rows.iter().filter(|row| row["event"] == "flow").collect();
    let malicious = flows.iter().filter(|row| row["verdict"] == "malicious").count();
    Ok((flows.len(), malicious))
}

#[test]
fn a_network_becomes_a_model_that_keeps_the_contract_and_shows_what_it_set_aside() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("site.onnx");
    let said = adapt(&site(), &[], &output)?;
    let check = run(&["model".as_ref(), "check".as_ref(), output.as_os_str()])?;
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let aside = said.split("Set aside").nth(1).with_context(|| format!("nothing was set aside: {said}"))?;
    ensure!(aside.contains("because of") && aside.contains("--was-fine"), "{said}");
    ensure!(said.contains("The network is small"), "{said}");
    let (flows, malicious) = judged(&output, &sample_folder().join("browse.pcap.zst"))?;
    ensure!(flows > 10 && malicious == 0, "{malicious} of {flows} flows of a browser are malicious");
    Ok(())
}

#[test]
fn what_was_fine_is_not_set_aside() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (output, fine) = (folder.path().join("site.onnx"), folder.path().join("fine.txt"));
    std::fs::write(&fine, "any # all of it\n")?;
    let said = adapt(&site(), &["--was-fine".as_ref(), fine.as_os_str()], &output)?;
    ensure!(said.contains("Nothing was set aside"), "{said}");
    Ok(())
}

#[test]
fn too_few_flows_are_refused_and_nothing_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("site.onnx");
    let capture = sample_folder().join("ping-some.pcap.zst");
    let done = run(&["adapt".as_ref(), "--output".as_ref(), output.as_os_str(), capture.as_os_str()])?;
    let said = String::from_utf8(done.stderr)?;
    ensure!(!done.status.success() && said.contains("the least to learn from"), "{said}");
    ensure!(!output.exists(), "a file was written all the same");
    Ok(())
}
