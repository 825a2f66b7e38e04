//! Finds, checks and loads ONNX Runtime's shared library.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::onnxruntime_pin::{LIBRARY_FILE, LIBRARY_SHA256, LIBRARY_SIZE, VERSION};

/// ONNX Runtime, loaded. There is one for a process.
pub struct Runtime {
    environment: ort::environment::Environment,
    path: PathBuf,
}

impl Runtime {
    /// Loads the library at `path`, or the one found beside this binary or where packages put it.
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

/// Where the library may be, in this order.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(folder.to_owned());
        if let Some(above) = folder.parent() {
            // A test's binary lies a folder deeper than the command's.
            places.push(above.to_owned());
            places.push(above.join("lib/flowmeter"));
        }
    }
    places.push(PathBuf::from("/usr/local/lib/flowmeter"));
    places.push(PathBuf::from("/usr/lib/flowmeter"));
    places
}

fn find() -> Result<PathBuf> {
    let places = places();
    match places.iter().map(|place| place.join(LIBRARY_FILE)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => {
            let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            bail!(
                "there is no {LIBRARY_FILE} (ONNX Runtime {VERSION}) in {}; `cargo xtask setup` fetches it, or \
                 --onnxruntime names another place",
                looked.join(", ")
            )
        }
    }
}

/// Proves size and hash.
fn verify(path: &Path) -> Result<()> {
    let wrong = |what: String| {
        format!(
            "{} is not the ONNX Runtime {VERSION} that it should be: {what}; fetch it again with `cargo xtask setup`",
            path.display()
        )
    };
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    ensure!(size == LIBRARY_SIZE, wrong(format!("it has {size} bytes instead of {LIBRARY_SIZE}")));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == LIBRARY_SHA256, wrong("its SHA-256 differs".to_owned()));
    Ok(())
}
