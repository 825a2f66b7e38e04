//! Checks spelling and the form of TOML files, by tools from the Python package index.

use anyhow::Result;

use crate::command::{self, run};
use crate::python;
use crate::workspace;

/// Spelling everywhere, and the form of TOML files; typos.toml and taplo.toml say what is right.
///
/// # Errors
/// One of them finds something; it has printed what.
pub fn lint() -> Result<()> {
    let python = python::environment("python-lint", "training/requirements-lint.txt", "checking Python")?;
    let tool = |name: &str| {
        let mut command = std::process::Command::new(python.with_file_name(name));
        command.current_dir(workspace::root());
        command
    };
    run(tool("typos").args(["--format", "brief"]))?;
    // The committed files alone: an environment of Python has TOML files, too.
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "*.toml"]).current_dir(workspace::root());
    let files = command::output(&mut git).unwrap_or_default();
    run(tool("taplo").args(["fmt", "--check"]).args(files.lines()).env("RUST_LOG", "error"))
}
