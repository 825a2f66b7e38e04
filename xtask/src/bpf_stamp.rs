//! Tells whether the built BPF object still belongs to the sources it was built from.
//!
//! This file is compiled twice: into `xtask`, which writes the stamp beside the object, and into the build script
//! of `flowmeter-userspace`, which refuses an object whose stamp does not match. Times of files would not do: the
//! object is written only when its bytes change, so that userspace is not rebuilt for a comment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The built object, relative to the workspace.
pub const OBJECT: &str = "target/bpf/flowmeter";

/// The same programs and more, for tests and benchmarks; relative to the workspace.
pub const TEST_OBJECT: &str = "target/bpf/flowmeter-test-programs";

/// The fingerprint of the sources that the object was built from, relative to the workspace.
pub const STAMP: &str = "target/bpf/flowmeter.sources";

/// What the object is made of, relative to the workspace.
pub const SOURCES: [&str; 6] = [
    // Versions of dependencies and the profile.
    "Cargo.toml",
    "flowmeter-common/Cargo.toml",
    "flowmeter-common/src",
    "flowmeter-ebpf/Cargo.toml",
    "flowmeter-ebpf/src",
    // How they are compiled.
    "xtask/src/build.rs",
];

/// A fingerprint of the names and contents of all [`SOURCES`].
pub fn fingerprint(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&workspace.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Fnv::default();
    for file in files {
        let name = file.strip_prefix(workspace).unwrap_or(&file);
        hash.field(name.as_os_str().as_encoded_bytes());
        hash.field(&fs::read(&file)?);
    }
    Ok(format!("{:016x}", hash.0))
}

/// Adds `path`, or what lies under it, to `files`. Editors leave other files beside the sources: they do not count.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
        files.push(path.to_owned());
    }
    Ok(())
}

/// FNV-1a: small enough to write out, and the same with every compiler. It guards against forgetting, not against malice.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Takes in one field with its length, so that bytes cannot move from one field to the next unseen.
    fn field(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
