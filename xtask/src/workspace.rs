//! Where things are.

use std::path::{Path, PathBuf};

/// The repository: the manifest of this crate lies one level below it.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target folder, which settings may have moved: this program lies in target/PROFILE.
pub fn target() -> PathBuf {
    let own = std::env::current_exe().ok();
    own.and_then(|own| own.ancestors().nth(2).map(Path::to_owned)).unwrap_or_else(|| root().join("target"))
}

/// A program of the release build.
pub fn release(name: &str) -> PathBuf {
    target().join("release").join(name)
}
