//! Finds, checks and loads ONNX Runtime's shared library.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::onnxruntime_pin::{LIBRARY_FILE, LIBRARY_SHA256, LIBRARY_SIZE, VERSION};

/// ONNX Runtime, loaded. There is one for a process.
pub struct Runtime {
    environment: ort::environment::Environment,
    path: PathBuf,
}

impl Runtime {
    /// Loads the library at `path`, or the one found in one of the [`places`].
    ///
    /// A library whose file name is the pinned one must be it, to the byte: one that was cut short would end the
    /// process with a bus error. A library under another name is the operator's own choice, and used with a notice.
    ///
    /// # Errors
    /// It is not there, is not the pinned one, or cannot be loaded.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => find()?,
        };
        if path.file_name().is_some_and(|name| name == LIBRARY_FILE) {
            verify(&path)?;
        } else {
            ensure!(path.is_file(), "there is no file {}", path.display());
            log::warn!("{} is not checked: only {LIBRARY_FILE} is known", path.display());
        }
        let environment = ort::init_from(&path)
            .map_err(|error| anyhow::anyhow!("cannot load {}: {error}", path.display()))?
            .with_telemetry(false)
            .build()
            .map_err(|error| anyhow::anyhow!("ONNX Runtime does not start: {error}"))?;
        Ok(Self { environment, path })
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn environment(&self) -> &ort::environment::Environment {
        &self.environment
    }
}

/// What to do where the library is missing or broken.
const REMEDY: &str = "run `flowmeter setup`, which fetches it";

/// The folders where the library may be, in this order: beside the command, the user's, the system's.
pub fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(folder.to_owned());
        if let Some(above) = folder.parent() {
            // A test's binary lies a folder deeper than the command's.
            places.push(above.to_owned());
            places.push(above.join("lib/flowmeter"));
        }
    }
    places.extend(user_folder());
    places.push(PathBuf::from(SYSTEM_FOLDER));
    places.push(PathBuf::from("/usr/lib/flowmeter"));
    places
}

/// Where an administrator's own additions lie, out of the reach of packages.
pub const SYSTEM_FOLDER: &str = "/usr/local/lib/flowmeter";

/// The user's folder for FlowMeter's data, as the XDG Base Directory Specification has it; None where there is no user.
pub fn user_folder() -> Option<PathBuf> {
    data_folder(std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"))
}

/// The folder of [`user_folder`], from the two variables that it depends on.
fn data_folder(data: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    // The specification: a relative path is to be ignored.
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let data = data.and_then(absolute);
    Some(data.or_else(|| Some(home.and_then(absolute)?.join(".local/share")))?.join("flowmeter"))
}

/// The library's file in the first folder that has one, whether it is whole or not.
pub fn present() -> Option<PathBuf> {
    places().into_iter().map(|place| place.join(LIBRARY_FILE)).find(|path| path.is_file())
}

fn find() -> Result<PathBuf> {
    present().with_context(|| {
        let looked: Vec<String> = places().iter().map(|place| place.display().to_string()).collect();
        format!("ONNX Runtime {VERSION} is not installed: {REMEDY} (looked in {})", looked.join(", "))
    })
}

/// Proves that a file is the pinned library.
///
/// # Errors
/// It cannot be read, or is another one; the message says what to do.
pub fn verify(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    prove(file, LIBRARY_SIZE, LIBRARY_SHA256)
        .with_context(|| format!("{} is not ONNX Runtime {VERSION}: {REMEDY} again", path.display()))
}

/// Proves the size and the hash of what can be read.
///
/// # Errors
/// It cannot be read, or one of them differs.
pub fn prove(mut bytes: impl Read, size: u64, sha256: &str) -> Result<()> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut length = 0;
    loop {
        let count = match bytes.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read it"),
        };
        length += count as u64;
        hash.update(&buffer[..count]);
    }
    ensure!(length == size, "it has {length} bytes instead of {size}");
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == sha256, "its SHA-256 is {found} instead of {sha256}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(prove(&b"abc"[..], 3, ABC).is_ok());
        assert!(prove(&b"ab"[..], 3, ABC).is_err(), "cut short");
        assert!(prove(&b"abx"[..], 3, ABC).is_err(), "changed");
        assert!(prove(&b"abcd"[..], 3, ABC).is_err(), "longer");
    }

    #[test]
    fn the_users_folder_follows_the_specification() {
        let folder = |data: &str, home: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| OsString::from(text));
            data_folder(some(data), some(home))
        };
        assert_eq!(folder("", "/home/ada"), Some("/home/ada/.local/share/flowmeter".into()));
        assert_eq!(folder("/data", "/home/ada"), Some("/data/flowmeter".into()));
        assert_eq!(folder("data", "/home/ada"), Some("/home/ada/.local/share/flowmeter".into()), "relative");
        assert_eq!(folder("/data", ""), Some("/data/flowmeter".into()));
        assert_eq!(folder("", ""), None);
        assert_eq!(folder("", "ada"), None, "relative");
    }
}
