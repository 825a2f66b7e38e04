//! What the machine must offer before anything is attached, each with what to do if it does not.

use anyhow::{Result, bail};

use super::grace;

/// Oldest kernel that has all that the programs use: XDP with fragments and its length helper came with 5.18.
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// Capabilities needed, by number (linux/capability.h), and what for.
const CAPABILITIES: [(u32, &str); 3] =
    [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// Result of one check.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was looked at.
    pub subject: &'static str,
    /// What was found, or what is wrong and what to do.
    pub finding: Result<String, String>,
}

/// Everything that the live mode needs of the machine.
pub fn checks() -> Vec<Check> {
    vec![
        Check { subject: "kernel", finding: kernel(&rustix::system::uname().release().to_string_lossy()) },
        Check { subject: "capabilities", finding: own_capabilities() },
        Check { subject: "grace period", finding: grace_period() },
        Check { subject: "preemption", finding: Ok(preemption().to_owned()) },
    ]
}

/// Fails with the first check that does not hold.
///
/// # Errors
/// One sentence: what is missing and what to do.
pub fn require() -> Result<()> {
    for check in checks() {
        if let Err(problem) = check.finding {
            bail!(problem);
        }
    }
    Ok(())
}

/// True if kernel programs can interrupt each other on one CPU: on kernels built with PREEMPT_RT. The programs look for it
/// then, and what meets another is counted as skipped, as `busy`.
pub fn interruptible() -> bool {
    is_real_time(&read("/sys/kernel/realtime"), &read("/proc/sys/kernel/version"))
}

/// `flag` is the file that real-time kernels have, `version` what `uname -v` prints.
fn is_real_time(flag: &str, version: &str) -> bool {
    flag.trim() == "1" || version.split_whitespace().any(|word| matches!(word, "PREEMPT_RT" | "RT"))
}

/// What cannot be read says nothing, and is judged like what is missing.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `release` is what `uname -r` prints.
fn kernel(release: &str) -> Result<String, String> {
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_KERNEL {
        let (major, minor) = OLDEST_KERNEL;
        return Err(format!(
            "this kernel is {release}; live metering needs Linux {major}.{minor} or newer (captures can be read on any)"
        ));
    }
    Ok(format!("Linux {release}"))
}

/// Those of this process.
fn own_capabilities() -> Result<String, String> {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => capabilities(&status),
        Err(error) => {
            Err(format!("cannot read /proc/self/status: {error}; mount /proc: mount -t proc proc /proc"))
        }
    }
}

/// `status` is a process's, as proc(5) has it.
fn capabilities(status: &str) -> Result<String, String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 == 1;
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        // Before CAP_PERFMON and CAP_BPF there was only this one, and it still stands for both.
        .filter(|(number, _)| !has(*number) && (*number == CAP_NET_ADMIN || !has(CAP_SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Ok("CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF".to_owned());
    }
    Err(format!(
        "attaching to an interface needs {}; run flowmeter as root, or give it the capabilities once with \
         `sudo setcap cap_net_admin,cap_perfmon,cap_bpf=ep $(command -v flowmeter)`",
        missing.join(" and ")
    ))
}

/// Flows are taken out of the table only when no kernel program can write them any more.
fn grace_period() -> Result<String, String> {
    match grace::require() {
        Ok(()) => Ok("running kernel programs can be waited for".to_owned()),
        Err(error) => Err(format!(
            "{error}; live metering cannot take flows out of the table safely without it (it needs CAP_BPF)"
        )),
    }
}

/// What the kernel does with programs that are running.
fn preemption() -> &'static str {
    if interruptible() {
        "real-time kernel: programs may interrupt each other; packets of those that do are skipped as busy"
    } else {
        "programs run to their end on their CPU"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_kernels_are_told_from_others() {
        assert!(is_real_time("1\n", ""));
        assert!(is_real_time("", "#1 SMP PREEMPT_RT Debian 6.1.99-1 (2024-07-15)\n"));
        assert!(!is_real_time("", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.6-1\n"));
        assert!(!is_real_time("0\n", "#1 SMP"));
    }

    #[test]
    fn kernels_older_than_the_programs_need_are_refused_with_what_is_needed() {
        for release in ["5.18.0", "5.18.0-4-amd64\n", "6.1.0-rc3+", "10.0"] {
            assert!(kernel(release).is_ok(), "{release}");
        }
        for release in ["5.17.15", "4.19.0-27-amd64", "3.10.0-1160.el7.x86_64", ""] {
            let problem = kernel(release).expect_err(release);
            assert!(problem.contains(release) && problem.contains("5.18"), "{problem}");
        }
    }

    #[test]
    fn capabilities_are_enough_by_name_or_by_the_old_one_for_all() {
        let of = |bits: u64| capabilities(&format!("Name:\tflowmeter\nCapEff:\t{bits:016x}\n"));
        let (net, perfmon, bpf, admin) = (1 << 12, 1 << 38, 1 << 39, 1 << 21);
        assert!(of(net | perfmon | bpf).is_ok());
        assert!(of(net | admin).is_ok());
        for (bits, missing) in
            [(perfmon | bpf, "CAP_NET_ADMIN"), (net | perfmon, "CAP_BPF"), (net, "CAP_PERFMON")]
        {
            let problem = of(bits).expect_err(missing);
            assert!(problem.contains(missing) && problem.contains("setcap"), "{problem}");
        }
        assert!(capabilities("").is_err());
    }
}
