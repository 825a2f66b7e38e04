//! A hash of the code that the kernel programs are made of: comments, formatting and tests do not count.
//!
//! It tells in a moment, and without a compiler for the kernel, that an object is older than its sources. That the object
//! is what the sources give is proved by building it; see [`super`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use sha2::{Digest as _, Sha256};
use syn::visit_mut::{self, VisitMut};

use super::compile::FLAGS;
use crate::syntax::is_test;

/// Folders of sources, and the manifests beside them, from the workspace's root.
const CRATES: [&str; 2] = [SHARED, PACKAGE];
/// The package that is built.
const PACKAGE: &str = "flowmeter-ebpf";
/// The package that the kernel programs share with userspace.
const SHARED: &str = "flowmeter-common";

/// The hash of the code of the kernel programs, of the versions of what they depend on, and of how they are compiled.
///
/// # Errors
/// A file cannot be read, or its syntax is wrong.
pub fn hash(root: &Path) -> Result<String> {
    let mut hash = Hash::default();
    for name in CRATES {
        let mut files = Vec::new();
        collect(&root.join(name).join("src"), &mut files)?;
        files.sort();
        for file in files {
            let text = read(&file)?;
            let code = code(&text).with_context(|| format!("cannot understand {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file);
            hash.field(name.as_os_str().as_encoded_bytes());
            hash.field(code.as_bytes());
        }
        let manifest: toml::Table = parsed(&root.join(name).join("Cargo.toml"))?;
        hash.field(format!("{:?}", manifest.get("features")).as_bytes());
        hash.field(format!("{:?}", manifest.get("dependencies")).as_bytes());
    }
    let workspace: toml::Table = parsed(&root.join("Cargo.toml"))?;
    let release = workspace.get("profile").and_then(|profile| profile.get("release"));
    hash.field(format!("{release:?}").as_bytes());
    for dependency in dependencies(&parsed(&root.join("Cargo.lock"))?) {
        hash.field(dependency.as_bytes());
    }
    FLAGS.iter().for_each(|flag| hash.field(flag.as_bytes()));
    Ok(super::hex(&hash.0.finalize()))
}

/// SHA-256 of fields with their lengths, so that bytes cannot move from one field to the next unseen.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// Adds the Rust files below `folder`. Editors leave other files beside them: they do not count.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn parsed(path: &Path) -> Result<toml::Table> {
    read(path)?.parse().with_context(|| format!("cannot understand {}", path.display()))
}

/// Name, version and checksum of all that the kernel programs depend on, in order.
fn dependencies(lock: &toml::Table) -> Vec<String> {
    let text = |package: &toml::Value, key: &str| {
        package.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned()
    };
    let packages = lock.get("package").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let mut wanted = vec![PACKAGE.to_owned()];
    let mut found = std::collections::BTreeSet::new();
    while let Some(name) = wanted.pop() {
        // The lock file says `name`, or `name version` where there are two of that name.
        let (name, version) = name.split_once(' ').map_or((name.as_str(), None), |(n, v)| (n, Some(v)));
        for package in packages.iter().filter(|package| {
            text(package, "name") == name && version.is_none_or(|version| text(package, "version") == version)
        }) {
            let line = ["name", "version", "checksum"].map(|key| text(package, key)).join(" ");
            // What the lock file says of the shared crate is for userspace and for tests: without features it needs nothing.
            if found.insert(line) && name != SHARED {
                let of = package.get("dependencies").and_then(toml::Value::as_array).cloned();
                wanted.extend(of.unwrap_or_default().iter().filter_map(|d| d.as_str().map(str::to_owned)));
            }
        }
    }
    found.into_iter().collect()
}

/// The code of a file, in one form for all ways to format and comment it.
fn code(text: &str) -> Result<String> {
    let mut file = syn::parse_file(text)?;
    WithoutTests.visit_file_mut(&mut file);
    let mut code = String::new();
    flatten(file.to_token_stream(), &mut code);
    Ok(code)
}

/// Takes out what is compiled for tests only.
struct WithoutTests;

impl VisitMut for WithoutTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| !is_test(item));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| !is_test(item));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }
}

