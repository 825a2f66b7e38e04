//! The files of a package where they will be, under a root of their own.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};

use crate::command::run;
use crate::workspace;

/// The service's unit.
pub const UNIT: &str = "usr/lib/systemd/system/flowmeter.service";
/// Files that belong to the operator once they are installed.
pub const CONFIGURATION: [&str; 2] = ["etc/flowmeter/flowmeter.toml", "etc/logrotate.d/flowmeter"];

/// Files of the repository, and where they go.
const FILES: [(&str, &str); 8] = [
    ("deploy/systemd/flowmeter.service", UNIT),
    ("deploy/systemd/flowmeter.sysusers", "usr/lib/sysusers.d/flowmeter.conf"),
    ("deploy/systemd/flowmeter.tmpfiles", "usr/lib/tmpfiles.d/flowmeter.conf"),
    ("deploy/package/flowmeter.toml", CONFIGURATION[0]),
    ("deploy/package/flowmeter.logrotate", CONFIGURATION[1]),
    ("README.md", "usr/share/doc/flowmeter/README.md"),
    ("CHANGELOG.md", "usr/share/doc/flowmeter/CHANGELOG.md"),
    ("LICENSE", "usr/share/doc/flowmeter/copyright"),
];

/// Puts everything under `root`: the agent and ONNX Runtime's library from `built`, the folder of the release build, and
/// what `agent` prints of itself.
pub fn stage(built: &Path, agent: &Path, root: &Path) -> Result<()> {
    let program = root.join("usr/bin/flowmeter");
    copy(&built.join("flowmeter"), &program, 0o755)?;
    run(Command::new("strip").arg("--strip-unneeded").arg(&program))?;
    let library = library(built)?;
    let name = library.file_name().context("the library has no name")?;
    copy(&library, &root.join("usr/lib/flowmeter").join(name), 0o644)?;
    for (from, to) in FILES {
        copy(&workspace::root().join(from), &root.join(to), 0o644)?;
    }
    // Man pages and completions are the agent's own.
    run(Command::new(agent).args(["--quiet", "manual"]).arg(root))
}

/// ONNX Runtime's library, which `flowmeter setup` has put beside the agent.
pub fn library(built: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(built).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let files = files.with_context(|| format!("cannot list {}", built.display()))?;
    let is_library = |name: &OsStr| name.to_string_lossy().starts_with("libonnxruntime.so.");
    let found: Vec<_> =
        files.iter().filter(|file| is_library(&file.file_name())).map(fs::DirEntry::path).collect();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => {
            bail!("ONNX Runtime's library is not in {}; `cargo xtask setup` puts it there", built.display())
        }
        _ => bail!(
            "several versions of ONNX Runtime's library are in {}; remove the old ones",
            built.display()
        ),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_library_is_found_and_none_or_several_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str| fs::write(folder.path().join(name), "").expect("a file");
        put("flowmeter");
        let problem = library(folder.path()).expect_err("none").to_string();
        assert!(problem.contains("cargo xtask setup"), "{problem}");
        put("libonnxruntime.so.1.2.3");
        assert_eq!(library(folder.path()).expect("one"), folder.path().join("libonnxruntime.so.1.2.3"));
        put("libonnxruntime.so.1.2.4");
        let problem = library(folder.path()).expect_err("two").to_string();
        assert!(problem.contains("several"), "{problem}");
    }
}
