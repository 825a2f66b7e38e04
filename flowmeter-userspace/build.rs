//! Tells the agent which commit it is built from, and which kernel programs it embeds: `flowmeter --version` prints both.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Written by `cargo xtask ebpf`, beside the objects.
const MANIFEST: &str = "bpf/manifest.toml";

fn main() {
    println!("cargo::rerun-if-changed={MANIFEST}");
    // A debug build would be compiled again after each commit, for a word that nobody reads there.
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = release.then(commit).flatten();
    println!("cargo::rustc-env=FLOWMETER_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    println!("cargo::rustc-env=FLOWMETER_BPF_SHA256={}", object().as_deref().unwrap_or("unknown"));
}

/// The commit that is checked out; None if the sources do not lie in their own repository.
fn commit() -> Option<String> {
    // Unpacked inside of another repository, its commit would say nothing.
    if git(&["rev-parse", "--show-prefix"])? != "flowmeter-userspace/" {
        return None;
    }
    // The log of HEAD grows by each commit and each checkout.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git prints, or None if it is not there or fails.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The hash of the agent's object: the manifest's first.
fn object() -> Option<String> {
    let manifest = fs::read_to_string(MANIFEST).ok()?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("sha256 = "))?;
    Some(line.trim_matches('"').to_owned())
}
