//! Environments of Python below target/, and the checks of all Python in the repository.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{self, install, run};
use crate::workspace;

/// Where Python lies; what each folder holds is in ruff.toml and training/pyproject.toml.
const FOLDERS: [&str; 4] = ["training", "tests", "examples", "docs"];
/// What mypy reads: types are checked where they are written.
const TYPED: [&str; 5] = [
    "training",
    "examples",
    "tests/independent/cic_fixed.py",
    "tests/independent/truth.py",
    "tests/models/by_size.py",
];

/// Python with the packages of a requirements file, in an environment of its own: target/NAME.
///
/// # Errors
/// There is no Python, or pip fails.
pub fn environment(name: &str, requirements: &str, what: &str) -> Result<PathBuf> {
    let wanted = workspace::root().join(requirements);
    let text = fs::read_to_string(&wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    let folder = workspace::target().join(name);
    let (python, stamp) = (folder.join("bin/python"), folder.join("requirements.txt"));
    if fs::read_to_string(&stamp).is_ok_and(|present| present == text) {
        return Ok(python);
    }
    if command::find("python3").is_none() {
        bail!("{what} needs python3, 3.11 or newer, with its venv module (Debian: python3-venv)");
    }
    install(
        &format!("an environment of Python for {what}"),
        Command::new("python3").args(["-m", "venv"]).arg(&folder),
    )?;
    install(
        &format!("the packages of {requirements} into it"),
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&wanted),
    )?;
    fs::write(&stamp, text).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// Format, lints and types of all Python.
///
/// # Errors
/// One of them finds something; it has printed what.
pub fn lint() -> Result<()> {
    let python = environment("python-lint", "training/requirements-lint.txt", "checking Python")?;
    let tool = |words: &[&str], paths: &[&str]| {
        let mut command = Command::new(&python);
        run(command.arg("-m").args(words).args(paths).current_dir(workspace::root()))
    };
    tool(&["ruff", "check", "--quiet"], &FOLDERS)?;
    tool(&["ruff", "format", "--quiet", "--check"], &FOLDERS)?;
    tool(&["mypy", "--config-file", "training/pyproject.toml", "--no-error-summary"], &TYPED)
}
