//! `flowmeter manual`: man pages and completions, made of the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap_complete::{Shell, generate_to};

use crate::cli;

/// Where shells look for completions.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "usr/share/bash-completion/completions"),
    (Shell::Zsh, "usr/share/zsh/vendor-completions"),
    (Shell::Fish, "usr/share/fish/vendor_completions.d"),
];

/// Writes them under `root`.
///
/// # Errors
/// A file cannot be written.
pub fn run(root: &Path) -> Result<ExitCode> {
    let mut command = cli::command();
    let pages = folder(root, "usr/share/man/man1")?;
    clap_mangen::generate_to(command.clone(), &pages).context("cannot write the man pages")?;
    for (shell, place) in COMPLETIONS {
        let folder = folder(root, place)?;
        let made = generate_to(shell, &mut command, "flowmeter", &folder)
            .with_context(|| format!("cannot write the completions of {shell}"))?;
        // Bash looks for a file with the command's name.
        if shell == Shell::Bash {
            fs::rename(&made, folder.join("flowmeter")).context("cannot rename the completions of bash")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn folder(root: &Path, place: &str) -> Result<PathBuf> {
    let folder = root.join(place);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subcommand_has_a_man_page_and_each_shell_its_completions() {
        let root = tempfile::tempdir().expect("a folder");
        run(root.path()).expect("pages");
        for command in cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let page = root.path().join(format!("usr/share/man/man1/flowmeter-{}.1", command.get_name()));
            let text =
                fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            assert!(text.contains(".TH"), "{}", page.display());
        }
        let live = fs::read_to_string(root.path().join("usr/share/man/man1/flowmeter-live.1")).expect("live");
        assert!(live.contains("ipfix"), "options are explained");
        for file in [
            "bash-completion/completions/flowmeter",
            "zsh/vendor-completions/_flowmeter",
            "fish/vendor_completions.d/flowmeter.fish",
        ] {
            let text = fs::read_to_string(root.path().join("usr/share").join(file)).expect(file);
            assert!(text.contains("stats-interval"), "{file}");
        }
    }
}
