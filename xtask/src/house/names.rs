//! Finds type names that stand twice in a crate: a reader who searches for one would find the other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::modules::Crate;

/// The names, and where each stands.
pub fn twice(tree: &Crate) -> BTreeMap<String, Vec<PathBuf>> {
    let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for module in tree.modules() {
        for name in &module.types {
            places.entry(name.clone()).or_default().push(module.file.clone());
        }
    }
    places.retain(|_, files| files.len() > 1);
    places
}
