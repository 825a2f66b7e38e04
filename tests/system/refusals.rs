//! Promise: what cannot work is refused with one clear sentence and a non-zero exit, and nothing stays attached.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};
use harness::agent::binary;
use harness::machine;
use harness::netns::{Chatter, Namespace, Offload};

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

fn place() -> Result<(Namespace, Namespace)> {
    let (peer, watches) = (Namespace::new("peer")?, Namespace::new("watches")?);
    peer.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    Ok((peer, watches))
}

/// Runs FlowMeter in a namespace with a time limit, so that one that does not refuse is no endless test.
fn run(watches: &Namespace, words: &[&str]) -> Result<Output> {
    Ok(watches.command("timeout").arg("60").arg(binary()?).args(words).stdin(Stdio::null()).output()?)
}

/// Fails unless the program said no, in words that contain all of `parts`, and left nothing behind.
fn refused(watches: &Namespace, output: &Output, parts: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it was not refused; it said:\n{said}");
    ensure!(output.status.code() != Some(124), "it ran on until the time limit; it said:\n{said}");
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
    for part in parts {
        ensure!(last.contains(part), "the last line should name `{part}`; it said:\n{said}");
    }
    ensure!(!said.contains("panicked"), "a panic is no refusal:\n{said}");
    ensure!(!watches.has_xdp("in")?, "the XDP program is still attached");
    ensure!(watches.tcx_egress_programs("in")? == 0, "the TCX program is still attached");
    Ok(())
}

#[test]
fn missing_interface() -> Result<()> {
    let Some(_machine) = machine::shared("a missing interface is refused") else {
        return Ok(());
    };
    let (_peer, watches) = place()?;
    refused(&watches, &run(&watches, &["live", "--interface", "no-such0"])?, &["no-such0"])
}

/// The first interface is there: whatever was done to it is undone.
#[test]
fn second_interface_missing() -> Result<()> {
    let Some(_machine) = machine::shared("a missing second interface is refused") else {
        return Ok(());
    };
    let (_peer, watches) = place()?;
    refused(
        &watches,
        &run(&watches, &["live", "--interface", "in", "--interface", "no-such0"])?,
        &["no-such0"],
    )
}

#[test]
fn bad_model_files() -> Result<()> {
    let Some(_machine) = machine::shared("a bad model file is refused") else {
        return Ok(());
    };
    let (_peer, watches) = place()?;
    let folder = tempfile::tempdir()?;
    for (name, content) in
        [("text.onnx", &b"this is no model"[..]), ("empty.onnx", b""), ("missing.onnx", b"")]
    {
        let path = folder.path().join(name);
        if name != "missing.onnx" {
            std::fs::write(&path, content)?;
        }
        let model = path.to_string_lossy();
        refused(&watches, &run(&watches, &["live", "--interface", "in", "--model", &model])?, &[name])?;
    }
    Ok(())
}

#[test]
fn log_that_cannot_be_written() -> Result<()> {
    let Some(_machine) = machine::shared("a log that cannot be written is refused") else {
        return Ok(());
    };
    let (_peer, watches) = place()?;
    let output = run(&watches, &["live", "--interface", "in", "--log", "/nonexistent-folder/log"])?;
    refused(&watches, &output, &["/nonexistent-folder/log"])
}

#[test]
fn no_privilege() -> Result<()> {
    let Some(_machine) = machine::shared("a user without privilege is refused") else {
        return Ok(());
    };
    let (_peer, watches) = place()?;
    // The build may lie where nobody may read; a link into a folder of its own would not help, a copy does.
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("flowmeter");
    std::fs::copy(binary()?, &copy)?;
    for path in [folder.path(), copy.as_path()] {
        open_to_all(path)?;
    }
    // The child of a thread is in the thread's namespace; a `ip netns exec` would itself need root.
    let output = watches.run(|| {
        Command::new("timeout")
            .arg("15")
            .arg(&copy)
            .args(["live", "--interface", "in"])
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .stdin(Stdio::null())
            .output()
    })??;
    refused(&watches, &output, &["CAP_"])
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}
