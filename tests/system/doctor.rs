//! Promise: `flowmeter doctor` finds by name whatever keeps `live` from working, and says what to do; it attaches nothing.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::agent::{Signal, binary};
use harness::cable::Cable;
use harness::machine;
use harness::netns::Namespace;
use serde_json::Value;

/// What `doctor` found: subject, state and text of each line, and whether its exit code says that all is well.
struct Diagnosis {
    findings: Vec<(String, String, String)>,
    healthy: bool,
}

impl Diagnosis {
    /// Runs it in a namespace, in a mount namespace of its own, after these words of a shell; `before` stands before its name.
    fn of(namespace: &Namespace, shell: &str, before: &str, words: &str) -> Result<Self> {
        let script =
            format!("{shell}\nexec {before} {} doctor --no-model --json {words}", binary()?.display());
        let output = namespace
            .command("unshare")
            .args(["--mount", "bash", "-c", &script])
            .output()
            .context("unshare")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        let all: Vec<Value> =
            serde_json::from_str(text.trim()).with_context(|| format!("{script}: {text}{said}"))?;
        let field = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let findings =
            all.iter().map(|f| (field(f, "subject"), field(f, "state"), field(f, "text"))).collect();
        Ok(Self { findings, healthy: output.status.success() })
    }

    /// Fails unless this was found, with these words, and the exit code says so.
    fn expect(&self, subject: &str, state: &str, words: &str) -> Result<()> {
        let found =
            self.findings.iter().any(|(s, how, text)| s == subject && how == state && text.contains(words));
        ensure!(found, "no {state} of {subject} with {words:?} in {:#?}", self.findings);
        let failed = self.findings.iter().any(|(_, state, _)| state == "failed");
        ensure!(failed != self.healthy, "the exit code says what the lines say: {:#?}", self.findings);
        Ok(())
    }
}

#[test]
fn a_machine_without_fault_is_well_and_packets_notice_nothing() -> Result<()> {
    let Some(_machine) = machine::shared("doctor on a machine without fault") else { return Ok(()) };
    let cable = Cable::new()?;
    let well = Diagnosis::of(&cable.watches, "true", "", "-i in --max-flows 1000")?;
    ensure!(well.healthy, "{:#?}", well.findings);
    well.expect("kernel programs", "ok", "the kernel takes them")?;
    well.expect("interface in", "ok", "there, and up")?;
    ensure!(!cable.watches.has_xdp("in")?, "nothing is attached");
    // Without options it says what the machine offers.
    let bare = Diagnosis::of(&cable.watches, "true", "", "--max-flows 1000")?;
    ensure!(bare.healthy, "{:#?}", bare.findings);
    Ok(())
}

