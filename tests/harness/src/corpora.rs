//! Large collections of captures, where they lie beside the repository.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// `FLOWMETER_CORPORA`, else the folder beside the repository where collections are kept.
pub fn folder() -> PathBuf {
    match std::env::var_os("FLOWMETER_CORPORA") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
    }
}

/// Unpacks a collection; None if there is none, which is said.
///
/// # Errors
/// It cannot be unpacked.
pub fn unpack(name: &str) -> Result<Option<tempfile::TempDir>> {
    let archive = folder().join(format!("{name}.tar.zst"));
    if !archive.is_file() {
        // Written past the test harness, which keeps the output of passing tests to itself.
        let text = format!("NOT RUN: there is no collection {}\n", archive.display());
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let mut tar = Command::new("tar")
        .args(["-x", "-C"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .context("starting tar")?;
    let mut input = tar.stdin.take().context("standard input is piped")?;
    zstd::stream::copy_decode(File::open(&archive)?, &mut input)
        .with_context(|| format!("unpacking {}", archive.display()))?;
    drop(input);
    ensure!(tar.wait()?.success(), "tar failed on {}", archive.display());
    Ok(Some(folder))
}

/// All files below a folder, by name.
///
/// # Errors
/// A folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}
