//! Reads an object: takes the debug information out of it, and compares its code and maps with another's.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::{SHF_ALLOC, SHT_STRTAB};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionFlags};
use sha2::{Digest as _, Sha256};

/// The object without DWARF. Types and line information for the kernel (BTF) stay: the verifier's messages use them.
///
/// # Errors
/// The bytes are not an object.
pub fn stripped(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes)?;
    for section in &mut builder.sections {
        if section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM puts the names of sections and symbols into one table; two are written.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let section = builder.sections.add();
        section.name = b".shstrtab"[..].into();
        section.sh_type = SHT_STRTAB;
        section.sh_addralign = 1;
        section.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// The hash of code and maps: the same for two objects that differ in line information alone.
///
/// # Errors
/// The bytes are not an object with programs and maps.
pub fn code(bytes: &[u8]) -> Result<String> {
    let mut hash = Sha256::new();
    for (name, part) in parts(bytes)? {
        for field in [name.as_bytes(), &part] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
    }
    Ok(super::hex(&hash.finalize()))
}

/// The parts of code and maps that the two objects do not share, each with what is wrong.
///
/// # Errors
/// As for [`code`].
pub fn differences(committed: &[u8], built: &[u8]) -> Result<Vec<String>> {
    let (committed, mut built) = (parts(committed)?, parts(built)?);
    let mut differences = Vec::new();
    for (name, part) in committed {
        match built.remove(&name) {
            None => differences.push(format!("{name} is gone")),
            Some(other) if other != part => differences.push(format!("{name} differs")),
            Some(_) => {}
        }
    }
    differences.extend(built.into_keys().map(|name| format!("{name} is new")));
    Ok(differences)
}

/// What the kernel is given, by name: each section that is loaded with its relocations, the symbols, and the maps.
fn parts(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let file = object::File::parse(bytes)?;
    let mut parts = BTreeMap::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        if sh_flags & u64::from(SHF_ALLOC) == 0 {
            continue;
        }
        let mut part = section.data()?.to_vec();
        for (offset, relocation) in section.relocations() {
            let target = target_name(&file, relocation.target())?;
            let kind = relocation.flags();
            part.extend_from_slice(
                format!("\n{offset:x} {kind:?} {target} {:x}", relocation.addend()).as_bytes(),
            );
        }
        parts.insert(format!("section {}", section.name()?), part);
    }
    let mut symbols = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.is_definition()) {
        let place = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
        let place = place.as_ref().and_then(|section| section.name().ok()).unwrap_or_default();
        symbols.push(format!("{} {place} {:x} {:x}\n", symbol.name()?, symbol.address(), symbol.size()));
    }
    symbols.sort();
    parts.insert("the table of symbols".to_owned(), symbols.concat().into_bytes());
    // Maps may be defined by types alone, which no section that is loaded holds.
    let loaded = aya_obj::Object::parse(bytes).context("the loader refuses the object")?;
    for (name, map) in &loaded.maps {
        let definition =
            [map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags()];
        parts.insert(format!("map {name}"), format!("{definition:?} {:?}", map.pinning()).into_bytes());
    }
    Ok(parts)
}

/// What a relocation names: a symbol, or a place in a section.
fn target_name(file: &object::File<'_>, target: RelocationTarget) -> Result<String> {
    match target {
        RelocationTarget::Symbol(index) => {
            let symbol = file.symbol_by_index(index)?;
            let section = symbol.section_index().map(|index| file.section_by_index(index)).transpose()?;
            let section = section.as_ref().map(|section| section.name()).transpose()?.unwrap_or_default();
            Ok(format!("{}@{section}+{:x}", symbol.name()?, symbol.address()))
        }
        other => Ok(format!("{other:?}")),
    }
}