#[test]
fn broken_machines_are_found_by_name() -> Result<()> {
    let Some(_machine) = machine::shared("doctor on broken machines") else { return Ok(()) };
    let cable = Cable::new()?;
    let strace = |call: &str, error: &str| {
        format!("strace -f -o /dev/null -e trace={call} -e inject={call}:error={error}")
    };
    let (no_bpf, no_membarrier) = (strace("bpf", "EPERM"), strace("membarrier", "ENOSYS"));
    // Nothing of flowmeter needs it any more.
    let without = Diagnosis::of(&cable.watches, "true", &no_membarrier, "-i in --max-flows 1000")?;
    ensure!(without.healthy, "{:#?}", without.findings);
    for (what, shell, before, words, subject, part) in [
        (
            "a read-only /sys without the BPF file system, and pins",
            "mount -t tmpfs t /sys/fs/bpf; mount -o remount,bind,ro /sys/fs/bpf",
            "",
            "-i in --pin /sys/fs/bpf/flowmeter",
            "kernel programs",
            "BPF file system",
        ),
        ("no /sys", "mount -t tmpfs t /sys", "", "-i in", "/sys", "mount -t sysfs"),
        ("no /proc", "mount -t tmpfs t /proc", "", "-i in", "/proc", "mount -t proc"),
        ("a rootless container", "true", "unshare -Ur", "-i in", "user namespace", "rootless container"),
        (
            "a rootless container with a network of its own",
            "true",
            "unshare -Urn",
            "",
            "user namespace",
            "rootless container",
        ),
        ("seccomp forbids bpf", "true", &no_bpf, "-i in", "kernel programs", "Operation not permitted"),
        (
            "no capability",
            "true",
            "setpriv --inh-caps=-all --bounding-set=-all",
            "-i in",
            "capabilities",
            "CAP_NET_ADMIN and CAP_PERFMON and CAP_BPF",
        ),
        ("a table of no flow", "true", "", "-i in --max-flows 0", "options", "--max-flows 0"),
        (
            "a table beyond all bounds",
            "true",
            "",
            "-i in --max-flows 100000000",
            "options",
            "--max-flows 100000000",
        ),
        (
            "a table larger than the machine",
            "true",
            "",
            "-i in --max-flows 67108864",
            "memory",
            "name fewer flows",
        ),
        ("no such feature set", "true", "", "-i in --set nosuch", "options", "nosuch"),
        ("an audit of nothing", "true", "", "-i in --audit 5", "options", "audit"),
        ("divert to nobody", "true", "", "-i in --mode divert", "options", "--inspector"),
        ("block without a word", "true", "", "-i in --mode block", "options", "--yes-drop-traffic"),
        (
            "divert to an interface that is not there",
            "true",
            "",
            "-i in --mode divert --inspector ids9",
            "inspector ids9",
            "ids9",
        ),
        (
            "a list that is none",
            "true",
            "",
            "-i in --mode mirror --inspector lo --allow /etc/hosts",
            "lists",
            "/etc/hosts",
        ),
        ("no such interface", "true", "", "-i nosuch", "interface nosuch", "none of this name"),
        ("no folder for the log", "true", "", "-i in -l /nowhere/log", "log", "no folder /nowhere"),
        ("a folder for a log", "true", "", "-i in -l /tmp", "log", "it is a folder"),
    ] {
        let broken = Diagnosis::of(&cable.watches, shell, before, words).context(what)?;
        broken.expect(subject, "failed", part).context(what)?;
    }
    Ok(())
}

/// A BPF file system of the test's own.
struct BpfFolder(PathBuf);

impl BpfFolder {
    fn at(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir(&folder)?;
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&folder).status()?;
        ensure!(mounted.success(), "mount -t bpf");
        Ok(Self(folder))
    }
}

impl Drop for BpfFolder {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn what_others_hold_is_found_by_name() -> Result<()> {
    let Some(_machine) = machine::shared("doctor beside others") else { return Ok(()) };
    let cable = Cable::new()?;
    cable.watches.ip(&["link", "set", "lo", "up"])?;
    let (folder, log) = (BpfFolder::at(cable.file("bpf"))?, cable.file("log"));
    let pins = folder.0.join("pins").display().to_string();
    let agent = cable.agent(&["--no-model", "--max-flows", "100", "--pin", &pins])?;
    let words = format!("-i in --max-flows 100 --pin {pins} --log {} --metrics 9599", log.display());
    let held = cable.watches.run(|| -> Result<Diagnosis> {
        let _port = TcpListener::bind("127.0.0.1:9599")?;
        Diagnosis::of(&cable.watches, "true", "", &words)
    })??;
    held.expect("interface in", "failed", "an XDP program is attached already")?;
    held.expect("kernel programs", "failed", "another agent holds")?;
    held.expect("log", "failed", "cannot serve metrics at 127.0.0.1:9599")?;
    let words = format!("-i in --log {}", log.display());
    Diagnosis::of(&cable.watches, "true", "", &words)?.expect(
        "log",
        "failed",
        "another process writes to",
    )?;
    agent.end(Signal::Interrupt)?;
    let down = "ip link set dev in down";
    Diagnosis::of(&cable.watches, down, "", "-i in")?.expect("interface in", "warning", "it is down")?;
    Ok(())
}

/// Refusals of the command line are the same as those of `live`.
#[test]
fn a_wrong_option_is_refused_as_live_refuses_it() -> Result<()> {
    for words in [
        &["--idle-timeout", "0"][..],
        &["--stats-interval", "1ns"],
        &["--max-flows", "-1"],
        &["--format", "yaml"],
    ] {
        let said = |command: &str| -> Result<(Option<i32>, String)> {
            let output = Command::new(binary()?).args([command, "-i", "lo"]).args(words).output()?;
            let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
            Ok((output.status.code(), said))
        };
        let (doctor, live) = (said("doctor")?, said("live")?);
        ensure!(doctor == live && doctor.0 == Some(2), "{words:?}: {doctor:?}, {live:?}");
    }
    Ok(())
}
