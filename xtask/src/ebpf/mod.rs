//! `cargo xtask ebpf`: builds the kernel programs, which are committed, so that plain cargo needs no tools to embed them.
//!
//! Reading order: [`compile`] runs the compiler, [`object`] reads and compares what it made, [`sources`] hashes what it
//! was made of, [`manifest`] is the record of both that is committed beside the objects.

mod compile;
mod manifest;
mod object;
mod sources;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use sha2::{Digest as _, Sha256};

pub use compile::cargo;
use manifest::{Manifest, Recorded};

use crate::setup::{self, EbpfTools};
use crate::workspace;

/// What mends an object that does not belong to its sources.
const MEND: &str = "run `cargo xtask ebpf`, and commit what it wrote";

/// An object that is committed.
struct Committed {
    /// Where it lies, from the workspace's root.
    path: &'static str,
    /// What cargo is told beside the package.
    words: &'static [&'static str],
}

/// The objects: the one that the agent embeds, and the same programs and more for tests and benchmarks.
const OBJECTS: [Committed; 2] = [
    Committed { path: "flowmeter-userspace/bpf/flowmeter.bpf.o", words: &["--features", "bpf"] },
    Committed { path: "tests/bpf/test_programs.bpf.o", words: &["--features", "test-programs"] },
];

/// What is done with the committed objects.
#[derive(Args)]
pub struct EbpfOptions {
    /// Write nothing: build, compare with what is committed, and fail when code or maps differ.
    #[arg(long)]
    pub check: bool,
}

/// Builds the committed objects, or checks them.
///
/// # Errors
/// A tool is missing, the programs do not compile, or what is committed is stale.
pub fn run(options: &EbpfOptions) -> Result<()> {
    if options.check { check() } else { rebuild() }
}

/// Builds the objects, unless they are those of the sources and the tools that are here.
fn rebuild() -> Result<()> {
    let root = workspace::root();
    let tools = setup::ebpf()?;
    let (rustc, linker) = tools.versions()?;
    let sources = sources::hash(root)?;
    let old = Manifest::read(root).ok();
    let fresh = |old: &Manifest| {
        let made_here = (&old.rustc, &old.linker, &old.sources) == (&rustc, &linker, &sources);
        made_here && OBJECTS.iter().all(|object| object.is_recorded(root, old))
    };
    if old.as_ref().is_some_and(fresh) {
        eprintln!("The committed objects are those of the sources.");
        return Ok(());
    }
    let mut objects = BTreeMap::new();
    for object in &OBJECTS {
        let built = object.build(&tools)?;
        let code = object::code(&built)?;
        let recorded = old.as_ref().and_then(|old| old.objects.get(object.path));
        let same_code = recorded.is_some_and(|recorded| recorded.code == code);
        if same_code && old.as_ref().is_some_and(|old| object.is_recorded(root, old)) {
            // Nothing but line information changed: the committed bytes stay, and history does not grow.
            eprintln!("{}: the same code", object.path);
            objects.extend(recorded.map(|recorded| (object.path.to_owned(), recorded.clone())));
            continue;
        }
        write(&root.join(object.path), &built)?;
        eprintln!("{}: written, {} bytes", object.path, built.len());
        objects.insert(object.path.to_owned(), Recorded { sha256: sha256(&built), code });
    }
    Manifest { rustc, linker, sources, objects }.write(root)
}

/// Compares the committed objects with what the sources give.
fn check() -> Result<()> {
    let root = workspace::root();
    let manifest = fresh_manifest(root)?;
    let tools = setup::ebpf()?;
    let (rustc, linker) = tools.versions()?;
    if (&rustc, &linker) != (&manifest.rustc, &manifest.linker) {
        // Two compilers give two programs from one source.
        eprintln!(
            "note: the committed objects were built by {} and {}; here are {rustc} and {linker}, so the objects were \
             compared with the manifest, and their sources with its hash, but no code was compared.",
            manifest.rustc, manifest.linker
        );
        // That the sources compile is worth knowing all the same.
        return OBJECTS.iter().try_for_each(|object| object.build(&tools).map(drop));
    }
    for object in &OBJECTS {
        let committed =
            fs::read(root.join(object.path)).with_context(|| format!("cannot read {}", object.path))?;
        let differences = object::differences(&committed, &object.build(&tools)?)?;
        if !differences.is_empty() {
            bail!("{} is not what its sources give: {}; {MEND}", object.path, differences.join(", "));
        }
    }
    eprintln!("The committed objects hold the code and maps that {rustc} and {linker} give.");
    Ok(())
}

/// The manifest, if the sources and the objects are the ones that it records: quick, and without any tool.
///
/// # Errors
/// Sources or objects have changed since.
pub fn fresh_manifest(root: &Path) -> Result<Manifest> {
    let manifest = Manifest::read(root)?;
    for object in &OBJECTS {
        if !object.is_recorded(root, &manifest) {
            bail!("{} is not the object that {} records; {MEND}", object.path, manifest::PATH);
        }
    }
    if sources::hash(root)? != manifest.sources {
        bail!("the sources of the kernel programs have changed since their objects were built; {MEND}");
    }
    Ok(manifest)
}

impl Committed {
    /// Builds it, without debug information.
    fn build(&self, tools: &EbpfTools) -> Result<Vec<u8>> {
        object::stripped(&compile::object(tools, self.words)?)
            .with_context(|| format!("cannot take the debug information out of {}", self.path))
    }

    /// True if its bytes are those that the manifest records.
    fn is_recorded(&self, root: &Path, manifest: &Manifest) -> bool {
        let bytes = fs::read(root.join(self.path));
        let recorded = manifest.objects.get(self.path);
        bytes.is_ok_and(|bytes| recorded.is_some_and(|recorded| recorded.sha256 == sha256(&bytes)))
    }
}

/// Writes `bytes` to `path`, whose folder is made.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The hash in lower-case hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
