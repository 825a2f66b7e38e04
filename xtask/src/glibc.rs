//! Checks which C library the release build needs: distributions older than it would refuse to start the agent.

use std::fs;

use anyhow::{Context as _, Result, bail};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _};

use crate::workspace;

/// The newest version that may be needed: that of Debian 12 and RHEL 9 is 2.34 or newer.
const NEWEST: (u32, u32) = (2, 34);

/// Checks the release build of the agent.
///
/// # Errors
/// It is not built, or needs a newer library; the symbols that need it are named.
pub fn check() -> Result<()> {
    let path = workspace::release("flowmeter");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = ElfFile64::<object::Endianness>::parse(&*bytes)?;
    let endian = file.endian();
    let sections = file.elf_section_table();
    let versions = sections.versions(endian, &*bytes)?.context("the agent names no versions of symbols")?;
    let mut newer = Vec::new();
    for symbol in file.dynamic_symbols() {
        let index = versions.version_index(endian, symbol.index());
        let Some(version) = versions.version(index)? else { continue };
        let version = String::from_utf8_lossy(version.name());
        if glibc(&version).is_some_and(|version| version > NEWEST) {
            newer.push(format!("{}@{version}", symbol.name()?));
        }
    }
    if !newer.is_empty() {
        let (major, minor) = NEWEST;
        bail!(
            "the agent must run with glibc {major}.{minor}, and needs a newer one for {}",
            newer.join(", ")
        );
    }
    Ok(())
}

/// The version in a name such as `GLIBC_2.34`.
fn glibc(name: &str) -> Option<(u32, u32)> {
    let (major, minor) = name.strip_prefix("GLIBC_")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(glibc("GLIBC_2.34"), Some((2, 34)));
        assert_eq!(glibc("GLIBC_2.2.5"), Some((2, 2)));
        assert!(glibc("GLIBC_2.4") < glibc("GLIBC_2.34"));
        assert_eq!(glibc("GCC_3.0"), None);
    }
}
