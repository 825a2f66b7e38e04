//! The package for Fedora, RHEL and their kin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::stage::CONFIGURATION;
use super::{epoch, version};
use crate::command::run;

/// Packs `root` into a package in `folder`.
pub fn build(root: &Path, folder: &Path) -> Result<PathBuf> {
    let work = folder.join("rpm");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let spec = work.join("flowmeter.spec");
    let mut files = Vec::new();
    list(root, root, &mut files).with_context(|| format!("cannot list {}", root.display()))?;
    fs::write(&spec, text(root, &files)).with_context(|| format!("cannot write {}", spec.display()))?;
    let architecture = std::env::consts::ARCH;
    run(Command::new("rpmbuild")
        .args(["-bb", "--quiet", "--target", architecture])
        .args(["--define", &format!("_topdir {}", work.display())])
        .args(["--define", "use_source_date_epoch_as_buildtime 1"])
        .args(["--define", "clamp_mtime_to_source_date_epoch 1"])
        .args(["--define", "_buildhost flowmeter"])
        .arg(&spec)
        .env("SOURCE_DATE_EPOCH", epoch()))?;
    let name = format!("flowmeter-{}-1.{architecture}.rpm", version());
    let (built, place) = (work.join("RPMS").join(architecture).join(&name), folder.join(&name));
    fs::copy(&built, &place).with_context(|| format!("rpmbuild did not make {}", built.display()))?;
    Ok(place)
}

/// How it is packed. Everything is built already.
fn text(root: &Path, files: &[String]) -> String {
    let mut listed = String::new();
    for file in files {
        let is_configuration = CONFIGURATION.iter().any(|path| file == &format!("/{path}"));
        listed.push_str(if is_configuration { "%config(noreplace) " } else { "" });
        listed.push_str(file);
        listed.push('\n');
    }
    format!(
        "Name: flowmeter
Version: {}
Release: 1
Summary: Flow sensor that scores traffic with an ONNX model
License: Apache-2.0 AND MIT
AutoReqProv: no
Requires: glibc >= 2.34, libgcc, libstdc++

%define debug_package %{{nil}}
%define __os_install_post %{{nil}}
%define _build_id_links none

%description
FlowMeter watches network interfaces with eBPF, turns packets into flows, and
scores each flow. It reads headers only. Verdicts go to a log, and on request
to other tools by EVE, conn.log and IPFIX.

%install
mkdir -p %{{buildroot}}
cp --archive {}/. %{{buildroot}}/

%post
if command -v systemd-sysusers >/dev/null; then systemd-sysusers flowmeter.conf; fi
if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create flowmeter.conf; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

%preun
if [ $1 -eq 0 ] && [ -d /run/systemd/system ]; then systemctl --no-reload disable --now flowmeter.service; fi

%postun
if [ $1 -ge 1 ] && [ -d /run/systemd/system ]; then systemctl try-restart flowmeter.service; fi

%files
%defattr(-,root,root,-)
{listed}",
        version(),
        root.display()
    )
}

/// All files below `folder`, as they are named once installed.
fn list(folder: &Path, root: &Path, files: &mut Vec<String>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list(&path, root, files)?;
        } else if let Ok(inside) = path.strip_prefix(root) {
            files.push(format!("/{}", inside.display()));
        }
    }
    Ok(())
}
