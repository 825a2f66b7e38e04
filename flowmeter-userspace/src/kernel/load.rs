//! Loads the kernel programs, attaches them to interfaces, and detaches them.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use aya::programs::tc::{self, SchedClassifierLinkId};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use flowmeter_common::config::{KernelConfig, MAX_INTERFACES, Timeouts, counter_slot};
use flowmeter_common::parse::Look;

use super::counters::Watched;
use super::{Counters, Ring, SharedTable, TableSize};

/// The compiled programs; the build script puts them here.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/flowmeter.bpf.o")));

const INGRESS: &str = "flowmeter_ingress";
const EGRESS: &str = "flowmeter_egress";

/// The loopback interface's number in every network namespace (the kernel's LOOPBACK_IFINDEX).
const LOOPBACK_INDEX: u32 = 1;

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the interfaces to watch.
    pub interfaces: Vec<String>,
    /// Whether to count what leaves, too.
    pub egress: bool,
    /// When flows end.
    pub timeouts: Timeouts,
    /// How deep packets are looked into.
    pub look: Look,
    /// Size of the flow table.
    pub size: TableSize,
}

/// How one interface is watched.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Interface name.
    pub interface: String,
    /// "native" or "generic".
    pub ingress: &'static str,
    /// Whether packets that leave are counted.
    pub egress: bool,
}

/// Loaded and attached programs. Dropping it detaches them.
pub struct Kernel {
    ebpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Closing a link's descriptor detaches it, also when this process is killed.
    ingress_links: Vec<FdLink>,
    egress_links: Vec<SchedClassifierLinkId>,
}

/// The loaded kernel side, in the parts that different threads use.
pub struct Loaded {
    /// Programs and links.
    pub kernel: Kernel,
    /// The flow table.
    pub table: SharedTable,
    /// What found no slot there.
    pub aggregates: SharedTable,
    /// Events.
    pub ring: Ring,
    /// Accounting.
    pub counters: Counters,
}

struct Interface {
    name: String,
    index: u32,
}

impl Kernel {
    /// Loads the programs and makes their maps; nothing is attached yet.
    ///
    /// # Errors
    /// An interface does not exist, or the kernel refuses the programs.
    pub fn load(settings: &Settings) -> Result<Loaded> {
        let interfaces = find_interfaces(&settings.interfaces)?;
        let multiplier = find_multiplier(&interfaces)?;
        let config = KernelConfig {
            timeouts: settings.timeouts,
            hash_seed: random_seed()?,
            bucket_mask: settings.size.buckets - 1,
            interface_multiplier: multiplier,
            events_opened: 0,
            tunnels: settings.look.tunnels.into(),
        };
        let mut ebpf = EbpfLoader::new()
            .override_global("CONFIG", &config, true)
            .map_max_entries("BUCKETS", settings.size.buckets)
            .map_max_entries("ENTRIES", settings.size.slots())
            .load(&OBJECT.0)
            .context("the kernel refused the flow table or the programs' maps")?;

        // Before any map is taken out: a program is loaded with its maps' descriptors, which must still be open.
        let ingress: &mut Xdp = ebpf.program_mut(INGRESS).context("no ingress program")?.try_into()?;
        ingress.load().map_err(explain).context("the kernel refused the ingress program")?;
        if settings.egress {
            let egress: &mut SchedClassifier =
                ebpf.program_mut(EGRESS).context("no egress program")?.try_into()?;
            egress.load().map_err(explain).context("the kernel refused the egress program")?;
        }

        let mut table = |buckets, entries, size| {
            let (buckets, entries) = (array(&mut ebpf, buckets)?, array(&mut ebpf, entries)?);
            SharedTable::map(buckets.fd().as_fd(), entries.fd().as_fd(), size)
        };
        let aggregates = table("AGGREGATE_BUCKETS", "AGGREGATE_ENTRIES", TableSize::AGGREGATES)?;
        let table = table("BUCKETS", "ENTRIES", settings.size)?;
        let ring = ebpf.take_map("EVENTS").context("the programs have no map EVENTS")?;
        let ring = Ring::new(RingBuf::try_from(ring)?);
        let counters = ebpf.take_map("COUNTERS").context("the programs have no map COUNTERS")?;
        let counters = Counters {
            map: PerCpuArray::try_from(counters)?,
            interfaces: interfaces
                .into_iter()
                .map(|i| Watched { slot: counter_slot(i.index, multiplier), name: i.name, index: i.index })
                .collect(),
        };
        let logger = match EbpfLogger::init(&mut ebpf) {
            Ok(logger) => Some(logger),
            Err(error) => {
                log::debug!("the kernel programs have nothing to log: {error}");
                None
            }
        };
        let kernel = Self { ebpf, logger, ingress_links: Vec::new(), egress_links: Vec::new() };
        Ok(Loaded { kernel, table, aggregates, ring, counters })
    }

