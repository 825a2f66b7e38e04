//! Reads the modules of a crate, and which of them each refers to.
//!
//! A name that a module re-exports (`pub use`) belongs to the module that defines it: whoever uses it refers to that one,
//! and the re-export refers to nothing. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::circles::{self, Graph};
use crate::syntax::is_test;

/// A path of names from the crate's root.
pub type Names = Vec<String>;
/// Re-exports may lead to re-exports; more than this many lead in a circle.
const MAX_STEPS: usize = 32;

/// A crate's modules, by their paths from its root.
#[derive(Default)]
pub struct Crate {
    modules: BTreeMap<Names, Module>,
}

/// A module.
#[derive(Default)]
pub struct Module {
    /// The file that it stands in.
    pub file: PathBuf,
    /// The types and traits that it defines.
    pub types: Vec<String>,
    /// Names that it defines, but for modules.
    defined: BTreeSet<String>,
    /// Names that `use` brings in, and what each stands for.
    imported: BTreeMap<String, Names>,
    /// Modules all of whose names are brought in.
    globs: Vec<Names>,
    /// What its code refers to, as written: resolved when all modules are known.
    paths: BTreeSet<Names>,
}

impl Crate {
    /// Reads the crate with this root file.
    ///
    /// # Errors
    /// A file is missing, or its syntax is wrong.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let folder = root.parent().unwrap_or(Path::new("."));
        tree.read_file(root, folder, Names::new())?;
        Ok(tree)
    }

    /// All modules.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// A circle among the modules of one folder, each taken with all below it; the shortest, as pairs of files.
    ///
    /// What a folder's own file has in common with the files below it makes no circle: the folder is one thing.
    pub fn circle(&self) -> Option<Vec<(&Path, &Path)>> {
        let references = self.references();
        let level = |folder: &Names| {
            let of_folder = |module: &Names| {
                let below = module.len() > folder.len() && module.starts_with(folder);
                below.then(|| module[..=folder.len()].to_vec())
            };
            let mut graph = Graph::new();
            let mut seen = BTreeMap::new();
            for (from, to) in references.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
                if let (Some(a), Some(b)) = (of_folder(from), of_folder(to))
                    && a != b
                {
                    graph.entry(a.clone()).or_insert_with(BTreeSet::new).insert(b.clone());
                    seen.entry((a, b)).or_insert((from, to));
                }
            }
            let circle = circles::shortest(&graph)?;
            let next = circle.iter().skip(1).chain(circle.first());
            let pairs = circle.iter().zip(next).filter_map(|(a, b)| {
                let (from, to) = seen.get(&(a.clone(), b.clone()))?;
                Some((self.modules.get(*from)?.file.as_path(), self.modules.get(*to)?.file.as_path()))
            });
            Some(pairs.collect::<Vec<_>>())
        };
        self.modules.keys().filter_map(level).min_by_key(Vec::len)
    }

    /// Which modules each module refers to.
    fn references(&self) -> Graph<Names> {
        let mut references = Graph::new();
        for (at, module) in &self.modules {
            let targets = module
                .paths
                .iter()
                .filter_map(|path| self.absolute(at, path).and_then(|path| self.defining(&path, 0)));
            references.insert(at.clone(), targets.collect());
        }
        references
    }

    /// Reads a file as the module `at`, whose own modules lie in `folder`.
    fn read_file(&mut self, file: &Path, folder: &Path, at: Names) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed =
            syn::parse_file(&text).with_context(|| format!("cannot understand {}", file.display()))?;
        self.read_items(&parsed.items, file, folder, at)
    }

    fn read_items(&mut self, items: &[syn::Item], file: &Path, folder: &Path, at: Names) -> Result<()> {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let mut children = Vec::new();
        for item in items {
            if let syn::Item::Mod(child) = item
                && child.attrs.iter().any(names_file)
            {
                bail!(
                    "{}: the module `{}` names its file by #[path], which makes one file part of two crates or of none; move \
                     what is shared into a crate",
                    file.display(),
                    child.ident
                );
            }
        }
        for item in items.iter().filter(|item| !is_test(item)) {
            match item {
                syn::Item::Mod(child) => children.push(child),
                item => module.take(item),
            }
        }
        self.modules.insert(at.clone(), module);
        for child in children {
            let name = child.ident.to_string();
            let below = folder.join(&name);
            let mut path = at.clone();
            path.push(name.clone());
            match &child.content {
                Some((_, items)) => self.read_items(items, file, &below, path)?,
                None => {
                    let beside = folder.join(format!("{name}.rs"));
                    let file = if beside.is_file() { beside } else { below.join("mod.rs") };
                    self.read_file(&file, &below, path)?;
                }
            }
        }
        Ok(())
    }

    /// A path as written in the module `at`, from the crate's root; None if it leads out of the crate.
    fn absolute(&self, at: &[String], path: &[String]) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Names::new(),
            "self" => at.to_vec(),
            "super" => at.split_last()?.1.to_vec(),
            name => {
                let module = self.modules.get(at)?;
                let child = [at, &[name.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    child
                } else if let Some(target) = module.imported.get(name) {
                    // An import is written in its module, too. One that begins with its own name (`use log::log`) begins
                    // with a crate's.
                    if target.first() == Some(first) {
                        return None;
                    }
                    self.absolute(at, target)?
                } else if module.defined.contains(name) {
                    [at, &[name.to_owned()]].concat()
                } else {
                    module.globs.iter().find_map(|glob| {
                        let glob = self.absolute(at, glob)?;
                        self.knows(&glob, name).then(|| [&glob[..], &[name.to_owned()]].concat())
                    })?
                }
            }
        };
        for name in rest {
            match name.as_str() {
                "super" => drop(base.pop()),
                "self" => {}
                name => base.push(name.to_owned()),
            }
        }
        Some(base)
    }

    /// True if the module at `path` has the name, by itself or by a re-export.
    fn knows(&self, path: &[String], name: &str) -> bool {
        let child = [path, &[name.to_owned()]].concat();
        self.modules.contains_key(&child)
            || self
                .modules
                .get(path)
                .is_some_and(|module| module.defined.contains(name) || module.imported.contains_key(name))
    }

    /// The module that defines what the path from the crate's root names.
    fn defining(&self, path: &[String], steps: usize) -> Option<Names> {
        let mut at = Names::new();
        for (index, name) in path.iter().enumerate() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            let module = self.modules.get(&at)?;
            if module.defined.contains(name) || steps == MAX_STEPS {
                break;
            }
            let rest = &path[index + 1..];
            if let Some(target) = module.imported.get(name) {
                // A re-export of another crate's name leads out.
                let target = [&self.absolute(&at, target)?[..], rest].concat();
                return self.defining(&target, steps + 1);
            }
            for glob in &module.globs {
                if let Some(glob) = self.absolute(&at, glob)
                    && self.knows(&glob, name)
                {
                    return self.defining(&[&glob[..], std::slice::from_ref(name), rest].concat(), steps + 1);
                }
            }
            // A name that a macro made.
            break;
        }
        Some(at)
    }
}

