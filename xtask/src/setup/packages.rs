//! Packages of the distribution: installed with apt where there is apt, named where there is not.

use std::path::Path;

use anyhow::{Result, bail};

use crate::command::{as_root, find, install};

/// A program, and the Debian package that has it.
pub struct Program {
    /// Name on the search path.
    pub name: &'static str,
    /// Debian's and Ubuntu's package.
    pub package: &'static str,
    /// What it is needed for.
    pub why: &'static str,
}

/// What makes network namespaces.
const IP: Program = Program { name: "ip", package: "iproute2", why: "network namespaces" };

/// What the demo runs.
pub const DEMO: &[Program] = &[IP];

/// What the tests run: ordinary programs whose traffic is measured.
pub const TESTS: &[Program] = &[
    IP,
    Program { name: "curl", package: "curl", why: "the test of ordinary traffic" },
    Program { name: "iperf3", package: "iperf3", why: "the test of ordinary traffic" },
    Program { name: "nfcapd", package: "nfdump", why: "the test of the IPFIX export" },
    Program { name: "nc", package: "netcat-openbsd", why: "the test of ordinary traffic" },
    Program { name: "promtool", package: "prometheus", why: "the alert rules, and a scrape by Prometheus" },
    Program { name: "python3", package: "python3", why: "the web server of the test of ordinary traffic" },
    Program { name: "rpmbuild", package: "rpm", why: "the test of the packages" },
    Program { name: "tcpdump", package: "tcpdump", why: "the inspector behind the pre-filter" },
    Program { name: "tshark", package: "tshark", why: "the independent check of features" },
];

/// What fuzzing is built with.
pub const FUZZ: &[Program] = &[Program { name: "g++", package: "g++", why: "libFuzzer, which is C++" }];

/// Installs those programs that are missing.
pub fn ensure(programs: &[Program]) -> Result<()> {
    let missing: Vec<&Program> = programs.iter().filter(|program| find(program.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why: Vec<String> = missing.iter().map(|p| format!("{} (for {})", p.name, p.why)).collect();
    apt(&why.join(", "), &missing.iter().map(|program| program.package).collect::<Vec<_>>())
}

/// True if there is apt.
pub fn has_apt() -> bool {
    find("apt-get").is_some()
}

/// Installs packages with apt.
pub fn apt(why: &str, packages: &[&str]) -> Result<()> {
    if !has_apt() {
        bail!("{why}: install what corresponds to Debian's {} on this system", packages.join(" "));
    }
    // A fresh system has no lists; an old list names files that have gone.
    if !lists_are_fresh() {
        install("the list of packages, which is missing or old", as_root("apt-get").args(["-q", "update"]))?;
    }
    let mut command = as_root("env");
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-q",
        "install",
        "--yes",
        "--no-install-recommends",
    ]);
    install(why, command.args(packages))
}

/// True if apt's lists were fetched within the last day.
fn lists_are_fresh() -> bool {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
    let lists = std::fs::read_dir(Path::new("/var/lib/apt/lists"));
    lists.into_iter().flatten().flatten().any(|entry| {
        entry.file_name().to_string_lossy().contains("Packages")
            && entry
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < DAY))
    })
}
