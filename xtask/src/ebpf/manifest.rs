//! The record of what the committed objects were built from, and by what.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Where the manifest lies, from the workspace's root.
pub const PATH: &str = "flowmeter-userspace/bpf/manifest.toml";

/// What stands above the fields. The agent's build script reads the first `sha256` for `flowmeter --version`.
const HEAD: &str =
    "# Written by `cargo xtask ebpf`; `cargo xtask ebpf --check` proves it. Not to be edited.\n";

/// What the objects were built from, and by what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What the compiler says of itself.
    pub rustc: String,
    /// What the linker says of itself.
    pub linker: String,
    /// SHA-256 of the sources' code; see [`super::sources`].
    pub sources: String,
    /// The objects, by path from the workspace's root.
    pub objects: BTreeMap<String, Recorded>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// SHA-256 of the file.
    pub sha256: String,
    /// SHA-256 of its code and maps; see [`super::object::code`].
    pub code: String,
}

impl Manifest {
    /// Reads the committed one.
    ///
    /// # Errors
    /// It is not there, or not as [`Self::write`] wrote it.
    pub fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(PATH)).with_context(|| format!("cannot read {PATH}"))?;
        toml::from_str(&text).with_context(|| format!("cannot understand {PATH}"))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        super::write(&root.join(PATH), format!("{HEAD}{}", toml::to_string(self)?).as_bytes())
    }
}