    /// Attaches to all interfaces, natively where the driver can.
    ///
    /// # Errors
    /// An interface refuses. What was attached before is detached when `self` is dropped.
    pub fn attach(&mut self, settings: &Settings) -> Result<Vec<Attachment>> {
        let xdp: &mut Xdp = self.ebpf.program_mut(INGRESS).context("no ingress program")?.try_into()?;
        let mut attachments = Vec::new();
        for interface in &settings.interfaces {
            let (link, mode) = attach_xdp(xdp, interface)?;
            self.ingress_links.push(link);
            attachments.push(Attachment {
                interface: interface.clone(),
                ingress: mode,
                egress: watches_egress(settings, interface),
            });
        }
        if settings.egress {
            let tc: &mut SchedClassifier =
                self.ebpf.program_mut(EGRESS).context("no egress program")?.try_into()?;
            for interface in settings.interfaces.iter().filter(|name| watches_egress(settings, name)) {
                let link = tc
                    .attach(interface, TcAttachType::Egress)
                    .or_else(|_| {
                        // Kernels before 6.6 have no TCX and need a queueing discipline to hold the filter.
                        let added = tc::qdisc_add_clsact(interface);
                        log::debug!("{interface}: adding clsact: {added:?}");
                        tc.attach(interface, TcAttachType::Egress)
                    })
                    .with_context(|| format!("{interface}: cannot attach to outgoing packets"))?;
                self.egress_links.push(link);
            }
        }
        Ok(attachments)
    }

    /// Detaches from all interfaces. What the programs have counted stays in the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&mut self) -> Result<()> {
        self.ingress_links.clear();
        let tc: &mut SchedClassifier =
            self.ebpf.program_mut(EGRESS).context("no egress program")?.try_into()?;
        for link in self.egress_links.drain(..) {
            tc.detach(link).context("cannot detach from outgoing packets")?;
        }
        Ok(())
    }

    /// Passes the kernel programs' own messages to the log.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// Whether what leaves an interface is counted. What leaves the loopback arrives there, and would be counted twice.
fn watches_egress(settings: &Settings, interface: &str) -> bool {
    settings.egress && interface_index(interface) != Some(LOOPBACK_INDEX)
}

/// The kernel's number of an interface of this name.
fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a string ending in zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

fn array(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => bail!("the programs have no array {name}"),
    }
}

/// The verifier's log is long; only its end says why.
fn explain(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let text = verifier_log.to_string();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            anyhow::anyhow!("{io_error}; the verifier's last words:\n{tail}")
        }
        other => other.into(),
    }
}

/// Tries native mode, then generic.
fn attach_xdp(xdp: &mut Xdp, interface: &str) -> Result<(FdLink, &'static str)> {
    let native = match xdp.attach(interface, XdpMode::Driver) {
        Ok(link) => match as_fd_link(xdp, link)? {
            Some(link) => return Ok((link, "native")),
            None => "the attachment was not a link".to_owned(),
        },
        Err(error) => root_cause(&error),
    };
    log::warn!(
        "{interface}: no native XDP ({native}); using generic mode, which is slower and sees merged packets"
    );
    let generic = xdp.attach(interface, XdpMode::Skb).map_err(|error| {
        anyhow::anyhow!(
            "{interface}: cannot attach to incoming packets: {}; if another XDP program is attached there, \
             `ip link set dev {interface} xdp off` removes it",
            root_cause(&error)
        )
    })?;
    match as_fd_link(xdp, generic)? {
        Some(link) => Ok((link, "generic")),
        None => bail!(
            "{interface}: the kernel attached without a link, which would outlive this process; not using it"
        ),
    }
}

/// aya falls back to a netlink attachment where a link is refused; that one would outlive this process when it is
/// killed. Such an attachment is taken off again.
fn as_fd_link(xdp: &mut Xdp, id: XdpLinkId) -> Result<Option<FdLink>> {
    let link = xdp.take_link(id)?;
    // On failure the link was consumed, and dropping it detached it.
    Ok(FdLink::try_from(link).ok())
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn find_interfaces(names: &[String]) -> Result<Vec<Interface>> {
    if names.len() > MAX_INTERFACES as usize {
        bail!("{} interfaces were given; one agent watches at most {MAX_INTERFACES}", names.len());
    }
    let mut seen = HashSet::new();
    names
        .iter()
        .map(|name| {
            if !seen.insert(name) {
                bail!("interface {name} was given twice");
            }
            let Some(index) = interface_index(name) else {
                bail!("there is no interface {name} here; there are: {}", known_interfaces());
            };
            Ok(Interface { name: name.clone(), index })
        })
        .collect()
}

fn known_interfaces() -> String {
    let mut names: Vec<String> = std::fs::read_dir("/sys/class/net")
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names.join(", ")
}

/// An odd number that gives each interface a counter slot of its own.
fn find_multiplier(interfaces: &[Interface]) -> Result<u32> {
    // Multiples of an irrational number spread well; with 64 interfaces in 64 slots none may exist, with few there are many.
    let mut candidate = 0x9e37_79b1_u32;
    for _ in 0..1_000_000 {
        let slots: HashSet<u32> = interfaces.iter().map(|i| counter_slot(i.index, candidate)).collect();
        if slots.len() == interfaces.len() {
            return Ok(candidate);
        }
        candidate = candidate.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35e) | 1;
    }
    bail!("{} interfaces are too many to watch in one agent here; start two", interfaces.len())
}

/// A number that nobody can guess.
///
/// # Errors
/// The kernel gives none.
pub fn random_seed() -> Result<u64> {
    let mut seed = [0_u8; 8];
    // SAFETY: eight writable bytes.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if got != seed.len() as isize {
        bail!("the kernel gave no random numbers: {}", std::io::Error::last_os_error());
    }
    Ok(u64::from_ne_bytes(seed))
}
