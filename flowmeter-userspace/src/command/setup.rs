//! `flowmeter setup`: fetches ONNX Runtime's shared library, proves it, and puts it where it is looked for.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::{NamedTempFile, TempDir};
use zip::ZipArchive;

use crate::cli;
use crate::model::Runtime;
use crate::model::onnxruntime_pin::{
    LIBRARY_FILE, LIBRARY_IN_WHEEL, LIBRARY_SHA256, LIBRARY_SIZE, VERSION, WHEEL_FILE, WHEEL_PLATFORM,
    WHEEL_PYTHON, WHEEL_SHA256, WHEEL_SIZE,
};
use crate::model::runtime::{SYSTEM_FOLDER, present, prove, user_folder, verify};

/// Installs the library, unless a whole one is there.
///
/// # Errors
/// It cannot be fetched, read, proved, written or loaded.
pub fn run(args: &cli::SetupArgs) -> Result<ExitCode> {
    let present = present();
    let asked = args.to.is_some() || args.wheel.is_some() || args.library.is_some();
    let whole = present.as_deref().is_some_and(|path| verify(path).is_ok());
    if let (false, true, Some(path)) = (asked, whole, &present) {
        log::info!("ONNX Runtime {VERSION} is there: {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    // A broken library is replaced where it lies, for it is found first.
    let broken = present.filter(|_| !whole).and_then(|path| path.parent().map(Path::to_owned));
    let folder = match args.to.clone().or(broken) {
        Some(folder) => folder,
        None => default_folder()?,
    };
    let path = folder.join(LIBRARY_FILE);
    if args.to.is_some() && !args.is_offline() && path.is_file() && verify(&path).is_ok() {
        log::info!("ONNX Runtime {VERSION} is there: {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    // A folder that cannot be written to is found before the download, not after it.
    let part = new_file(&folder)?;
    match (&args.library, &args.wheel) {
        (Some(library), _) => {
            let file = File::open(library).with_context(|| format!("cannot open {}", library.display()))?;
            put(file, part, &path).with_context(|| format!("cannot use {}", library.display()))?;
        }
        (None, Some(wheel)) => unpack(wheel, part, &path)?,
        (None, None) => {
            let scratch = TempDir::new().context("cannot make a folder for the download")?;
            unpack(&download(scratch.path())?, part, &path)?;
        }
    }
    Runtime::load(Some(&path))?;
    log::info!("ONNX Runtime {VERSION} is installed: {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Where the library goes by itself: for all users if root asks, else for the user.
fn default_folder() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(SYSTEM_FOLDER));
    }
    user_folder().context("there is no home folder to install into: set HOME, or name a folder with --to")
}

/// An empty file in `folder`, which is made.
fn new_file(folder: &Path) -> Result<NamedTempFile> {
    fs::create_dir_all(folder).and_then(|()| NamedTempFile::new_in(folder)).with_context(|| {
        format!(
            "cannot write into {}: choose another folder with --to, or run this as root",
            folder.display()
        )
    })
}

/// Fetches the pinned wheel into `folder`. pip knows the index, the mirror and the proxy that this machine is to use.
fn download(folder: &Path) -> Result<PathBuf> {
    let other_ways = format!(
        "or fetch {WHEEL_FILE} of the package onnxruntime from the Python package index on another machine, and run \
         `flowmeter setup --wheel FILE` here"
    );
    let pip = || {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "--disable-pip-version-check"]);
        command
    };
    let quiet =
        pip().arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !quiet.is_ok_and(|status| status.success()) {
        bail!(
            "`flowmeter setup` fetches with pip, which is missing: install it (on Debian and Ubuntu: apt install \
             python3-pip), {other_ways}"
        );
    }
    log::info!("fetching ONNX Runtime {VERSION}, {} MB", WHEEL_SIZE / 1_000_000);
    let mut command = pip();
    command.args(["download", "--no-deps", "--only-binary=:all:", "--python-version", WHEEL_PYTHON]);
    command.args(["--platform", WHEEL_PLATFORM, "--dest"]).arg(folder).arg(format!("onnxruntime=={VERSION}"));
    // Its progress is for people: the standard output stays free for data.
    let status =
        command.stdin(Stdio::null()).stdout(io::stderr()).status().context("cannot start python3")?;
    if !status.success() {
        bail!(
            "pip could not fetch ONNX Runtime ({status}; its messages stand above): mend that, {other_ways}"
        );
    }
    Ok(folder.join(WHEEL_FILE))
}

/// Takes the library out of a wheel, both proved.
fn unpack(wheel: &Path, part: NamedTempFile, place: &Path) -> Result<()> {
    let open = || File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()));
    prove(open()?, WHEEL_SIZE, WHEEL_SHA256)
        .with_context(|| format!("{} is not {WHEEL_FILE}", wheel.display()))?;
    let inside = || format!("{} has no {LIBRARY_IN_WHEEL} that can be read", wheel.display());
    let mut archive = ZipArchive::new(open()?).with_context(inside)?;
    put(archive.by_name(LIBRARY_IN_WHEEL).with_context(inside)?, part, place)
}

/// Writes and proves the library, and moves it to its place in one step: an agent that runs keeps the one that it has
/// mapped.
fn put(mut library: impl Read, mut part: NamedTempFile, place: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // A longer file is not the library either; one byte more shows it.
    let length =
        io::copy(&mut library.by_ref().take(LIBRARY_SIZE + 1), &mut part).context("cannot copy it")?;
    ensure!(length == LIBRARY_SIZE, "the library must have {LIBRARY_SIZE} bytes, and this file does not");
    prove(File::open(part.path())?, LIBRARY_SIZE, LIBRARY_SHA256)
        .with_context(|| format!("it is not the {LIBRARY_FILE} that FlowMeter loads"))?;
    let write = || {
        // Everybody may load it; a temporary file is its owner's alone.
        part.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        part.as_file().sync_all()?;
        part.persist(place).map_err(|error| error.error).map(drop)
    };
    write().with_context(|| format!("cannot write {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_the_library_is_refused_and_leaves_the_old_one() -> Result<()> {
        let folder = TempDir::new()?;
        let place = folder.path().join(LIBRARY_FILE);
        fs::write(&place, "old")?;
        for wrong in [&b""[..], b"short"] {
            let error = put(wrong, new_file(folder.path())?, &place).expect_err("not the library");
            assert!(format!("{error:#}").contains("bytes"), "{error:#}");
        }
        // One byte too long, and without an end: it is not read to its end.
        assert!(put(io::repeat(0), new_file(folder.path())?, &place).is_err());
        let zeros = io::repeat(0).take(LIBRARY_SIZE);
        let error = put(zeros, new_file(folder.path())?, &place).expect_err("not the library");
        assert!(format!("{error:#}").contains("SHA-256"), "{error:#}");
        assert_eq!(fs::read(&place)?, b"old");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1, "nothing else is left");
        Ok(())
    }

    #[test]
    fn a_file_that_is_not_the_wheel_is_refused() -> Result<()> {
        let folder = TempDir::new()?;
        let wheel = folder.path().join("wheel.whl");
        fs::write(&wheel, "not a wheel")?;
        let error =
            unpack(&wheel, new_file(folder.path())?, &folder.path().join("library")).expect_err("no wheel");
        assert!(format!("{error:#}").contains(WHEEL_FILE), "{error:#}");
        Ok(())
    }
}
