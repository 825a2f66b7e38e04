//! Makes what is given to others: a .deb, an .rpm, an archive and a container image with the agent, ONNX Runtime's library,
//! man pages, completions and the service; a bill of materials; and SHA-256 sums of all.

mod deb;
mod oci;
mod rpm;
mod sbom;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::build;
use crate::command::{self, find};
use crate::setup::packages::{self, Program};
use crate::workspace;

/// What builds the packages.
const TOOLS: &[Program] = &[
    Program { name: "dpkg-deb", package: "dpkg", why: "the .deb" },
    Program { name: "rpmbuild", package: "rpm", why: "the .rpm" },
    Program { name: "strip", package: "binutils", why: "the agent without debugging information" },
];

/// Time of all files in the packages, seconds since the Unix epoch, unless SOURCE_DATE_EPOCH says another: the same
/// sources make the same packages.
const EPOCH: &str = "1700000000";

/// What is packed.
#[derive(Args)]
pub struct DistOptions {
    /// Pack what was built in this folder, `flowmeter` and ONNX Runtime's library, instead of building.
    #[arg(long, value_name = "FOLDER")]
    built: Option<PathBuf>,
}

/// Builds everything, unless it is built, and packs it into `target/dist`.
///
/// # Errors
/// Something does not build, or cannot be packed.
pub fn run(options: &DistOptions) -> Result<()> {
    let built = match &options.built {
        Some(folder) => folder.clone(),
        None => {
            build::all()?;
            workspace::target().join("release")
        }
    };
    packages::ensure(TOOLS)?;
    pack(&built, &built.join("flowmeter"), &workspace::target().join("dist"))
}

/// Packs what was built in one folder into another, which is emptied. `agent` prints the man pages.
fn pack(built: &Path, agent: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let root = folder.join("root");
    stage::stage(built, agent, &root)?;
    verify_unit(&root)?;
    let library = stage::library(built)?;
    let bill = sbom::bill(&library, &sum_of(&library)?)?;
    let bill_place = folder.join(format!("flowmeter-{}.cdx.json", version()));
    fs::write(&bill_place, bill).with_context(|| format!("cannot write {}", bill_place.display()))?;
    let image = oci::build(&root, folder)?;
    let made =
        [deb::build(&root, folder)?, rpm::build(&root, folder)?, archive(&root, folder)?, image, bill_place];
    let mut sums = String::new();
    for path in &made {
        let bytes = fs::metadata(path).map_or(0, |about| about.len());
        let sum = sum_of(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        sums.push_str(&format!("{sum}  {name}\n"));
        eprintln!("{} ({:.1} MB)", path.display(), bytes as f64 / 1e6);
    }
    let place = folder.join("SHA256SUMS");
    fs::write(&place, sums).with_context(|| format!("cannot write {}", place.display()))
}

/// A file's SHA-256 sum.
fn sum_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The time that files in packages have.
fn epoch() -> String {
    std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| EPOCH.to_owned())
}

/// The version of what is packed.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Everything under the root, for systems with neither kind of package.
fn archive(root: &Path, folder: &Path) -> Result<PathBuf> {
    let place = folder.join(format!("flowmeter-{}-linux-{}.tar.gz", version(), std::env::consts::ARCH));
    command::run(
        Command::new("tar")
            .args(["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", epoch()))
            .arg("--file")
            .arg(&place)
            .arg("--directory")
            .arg(root)
            .arg("."),
    )?;
    Ok(place)
}

/// Has systemd read the unit, with the program where it was built, if there is systemd.
fn verify_unit(root: &Path) -> Result<()> {
    if find("systemd-analyze").is_none() {
        eprintln!("systemd-analyze is not installed: the unit is not verified");
        return Ok(());
    }
    let unit = fs::read_to_string(root.join(stage::UNIT)).context("cannot read the unit")?;
    let program = root.join("usr/bin/flowmeter");
    // Its man pages are not installed here.
    let unit: String = unit
        .replace("/usr/bin/flowmeter", &program.display().to_string())
        .lines()
        .filter(|line| !line.starts_with("Documentation="))
        .map(|line| format!("{line}\n"))
        .collect();
    let scratch = tempfile::tempdir().context("cannot make a folder for the unit")?;
    let place = scratch.path().join("flowmeter.service");
    fs::write(&place, unit).with_context(|| format!("cannot write {}", place.display()))?;
    command::run(Command::new("systemd-analyze").arg("verify").arg(&place))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::command::output;

    /// A stand-in for the agent is packed: what is in the packages, whose it is, and that a second packing is the same.
    #[test]
    fn packages_hold_what_belongs_in_them_and_are_reproducible() {
        if let Some(missing) = TOOLS.iter().find(|tool| find(tool.name).is_none()) {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is not installed", missing.name);
            eprintln!("NOT RUN: {} is not installed", missing.name);
            return;
        }
        let scratch = tempfile::tempdir().expect("a folder");
        let built = scratch.path().join("built");
        fs::create_dir(&built).expect("a folder");
        fs::copy("/bin/true", built.join("flowmeter")).expect("a program");
        fs::write(built.join("libonnxruntime.so.1.2.3"), "a library").expect("a library");
        // It prints man pages as the agent does.
        let agent = scratch.path().join("agent");
        fs::write(&agent, "#!/bin/sh\nmkdir -p \"$3/usr/share/man/man1\" && echo .TH >\"$3/usr/share/man/man1/flowmeter-live.1\"\n")
            .and_then(|()| fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)))
            .expect("a stand-in");
        let folder = scratch.path().join("dist");
        let sums = || {
            pack(&built, &agent, &folder).expect("packages");
            fs::read_to_string(folder.join("SHA256SUMS")).expect("sums")
        };
        let first = sums();
        assert_eq!(first.lines().count(), 5, "{first}");
        let debian = |sums: &str| sums.lines().find(|line| line.ends_with(".deb")).map(str::to_owned);
        assert_eq!(debian(&first), debian(&sums()), "packed twice");

        let named = |end: &str| {
            let name =
                first.lines().find_map(|line| line.split("  ").nth(1).filter(|name| name.ends_with(end)));
            folder.join(name.expect(end))
        };
        let deb = output(Command::new("dpkg-deb").arg("--contents").arg(named(".deb"))).expect("a .deb");
        let rpm = output(Command::new("rpm").args(["-qlp"]).arg(named(".rpm"))).expect("an .rpm");
        for file in [
            "/usr/bin/flowmeter",
            "/usr/lib/systemd/system/flowmeter.service",
            "/usr/lib/sysusers.d/flowmeter.conf",
            "/usr/share/man/man1/flowmeter-live.1",
            "/etc/flowmeter/flowmeter.toml",
            "/usr/lib/flowmeter/libonnxruntime.so.1.2.3",
        ] {
            assert!(deb.contains(file), "{file} is not in the .deb:\n{deb}");
            assert!(rpm.contains(file), "{file} is not in the .rpm:\n{rpm}");
        }
        assert!(deb.lines().all(|line| line.contains("root/root")), "{deb}");
        let kept = output(Command::new("rpm").args(["-qcp"]).arg(named(".rpm"))).expect("an .rpm");
        assert_eq!(kept.lines().count(), stage::CONFIGURATION.len(), "{kept}");
    }
}
