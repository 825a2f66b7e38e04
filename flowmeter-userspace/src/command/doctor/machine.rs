//! What `doctor` finds of the machine: file systems, memory, clocks, and what an agent before has left.

use std::fs;
use std::path::Path;

use super::findings::Diagnoses;
use crate::config::LiveConfig;
use crate::count::count;
use crate::kernel::{TableSize, clock};

/// Where pins are, unless another folder is named.
const USUAL_PINS: &str = "/sys/fs/bpf/flowmeter";
/// Clocks that take long to read; each packet reads one.
const SLOW_CLOCKS: [&str; 3] = ["hpet", "acpi_pm", "jiffies"];

/// Looks at what does not depend on options.
pub fn look(findings: &mut Diagnoses) {
    if !Path::new("/proc/self/status").exists() {
        findings.failed("/proc", "it is not mounted: mount -t proc proc /proc; a container needs the host's");
    }
    if !Path::new("/sys/devices/system/cpu/possible").exists() {
        findings.failed(
            "/sys",
            "it is not mounted: mount -t sysfs sysfs /sys; a container needs the host's, read-only is enough",
        );
    }
    if !is_first_user_namespace() {
        findings.failed(
            "user namespace",
            "this is a rootless container, whose root has no right over the kernel: run flowmeter on the host, or in a container with \
             root's capabilities BPF, NET_ADMIN and PERFMON",
        );
    }
    clocks(findings);
}

/// The kernel's own user namespace maps each user to itself; capabilities in another one do not count for BPF.
fn is_first_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .map_or(true, |map| map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"])
}

fn clocks(findings: &mut Diagnoses) {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.unwrap_or_default().trim().to_owned();
    if SLOW_CLOCKS.contains(&source.as_str()) {
        findings.warning(
            "clock source",
            format!("{source} takes long to read, and each packet reads it: boot with clocksource=tsc, or ask why the kernel gave it up (dmesg)"),
        );
    } else if !source.is_empty() {
        findings.ok("clock source", source);
    }
    match clock::is_synchronised() {
        Some(true) => findings.ok("time of day", "synchronised"),
        Some(false) => findings.warning(
            "time of day",
            "nobody keeps it in step, so that logs of several machines cannot be joined: run chrony or systemd-timesyncd",
        ),
        None => {}
    }
}

/// Whether the flow table fits into the memory that there is.
pub fn memory(config: &LiveConfig, findings: &mut Diagnoses) {
    let sizes =
        TableSize::for_flows(config.max_flows).and_then(|flows| Ok((flows, TableSize::for_aggregates()?)));
    let needed = match sizes {
        Ok((flows, aggregates)) => flows.bytes() + aggregates.bytes(),
        Err(error) => return findings.failed("memory", format!("{error:#}")),
    };
    let mebibytes = |bytes: u64| bytes >> 20;
    for (what, room) in [("the machine has", available()), ("the cgroup allows", cgroup_room())] {
        let Some(room) = room.filter(|room| needed > *room) else { continue };
        return findings.failed(
            "memory",
            format!(
                "the table of --max-flows {} takes {} MiB, and {what} {} MiB: name fewer flows, or give more memory",
                config.max_flows,
                mebibytes(needed),
                mebibytes(room)
            ),
        );
    }
    findings
        .ok("memory", format!("{} MiB for {}", mebibytes(needed), count(config.max_flows.into(), "flow")));
}

/// Bytes of memory that the machine can give.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Bytes of memory that this process's cgroup, or one above it, still gives.
fn cgroup_room() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let below = |root: &str, path: &str, limit: &str, used: &str| {
        let mut folder = Path::new(root).join(path.trim_start_matches('/'));
        let mut least = None;
        loop {
            let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
            if let (Some(limit), Some(used)) = (number(limit), number(used)) {
                let room = limit.saturating_sub(used);
                least = Some(least.map_or(room, |least: u64| least.min(room)));
            }
            if folder == Path::new(root) || !folder.pop() {
                return least;
            }
        }
    };
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            match controllers {
                "" => below("/sys/fs/cgroup", path, "memory.max", "memory.current"),
                "memory" => {
                    below("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")
                }
                _ => None,
            }
        })
        .min()
}

/// What an agent before has left.
pub fn leftovers(pins: Option<&Path>, findings: &mut Diagnoses) {
    let folder = pins.unwrap_or(Path::new(USUAL_PINS));
    let Ok(found) = fs::read_dir(folder) else { return };
    let left = found.flatten().count() as u64;
    let shown = folder.display();
    match (left, pins) {
        (0, _) => {}
        (_, Some(_)) => findings.ok("pins", format!("{shown} has what an agent before has left; it is adopted")),
        (left, None) => findings.warning(
            "leftovers",
            format!(
                "{shown} has {} of an agent before, which go on counting: start with --pin {shown} to adopt them, or rm -r {shown}",
                count(left, "pin")
            ),
        ),
    }
}
