//! ONNX Runtime's shared library beside the release build: the agent's own `setup` fetches it.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::packages;
use crate::command::{self, run};
use crate::workspace;

/// Installs the library beside the agent, which must be built, unless it is there.
///
/// # Errors
/// pip is missing and cannot be installed, or the agent refuses what was fetched.
pub fn ensure() -> Result<()> {
    let agent = workspace::release("flowmeter");
    let folder = agent.parent().unwrap_or(Path::new("."));
    let mut command = Command::new(&agent);
    command.args(["--quiet", "setup", "--to"]).arg(folder);
    // Most often it is there, and nothing is needed.
    if command::output(Command::new("python3").args(["-m", "pip", "--version"])).is_none() {
        packages::apt("pip, with which `flowmeter setup` fetches ONNX Runtime", &["python3", "python3-pip"])?;
    }
    run(&mut command)
}