impl Module {
    /// Takes in an item that is not a module.
    fn take(&mut self, item: &syn::Item) {
        match item {
            syn::Item::Use(item) => {
                self.take_use(&item.tree, Names::new(), !matches!(item.vis, syn::Visibility::Inherited));
                return;
            }
            syn::Item::Struct(item) => self.define(&item.ident, true),
            syn::Item::Enum(item) => self.define(&item.ident, true),
            syn::Item::Union(item) => self.define(&item.ident, true),
            syn::Item::Trait(item) => self.define(&item.ident, true),
            syn::Item::Type(item) => self.define(&item.ident, true),
            syn::Item::Fn(item) => self.define(&item.sig.ident, false),
            syn::Item::Const(item) => self.define(&item.ident, false),
            syn::Item::Static(item) => self.define(&item.ident, false),
            _ => {}
        }
        Paths(self).visit_item(item);
    }

    fn define(&mut self, name: &syn::Ident, is_type: bool) {
        self.defined.insert(name.to_string());
        if is_type {
            self.types.push(name.to_string());
        }
    }

    /// Takes in what `use` names below `path`.
    fn take_use(&mut self, tree: &syn::UseTree, mut path: Names, exported: bool) {
        match tree {
            syn::UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                self.take_use(&tree.tree, path, exported);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.take_use(tree, path.clone(), exported));
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                let alias = path.last().cloned().unwrap_or_default();
                self.import(alias, path, exported);
            }
            syn::UseTree::Name(name) => {
                path.push(name.ident.to_string());
                self.import(name.ident.to_string(), path, exported);
            }
            syn::UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    path.push(rename.ident.to_string());
                }
                self.import(rename.rename.to_string(), path, exported);
            }
            syn::UseTree::Glob(_) => {
                if !exported {
                    self.paths.insert(path.clone());
                }
                self.globs.push(path);
            }
        }
    }

    fn import(&mut self, alias: String, path: Names, exported: bool) {
        if !exported {
            self.paths.insert(path.clone());
        }
        // `_` names nothing.
        if alias != "_" {
            self.imported.insert(alias, path);
        }
    }
}

