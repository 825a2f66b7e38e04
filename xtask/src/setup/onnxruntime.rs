//! ONNX Runtime's shared library: taken out of its Python wheel, proved by size and SHA-256, laid beside the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::packages;
use crate::command::{self, install, run};
use crate::onnxruntime_pin::{
    LIBRARY_FILE, LIBRARY_IN_WHEEL, LIBRARY_SHA256, LIBRARY_SIZE, VERSION, WHEEL_FILE, WHEEL_PLATFORM,
    WHEEL_PYTHON, WHEEL_SHA256, WHEEL_SIZE,
};
use crate::workspace;

/// Finds the library beside the release build, or fetches it.
pub fn ensure() -> Result<()> {
    let place = workspace::release(LIBRARY_FILE);
    // The agent proves the hash whenever it loads the library; here its size is enough.
    if fs::metadata(&place).is_ok_and(|found| found.len() == LIBRARY_SIZE) {
        return Ok(());
    }
    let pip = ensure_pip()?;
    let scratch = tempfile::tempdir().context("cannot make a folder for the download")?;
    let wheel = download(&pip, scratch.path())?;
    run(Command::new(&pip).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(scratch.path()))?;
    let library = scratch.path().join(LIBRARY_IN_WHEEL);
    let bytes =
        fs::read(&library).with_context(|| format!("the wheel {WHEEL_FILE} has no {LIBRARY_IN_WHEEL}"))?;
    prove(&bytes, LIBRARY_SIZE, LIBRARY_SHA256)
        .with_context(|| format!("{LIBRARY_FILE} is not the pinned one"))?;
    put(&bytes, &place)
}

/// A Python with pip.
fn ensure_pip() -> Result<PathBuf> {
    let has_pip = || {
        let python = command::find("python3")?;
        command::output(Command::new(&python).args(["-m", "pip", "--version"])).map(|_| python)
    };
    if let Some(python) = has_pip() {
        return Ok(python);
    }
    packages::apt(
        "pip, which fetches ONNX Runtime from the Python package index",
        &["python3", "python3-pip"],
    )?;
    has_pip().context("python3 still has no pip; `python3 -m pip --version` says why")
}

/// Fetches the pinned wheel into `folder`; pip knows the mirrors that this machine is to use.
fn download(python: &Path, folder: &Path) -> Result<PathBuf> {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
    command.args(["--python-version", WHEEL_PYTHON, "--platform", WHEEL_PLATFORM, "--dest"]);
    command.arg(folder).arg(format!("onnxruntime=={VERSION}"));
    install(
        &format!(
            "ONNX Runtime {VERSION}, which scores flows ({} MB, into {})",
            WHEEL_SIZE / 1_000_000,
            release_folder()
        ),
        &mut command,
    )?;
    let wheel = folder.join(WHEEL_FILE);
    let bytes = fs::read(&wheel).with_context(|| format!("pip did not fetch {WHEEL_FILE}"))?;
    prove(&bytes, WHEEL_SIZE, WHEEL_SHA256).with_context(|| format!("{WHEEL_FILE} is not the pinned one"))?;
    Ok(wheel)
}

fn release_folder() -> String {
    workspace::target().join("release").display().to_string()
}

fn prove(bytes: &[u8], size: u64, sha256: &str) -> Result<()> {
    ensure!(bytes.len() as u64 == size, "it has {} bytes, not {size}", bytes.len());
    let found: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == sha256, "its SHA-256 is {found}, not {sha256}");
    Ok(())
}

/// Writes a file in one step: an agent that runs keeps the one it has mapped.
fn put(bytes: &[u8], place: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        let part = place.with_extension("part");
        fs::write(&part, bytes)?;
        fs::rename(&part, place)
    };
    write().with_context(|| format!("cannot write {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_or_changed_library_is_refused() {
        const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(prove(b"abc", 3, ABC).is_ok());
        assert!(prove(b"ab", 3, ABC).is_err(), "cut short");
        assert!(prove(b"abd", 3, ABC).is_err(), "changed");
    }
}
