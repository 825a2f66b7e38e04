//! The files of a package where they will be, under a root of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::manual;
use crate::command::run;
use crate::workspace;

#[expect(dead_code, unused_imports, reason = "of the pinned library only the name is asked for")]
#[path = "../../../flowmeter-userspace/src/model/onnxruntime_pin.rs"]
mod onnxruntime_pin;
pub use onnxruntime_pin::LIBRARY_FILE;

/// The service's unit.
pub const UNIT: &str = "usr/lib/systemd/system/flowmeter.service";
/// Files that belong to the operator once they are installed.
pub const CONFIGURATION: [&str; 2] = ["etc/flowmeter/flowmeter.env", "etc/logrotate.d/flowmeter"];

/// Files of the repository, and where they go.
const FILES: [(&str, &str); 8] = [
    ("deploy/systemd/flowmeter.service", UNIT),
    ("deploy/systemd/flowmeter.sysusers", "usr/lib/sysusers.d/flowmeter.conf"),
    ("deploy/systemd/flowmeter.tmpfiles", "usr/lib/tmpfiles.d/flowmeter.conf"),
    ("deploy/package/flowmeter.env", CONFIGURATION[0]),
    ("deploy/package/flowmeter.logrotate", CONFIGURATION[1]),
    ("README.md", "usr/share/doc/flowmeter/README.md"),
    ("CHANGELOG.md", "usr/share/doc/flowmeter/CHANGELOG.md"),
    ("LICENSE", "usr/share/doc/flowmeter/copyright"),
];

/// Puts everything under `root`: the agent and ONNX Runtime's library from `built`, the folder of the release build.
pub fn stage(built: &Path, root: &Path) -> Result<()> {
    let program = root.join("usr/bin/flowmeter");
    copy(&built.join("flowmeter"), &program, 0o755)?;
    run(Command::new("strip").arg("--strip-unneeded").arg(&program))?;
    let library = Path::new("usr/lib/flowmeter").join(LIBRARY_FILE);
    copy(&built.join(LIBRARY_FILE), &root.join(library), 0o644)?;
    for (from, to) in FILES {
        copy(&workspace::root().join(from), &root.join(to), 0o644)?;
    }
    manual::write(root)
}

/// Copies a file with these rights, and makes its folder.
fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let copied = || -> std::io::Result<()> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from, to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(mode))
    };
    copied().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
