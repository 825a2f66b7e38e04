//! Writes THIRD-PARTY-NOTICES.md: what is compiled into the agent, under which licences, with their texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::command;
use crate::workspace;

/// The file, from the workspace's root.
const FILE: &str = "THIRD-PARTY-NOTICES.md";
/// What is passed on: the agent, and the kernel programs that it embeds.
const SHIPPED: [&str; 2] = ["flowmeter-userspace", "flowmeter-ebpf"];
/// How names of files with licences begin.
const TEXTS: [&str; 5] = ["license", "licence", "copying", "notice", "unlicense"];
/// Platforms that the agent runs on.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// What is done with the notices.
#[derive(Args)]
pub struct NoticesOptions {
    /// Write nothing, and fail if the file is not what would be written.
    #[arg(long)]
    check: bool,
}

/// What `cargo metadata` prints, as far as it is used here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// None for what is compiled in.
    kind: Option<String>,
}

/// Writes the file, or checks it.
///
/// # Errors
/// Cargo fails, a licence's text cannot be read, or the file is stale.
pub fn run(options: &NoticesOptions) -> Result<()> {
    if options.check { check() } else { write() }
}

/// Fails if the file is not what would be written.
///
/// # Errors
/// It is stale.
pub fn check() -> Result<()> {
    let present = fs::read_to_string(workspace::root().join(FILE)).unwrap_or_default();
    if present != page()? {
        bail!("{FILE} does not name what is compiled in; run: cargo xtask notices");
    }
    Ok(())
}

fn write() -> Result<()> {
    fs::write(workspace::root().join(FILE), page()?).with_context(|| format!("cannot write {FILE}"))
}

/// A package that is compiled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The licence's expression.
    pub license: Option<String>,
}

/// All packages that are compiled in, by name and version.
///
/// # Errors
/// Cargo fails.
pub fn components() -> Result<Vec<Component>> {
    let of = |package: Package| Component {
        name: package.name,
        version: package.version,
        license: package.license,
    };
    Ok(packages()?.into_values().map(of).collect())
}

/// Those on any platform.
fn packages() -> Result<BTreeMap<(String, String), Package>> {
    let mut packages = BTreeMap::new();
    for platform in PLATFORMS {
        for package in shipped(metadata(platform)?) {
            packages.insert((package.name.clone(), package.version.clone()), package);
        }
    }
    Ok(packages)
}

/// The page.
fn page() -> Result<String> {
    let packages = packages()?;
    let mut page = "# Third-party notices\n\nFlowMeter is built from the packages below, each under the licence that it \
                    names. ONNX Runtime, which\n`flowmeter setup` fetches and which is not part of FlowMeter, is under the \
                    MIT licence.\n\nWritten by `cargo xtask notices`.\n\n| package | version | licence |\n|---|---|---|\n"
        .to_owned();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages.values() {
        let license = package.license.as_deref().unwrap_or("see its text");
        writeln!(page, "| {} | {} | {license} |", package.name, package.version)?;
        for text in package.texts()? {
            texts.entry(text).or_default().insert(package.name.clone());
        }
    }
    page.push_str("\n## Texts\n");
    // In the order of the first package that has a text, not of the texts.
    let mut texts: Vec<(BTreeSet<String>, String)> = texts.into_iter().map(|(text, of)| (of, text)).collect();
    texts.sort();
    for (of, text) in texts {
        let of: Vec<String> = of.into_iter().collect();
        write!(page, "\n### {}\n\n```text\n{text}\n```\n", of.join(", "))?;
    }
    Ok(page)
}

fn metadata(platform: &str) -> Result<Metadata> {
    let words = ["metadata", "--format-version", "1", "--locked", "--features", "flowmeter-ebpf/bpf"];
    let mut command = command::cargo();
    command.args(words).args(["--filter-platform", platform]).current_dir(workspace::root());
    let printed =
        command::output(&mut command).context("`cargo metadata` fails; is Cargo.lock up to date?")?;
    serde_json::from_str(&printed).context("cannot understand what `cargo metadata` prints")
}

/// What others wrote and is compiled into what is shipped.
fn shipped(metadata: Metadata) -> Vec<Package> {
    let mut wanted: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| SHIPPED.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        if !found.insert(id.to_owned()) {
            continue;
        }
        let node = metadata.resolve.nodes.iter().find(|node| node.id == id);
        for dependency in node.into_iter().flat_map(|node| &node.deps) {
            if dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()) {
                wanted.push(&dependency.pkg);
            }
        }
    }
    metadata.packages.into_iter().filter(|p| p.source.is_some() && found.contains(&p.id)).collect()
}

impl Package {
    /// The licences' texts that lie in the package.
    fn texts(&self) -> Result<Vec<String>> {
        let folder = self.manifest_path.parent().unwrap_or(Path::new("."));
        let mut texts = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            if path.is_file() && TEXTS.iter().any(|start| name.starts_with(start)) {
                let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                // Line ends and margins do not make two texts of one.
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
                texts.push(lines.join("\n").trim_matches('\n').to_owned());
            }
        }
        texts.sort();
        Ok(texts)
    }
}
