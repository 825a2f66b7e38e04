//! cargo-fuzz, pinned: builds the fuzz targets with coverage and runs them.

use anyhow::{Result, ensure};

use super::packages;
use crate::command::{self, install};

/// The version that is installed; any other one that is there does as well.
const VERSION: &str = "0.13.1";

/// Finds the command, or installs it.
pub fn ensure() -> Result<()> {
    packages::ensure(packages::FUZZ)?;
    let there = || command::output(command::cargo().args(["fuzz", "--version"])).is_some();
    if there() {
        return Ok(());
    }
    let mut command = command::cargo();
    command.args(["install", "cargo-fuzz", "--version", VERSION, "--locked"]);
    command.env_remove("CARGO_TARGET_DIR");
    install("cargo-fuzz, which builds and runs the fuzz targets", &mut command)?;
    ensure!(there(), "cargo-fuzz {VERSION} was installed, but `cargo fuzz --version` fails");
    Ok(())
}
