//! What no compiler checks and the house keeps all the same: no circle among modules, no type name twice in a crate.
//!
//! [`modules`] reads a crate and finds a circle with [`circles`]; [`names`] finds the names.

mod circles;
mod modules;
mod names;

use std::path::Path;

use anyhow::{Result, bail};

use crate::workspace;

/// A crate: its name, and its root file from the workspace's root.
const CRATES: [(&str, &str); 4] = [
    ("flowmeter-common", "flowmeter-common/src/lib.rs"),
    ("flowmeter-ebpf", "flowmeter-ebpf/src/main.rs"),
    ("flowmeter-userspace", "flowmeter-userspace/src/lib.rs"),
    ("xtask", "xtask/src/main.rs"),
];

/// Checks all crates, and tells every finding.
///
/// # Errors
/// There are findings, or a file cannot be read.
pub fn check() -> Result<()> {
    let mut findings = Vec::new();
    for (name, root) in CRATES {
        let tree = modules::Crate::read(&workspace::root().join(root))?;
        if let Some(circle) = tree.circle() {
            let pair = |(from, to): &(&Path, &Path)| format!("{} -> {}", shown(from), shown(to));
            let pairs: Vec<String> = circle.iter().map(pair).collect();
            findings.push(format!("{name}: modules refer to each other in a circle: {}", pairs.join(", ")));
        }
        for (type_name, files) in names::twice(&tree) {
            let files: Vec<String> = files.iter().map(|file| shown(file)).collect();
            findings.push(format!("{name}: the type name {type_name} stands twice: {}", files.join(", ")));
        }
    }
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}

/// A file as a person names it: from the workspace's root.
fn shown(file: &Path) -> String {
    file.strip_prefix(workspace::root()).unwrap_or(file).display().to_string()
}