/// Writes tokens with one space between them, without documentation and without the commas that formatting adds.
fn flatten(tokens: TokenStream, code: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '#' => {
                // `#[..]` or `#![..]`.
                let inner = matches!(tokens.peek(), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                if inner {
                    tokens.next();
                }
                match tokens.peek() {
                    Some(TokenTree::Group(group)) if is_documentation(group) => drop(tokens.next()),
                    _ => code.push_str(if inner { "#! " } else { "# " }),
                }
            }
            TokenTree::Punct(mark) if mark.as_char() == ',' && tokens.peek().is_none() => {}
            TokenTree::Punct(mark) => {
                code.push(mark.as_char());
                // `& &` and `&&` are two things.
                if mark.spacing() == proc_macro2::Spacing::Alone {
                    code.push(' ');
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("( ", ") "),
                    Delimiter::Brace => ("{ ", "} "),
                    Delimiter::Bracket => ("[ ", "] "),
                    Delimiter::None => ("", ""),
                };
                code.push_str(open);
                flatten(group.stream(), code);
                code.push_str(close);
            }
            other => {
                code.push_str(&other.to_string());
                code.push(' ');
            }
        }
    }
}

/// True for `[doc = ".."]`, which is what `///` stands for.
fn is_documentation(group: &proc_macro2::Group) -> bool {
    let first = group.stream().into_iter().next();
    matches!(first, Some(TokenTree::Ident(name)) if name == "doc")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that the others are compared with.
    const FILE: &str = "//! A file.\nuse a::{b, c};\n/// Adds.\nfn f(x: u32, y: u32) -> u32 { x + y }\n";

    #[test]
    fn comments_formatting_and_tests_do_not_count() -> Result<()> {
        for same in [
            "//! Another story.\n// And a word on it.\nuse a::{b, c};\nfn f(x: u32, y: u32) -> u32 { x + y }",
            "use a::{\n    b,\n    c,\n};\n/** Adds. */\nfn f(\n    x: u32,\n    y: u32,\n) -> u32 {\n    x + y /* ! */\n}\n",
            "use a::{b, c};\nfn f(x: u32, y: u32) -> u32 { x + y }\n#[cfg(test)]\nmod tests { fn g() {} }\n",
        ] {
            assert_eq!(code(same)?, code(FILE)?, "{same}");
        }
        Ok(())
    }

    #[test]
    fn code_counts() -> Result<()> {
        for other in [
            FILE.replace("x + y", "x - y"),
            FILE.replace("u32 {", "u64 {"),
            FILE.replace("fn f", "#[inline]\nfn f"),
            FILE.replace("x + y", "x.wrapping_add(y)"),
            FILE.replace("a::{b, c}", "a::{b}"),
            format!("{FILE}#[cfg(not(test))]\nfn g() {{}}\n"),
        ] {
            assert_ne!(code(&other)?, code(FILE)?, "{other}");
        }
        Ok(())
    }

    #[test]
    fn the_versions_of_the_dependencies_count_and_those_of_others_do_not() -> Result<()> {
        let lock: toml::Table = r#"
            [[package]]
            name = "flowmeter-ebpf"
            version = "0.1.0"
            dependencies = ["aya-ebpf", "flowmeter-common", "syn 2.0.1"]
            [[package]]
            name = "flowmeter-common"
            version = "0.1.0"
            dependencies = ["clap"]
            [[package]]
            name = "aya-ebpf"
            version = "0.2.1"
            checksum = "c0ffee"
            [[package]]
            name = "syn"
            version = "2.0.1"
            [[package]]
            name = "syn"
            version = "3.0.0"
            [[package]]
            name = "clap"
            version = "4.0.0"
        "#
        .parse()?;
        let expected =
            ["aya-ebpf 0.2.1 c0ffee", "flowmeter-common 0.1.0 ", "flowmeter-ebpf 0.1.0 ", "syn 2.0.1 "];
        assert_eq!(dependencies(&lock), expected);
        Ok(())
    }
}
