//! The Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::stage::CONFIGURATION;
use super::{epoch, version};
use crate::command::run;

/// The newest C library that the agent and ONNX Runtime ask for.
const GLIBC: &str = "2.34";
/// After files are there. The service is not started: it needs an interface first.
const AFTER_INSTALL: &str = "#!/bin/sh
set -e
if [ \"$1\" = configure ]; then
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers flowmeter.conf; fi
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create flowmeter.conf; fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl try-restart flowmeter.service
    fi
fi
";
/// Before files go.
const BEFORE_REMOVAL: &str = "#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now flowmeter.service
fi
";

/// Debian's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Packs `root` into a package in `folder`.
pub fn build(root: &Path, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("deb");
    run(Command::new("cp").args(["--archive", "--no-target-directory"]).arg(root).arg(&tree))?;
    let written = || -> std::io::Result<()> {
        let about = tree.join("DEBIAN");
        fs::create_dir(&about)?;
        fs::write(about.join("control"), control(size(root)?))?;
        let kept: String = CONFIGURATION.iter().map(|path| format!("/{path}\n")).collect();
        fs::write(about.join("conffiles"), kept)?;
        for (name, script) in [("postinst", AFTER_INSTALL), ("prerm", BEFORE_REMOVAL)] {
            fs::write(about.join(name), script)?;
            fs::set_permissions(about.join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    };
    written().with_context(|| format!("cannot write below {}", tree.display()))?;
    let place = folder.join(format!("flowmeter_{}_{}.deb", version(), architecture()));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "--build"])
        .arg(&tree)
        .arg(&place)
        .env("SOURCE_DATE_EPOCH", epoch()))?;
    Ok(place)
}

/// What the package says of itself.
fn control(kibibytes: u64) -> String {
    format!(
        "Package: flowmeter
Version: {}
Architecture: {}
Maintainer: The FlowMeter developers <flowmeter@users.noreply.github.com>
Installed-Size: {kibibytes}
Depends: libc6 (>= {GLIBC}), libgcc-s1, libstdc++6
Recommends: systemd, logrotate
Section: net
Priority: optional
Description: flow sensor that scores traffic with an ONNX model
 FlowMeter watches network interfaces with eBPF, turns packets into flows, and
 scores each flow. It reads headers only. Verdicts go to a log, and on request
 to other tools by EVE, conn.log and IPFIX.
",
        version(),
        architecture()
    )
}

/// KiB that the files take, as Debian counts them.
fn size(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { size(&entry.path())? } else { about.len().div_ceil(1024) };
    }
    Ok(sum)
}