/// True for `#[path = ...]`, also on a condition.
fn names_file(about: &syn::Attribute) -> bool {
    let words = |tokens: TokenStream| tokens.into_iter().any(|token| token.to_string() == "path");
    about.path().is_ident("path")
        || matches!(&about.meta, syn::Meta::List(list) if list.path.is_ident("cfg_attr") && words(list.tokens.clone()))
}

/// Collects the paths of code.
struct Paths<'a>(&'a mut Module);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.0.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // Inside a function: as if it stood in the module.
        self.0.take_use(&item.tree, Names::new(), false);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.visit_path(&invocation.path);
        collect(invocation.tokens.clone(), &mut self.0.paths);
    }
}

/// Adds what looks like a path among a macro's tokens.
fn collect(tokens: TokenStream, paths: &mut BTreeSet<Names>) {
    let mut path = Names::new();
    let mut colons = 2;
    for token in tokens {
        match token {
            TokenTree::Ident(name) => {
                if colons != 2 {
                    paths.insert(std::mem::take(&mut path));
                }
                path.push(name.to_string());
                colons = 0;
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
            other => {
                paths.insert(std::mem::take(&mut path));
                colons = 2;
                if let TokenTree::Group(group) = other {
                    collect(group.stream(), paths);
                }
            }
        }
    }
    paths.insert(path);
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    /// Writes a crate's files, and reads the crate.
    fn tree(files: &[(&str, &str)]) -> Result<(tempfile::TempDir, Crate)> {
        let folder = tempfile::tempdir()?;
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
            fs::write(path, text)?;
        }
        let tree = Crate::read(&folder.path().join("lib.rs"))?;
        Ok((folder, tree))
    }

    /// The shortest circle of a crate, as file names in one line.
    fn circle(files: &[(&str, &str)]) -> Result<Option<String>> {
        let (folder, tree) = tree(files)?;
        let short = |file: &Path| file.strip_prefix(folder.path()).unwrap_or(file).display().to_string();
        let pairs = tree.circle().map(|circle| {
            circle.iter().map(|(from, to)| format!("{} -> {}", short(from), short(to))).collect::<Vec<_>>()
        });
        Ok(pairs.map(|pairs| pairs.join(", ")))
    }

    #[test]
    fn a_module_that_names_its_file_is_refused() {
        for module in [
            "#[path = \"other.rs\"] mod flow;",
            "#[cfg(test)] #[path = \"other.rs\"] mod flow;",
            "#[cfg_attr(feature = \"bpf\", path = \"other.rs\")] mod flow;",
            "mod inside { #[path = \"other.rs\"] pub mod flow; }",
        ] {
            let problem = tree(&[("lib.rs", module), ("other.rs", "")]).err().expect(module).to_string();
            assert!(problem.contains("`flow` names its file by #[path]"), "{problem}");
        }
        let kept = tree(&[("lib.rs", "#[cfg_attr(test, allow(dead_code))] mod flow;"), ("flow.rs", "")]);
        assert!(kept.is_ok(), "other conditions say nothing of the file");
    }

    #[test]
    fn a_tree_of_modules_has_no_circle() -> Result<()> {
        let found = circle(&[
            ("lib.rs", "pub mod time; pub mod flow; pub mod table; pub use table::Table;"),
            ("time.rs", "pub struct Nanos(u64);"),
            // The folder re-exports what its file needs no more than its own names for.
            (
                "flow/mod.rs",
                "mod entry; pub use entry::Entry; use crate::time::Nanos; pub struct State(Nanos);",
            ),
            ("flow/entry.rs", "use super::State; pub struct Entry(State);"),
            (
                "table.rs",
                "use crate::flow::{Entry, State}; pub struct Table(Entry, State);\
                #[cfg(test)] mod tests { use crate::user; }",
            ),
        ])?;
        assert_eq!(found, None);
        Ok(())
    }

    #[test]
    fn a_planted_circle_is_found_however_it_is_written() -> Result<()> {
        let lib = ("lib.rs", "pub mod a; pub mod b; pub mod c;");
        let a = ("a.rs", "use crate::b::B; pub struct A(B);");
        let c = ("c.rs", "pub struct C;");
        for b in [
            "use crate::a::A; pub struct B(Box<A>);",
            "use super::a; pub struct B(Box<a::A>);",
            "pub struct B; fn f() { let _ = crate::a::A::default(); }",
            "pub struct B; fn f() { use crate::a as other; other::f(); }",
            "pub struct B; fn f() { println!(\"{:?}\", crate::a::f()); }",
            "use crate::{c::C, a::{self, A as X}}; pub struct B(C, X);",
            "use crate::a::*; pub struct B(Box<A>);",
        ] {
            let found = circle(&[lib, a, c, ("b.rs", b)])?;
            assert_eq!(found.as_deref(), Some("a.rs -> b.rs, b.rs -> a.rs"), "{b}");
        }
        Ok(())
    }

    #[test]
    fn a_re_export_leads_to_the_file_that_defines() -> Result<()> {
        let found = circle(&[
            ("lib.rs", "pub mod flow; pub mod prelude; pub mod config;"),
            ("prelude.rs", "pub use crate::flow::*; pub use crate::config::Config;"),
            ("flow.rs", "use crate::prelude::Config; pub struct Entry(Config);"),
            ("config.rs", "pub struct Config;"),
        ])?;
        assert_eq!(found, None, "the prelude refers to nothing");
        let found = circle(&[
            ("lib.rs", "pub mod flow; pub mod config;"),
            ("flow/mod.rs", "mod entry; pub use entry::*;"),
            ("flow/entry.rs", "use crate::config::Config; pub struct Entry(Config);"),
            ("config.rs", "use crate::flow::Entry; pub struct Config(Box<Entry>);"),
        ])?;
        assert_eq!(found.as_deref(), Some("config.rs -> flow/entry.rs, flow/entry.rs -> config.rs"));
        Ok(())
    }

    #[test]
    fn folders_refer_to_each_other_one_way() -> Result<()> {
        let found = circle(&[
            ("lib.rs", "pub mod flow; pub mod table;"),
            ("flow/mod.rs", "pub mod entry; pub mod key; use entry::E; pub struct F(E);"),
            ("flow/entry.rs", "use super::F; use crate::table::T; pub struct E(Box<F>, T);"),
            ("flow/key.rs", "pub struct K;"),
            ("table.rs", "use crate::flow::key::K; pub struct T(K);"),
        ])?;
        assert_eq!(found.as_deref(), Some("flow/entry.rs -> table.rs, table.rs -> flow/key.rs"));
        Ok(())
    }

    #[test]
    fn a_type_name_that_stands_twice_is_found() -> Result<()> {
        let (_folder, tree) = tree(&[
            ("lib.rs", "mod a; mod b; struct Own;"),
            ("a.rs", "struct Reader; fn f() {} #[cfg(test)] mod tests { struct Own; }"),
            ("b.rs", "use log::log; enum Reader {} fn f() { log!(); log::warn!() }"),
        ])?;
        assert_eq!(names::twice(&tree).into_keys().collect::<Vec<_>>(), ["Reader"]);
        Ok(())
    }
}
