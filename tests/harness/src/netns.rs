//! Network namespaces that tests make and remove: a guard each, joined by veth pairs.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long packets on a cable may take to be received.
const PATIENCE: Duration = Duration::from_secs(60);
/// Numbers the namespaces of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// How much the kernel may say by itself on a veth pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chatter {
    /// As on any interface: link-local addresses, duplicate detection, router solicitations, ARP.
    Usual,
    /// Addresses that are added work, by ARP and neighbour discovery; nothing is made up or announced.
    OnDemand,
    /// Neither IPv6 nor ARP: whatever passes was sent by the test.
    None,
}

/// Whether the interface may hand over segments larger than its MTU, to be cut by "hardware".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// As the kernel has it: super-packets of up to 64 KiB cross the pair.
    Usual,
    /// Frames are what a cable would carry.
    Off,
}

/// A network namespace, removed with all its interfaces when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; `label` makes its name readable in `ip netns list`.
    pub fn new(label: &str) -> Result<Self> {
        let name = format!("fmtest-{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs `program` inside; the process is the program itself, so signals reach it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip` with these words on this namespace and returns what it said.
    pub fn ip(&self, words: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.name], words].concat())
    }

    /// Calls `work` on a thread of its own that has entered the namespace; sockets opened there belong to it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: setns takes no pointers; the descriptor is open until this thread has ended.
                let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } == 0;
                ensure!(entered, "entering {path}: {}", last_error());
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a value below `/proc/sys/net` of this namespace.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value))?.with_context(|| format!("setting net/{name} to {value}"))
    }

    /// Joins this namespace's new interface `mine` to `theirs` in another one; both are up afterwards.
    pub fn join(
        &self,
        mine: &str,
        other: &Self,
        theirs: &str,
        chatter: Chatter,
        offload: Offload,
    ) -> Result<()> {
        for namespace in [self, other] {
            if chatter == Chatter::OnDemand {
                for (name, value) in
                    [("addr_gen_mode", "1"), ("accept_dad", "0"), ("router_solicitations", "0")]
                {
                    namespace.sysctl(&format!("ipv6/conf/default/{name}"), value)?;
                }
            }
        }
        self.ip(&["link", "add", mine, "type", "veth", "peer", "name", theirs, "netns", &other.name])?;
        for (namespace, interface) in [(self, mine), (other, theirs)] {
            if chatter == Chatter::None {
                namespace.sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?;
                namespace.ip(&["link", "set", interface, "arp", "off"])?;
            }
            if offload == Offload::Off {
                namespace.run(|| offload_off(interface))??;
            }
            namespace.ip(&["link", "set", interface, "up"])?;
        }
        Ok(())
    }

    /// Adds an address with its prefix length to an interface.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        self.ip(&["address", "add", address, "dev", interface]).map(drop)
    }

    /// The kernel's number of an interface.
    pub fn interface_index(&self, interface: &str) -> Result<u32> {
        let name = std::ffi::CString::new(interface).context("an interface's name")?;
        // SAFETY: the name is a C string that outlives the call.
        let index = self.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) })?;
        ensure!(index != 0, "there is no interface {interface} in {}", self.name);
        Ok(index)
    }

    /// Packets that an interface has received, by its driver's count.
    pub fn received_packets(&self, interface: &str) -> Result<u64> {
        self.driver_count(interface, "rx", "packets")
    }

    /// Waits until an interface has received so many packets, by its driver's count: then programs have run on all of them.
    ///
    /// # Errors
    /// They have not come within a time that suffices on any machine.
    pub fn wait_received(&self, interface: &str, packets: u64) -> Result<()> {
        let limit = Instant::now() + PATIENCE;
        loop {
            let received = self.received_packets(interface)?;
            if received >= packets {
                return Ok(());
            }
            ensure!(
                Instant::now() < limit,
                "{interface} has received {received} of {packets} packets after {} s",
                PATIENCE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until a program inside listens on this TCP port.
    ///
    /// # Errors
    /// None does within a time that suffices on any machine.
    pub fn wait_listening(&self, port: u16) -> Result<()> {
        // The kernel's list: local address and port in hexadecimal, state 0A for one that listens.
        let listens = |table: String| {
            table.lines().any(|line| {
                let mut words = line.split_ascii_whitespace().skip(1);
                words.next().is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
                    && words.nth(1) == Some("0A")
            })
        };
        let limit = Instant::now() + PATIENCE;
        loop {
            // Of the thread that asks: its namespace, not that of the process.
            let tables = self.run(|| {
                ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].map(std::fs::read_to_string)
            })?;
            if tables.into_iter().flatten().any(listens) {
                return Ok(());
            }
            ensure!(
                Instant::now() < limit,
                "nothing listens on port {port} in {} after {} s",
                self.name,
                PATIENCE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until nothing more is received, for traffic of which a part may be dropped on its way.
    ///
    /// # Errors
    /// It does not end within a time that suffices on any machine.
    pub fn wait_quiet(&self, interface: &str) -> Result<()> {
        let limit = Instant::now() + PATIENCE;
        let mut before = self.received_packets(interface)?;
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let received = self.received_packets(interface)?;
            if received == before {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "{interface} still receives after {} s", PATIENCE.as_secs());
            before = received;
        }
    }

    /// Packets that an interface has dropped, on their way in or out, by its driver's count. A super-packet is one.
    pub fn dropped_packets(&self, interface: &str) -> Result<u64> {
        Ok(self.driver_count(interface, "rx", "dropped")? + self.driver_count(interface, "tx", "dropped")?)
    }

    fn driver_count(&self, interface: &str, way: &str, what: &str) -> Result<u64> {
        let said = self.ip(&["-json", "-statistics", "link", "show", "dev", interface])?;
        let said: serde_json::Value = serde_json::from_str(&said).context("`ip -json` is no JSON")?;
        said[0]["stats64"][way][what].as_u64().with_context(|| format!("`ip` does not say {way} {what}"))
    }

    /// True if a BPF program is attached to the interface's XDP hook.
    pub fn has_xdp(&self, interface: &str) -> Result<bool> {
        Ok(self.ip(&["-details", "link", "show", "dev", interface])?.contains("xdp"))
    }

    /// How many programs are attached to what the interface sends (TCX); 0 on kernels older than 6.6.
    pub fn tcx_egress_programs(&self, interface: &str) -> Result<u32> {
        self.run(|| query_tcx(interface))?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Processes that still run inside keep its interfaces; each is owned by a guard that ends it.
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("could not remove the namespace {}: {error:#}", self.name);
        }
    }
}

/// Runs `ip` and returns what it said on its standard output.
fn ip(words: &[&str]) -> Result<String> {
    let run = Command::new("ip")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context("running `ip`; it comes with the package iproute2")?;
    if !run.status.success() {
        bail!("`ip {}` failed: {}", words.join(" "), String::from_utf8_lossy(&run.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}

/// The calling thread's `errno`, in words.
fn last_error() -> std::io::Error {
    std::io::Error::last_os_error()
}

/// linux/bpf.h: the command, and the attach point.
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_EGRESS: u32 = 47;

/// The part of `union bpf_attr` that BPF_PROG_QUERY uses.
#[repr(C)]
#[derive(Default)]
struct ProgramQuery {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    reserved: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// Asks the kernel for the programs on an interface's egress, in the calling thread's namespace.
fn query_tcx(interface: &str) -> Result<u32> {
    let name = std::ffi::CString::new(interface).context("an interface's name")?;
    // SAFETY: the name is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "there is no interface {interface}: {}", last_error());
    let mut query = ProgramQuery { interface: index, attach_type: BPF_TCX_EGRESS, ..ProgramQuery::default() };
    // SAFETY: pointer and size describe `query`, which outlives the call; no array is given, so only numbers come back.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            std::ptr::from_mut(&mut query),
            size_of::<ProgramQuery>(),
        )
    };
    let error = last_error();
    match error.raw_os_error() {
        // Nothing was ever attached (ENOENT), or the kernel does not know the attach point (EINVAL).
        Some(libc::ENOENT | libc::EINVAL) if result != 0 => Ok(0),
        _ if result != 0 => bail!("asking for TCX programs of {interface}: {error}"),
        _ => Ok(query.count),
    }
}

/// `ifr_data` of an ethtool request that has one number (linux/ethtool.h, struct ethtool_value).
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// linux/sockios.h; the libc crate does not have it.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// linux/ethtool.h: the commands that set checksum, scatter-gather, segmentation and receive offloads.
const ETHTOOL_OFFLOADS: [u32; 6] = [0x15, 0x17, 0x19, 0x1f, 0x24, 0x2c];

/// Turns an interface's offloads off, in the calling thread's namespace.
fn offload_off(interface: &str) -> Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").context("a socket for interface settings")?;
    for command in ETHTOOL_OFFLOADS {
        let mut setting = EthtoolValue { command, value: 0 };
        let mut request = interface_request(interface)?;
        request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut setting).cast();
        // SAFETY: the request names an interface and points to a setting; both live until the call returns.
        if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) } != 0 {
            let error = last_error();
            // What a driver does not know it does not do either.
            ensure!(
                error.raw_os_error() == Some(libc::EOPNOTSUPP),
                "offload {command:#x} of {interface}: {error}"
            );
        }
    }
    Ok(())
}

/// An `ifreq` with its name filled in.
pub(crate) fn interface_request(interface: &str) -> Result<libc::ifreq> {
    // SAFETY: ifreq is plain old data, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(
        !interface.is_empty() && interface.len() < request.ifr_name.len(),
        "`{interface}` is no interface name"
    );
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
