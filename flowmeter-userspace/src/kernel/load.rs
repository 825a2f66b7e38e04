//! Loads the kernel programs, attaches them to interfaces, and detaches them.

use std::collections::HashSet;
use std::ffi::CString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aya::maps::{PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use aya::programs::tc::{self, SchedClassifierLink, SchedClassifierLinkId};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use flowmeter_common::config::{KernelConfig, MAX_INTERFACES, counter_slot};
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::ParseOptions;

use super::counters::Watched;
use super::pins::{LINK, MAPS, Pins};
use super::prefilter::PrefilterMaps;
use super::{Counters, Heartbeat, ListMaps, Ring, SharedTable, TableSize};
use crate::prefilter::{Mode, Policy};

/// The compiled programs; the build script puts them here.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/flowmeter.bpf.o")));

/// The programs: those that only watch, and those that also react.
const WATCH_INGRESS: &str = "flowmeter_ingress";
const WATCH_EGRESS: &str = "flowmeter_egress";
const FILTER_INGRESS: &str = "filter_ingress";
const FILTER_EGRESS: &str = "filter_egress";
const MIRROR_INGRESS: &str = "mirror_ingress";

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
    pub look: ParseOptions,
    /// Size of the flow table.
    pub size: TableSize,
    /// What becomes of packets.
    pub policy: Policy,
    /// The folder where programs and maps are left for the next agent.
    pub pin: Option<PathBuf>,
}

impl Settings {
    /// The XDP program.
    fn ingress_program(&self) -> &'static str {
        match self.policy.mode() {
            Mode::Watch | Mode::Mirror => WATCH_INGRESS,
            Mode::Divert | Mode::Block => FILTER_INGRESS,
        }
    }

    /// The TC programs, each with where it is attached.
    fn tc_programs(&self) -> Vec<(&'static str, TcAttachType)> {
        let egress = if self.policy.mode() == Mode::Watch { WATCH_EGRESS } else { FILTER_EGRESS };
        let mirror = (self.policy.mode() == Mode::Mirror).then_some((MIRROR_INGRESS, TcAttachType::Ingress));
        mirror.into_iter().chain(self.egress.then_some((egress, TcAttachType::Egress))).collect()
    }
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
    /// By program.
    tc_links: Vec<(&'static str, SchedClassifierLinkId)>,
    /// TC links that are pinned.
    pinned_tc_links: Vec<FdLink>,
    pins: Option<Pins>,
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
    /// The heartbeat that keeps verdicts in force.
    pub heartbeat: Heartbeat,
    /// Allow and deny lists.
    pub lists: ListMaps,
    /// True if the table is one that an agent before has left.
    pub adopted: bool,
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
        let mut config = KernelConfig {
            timeouts: settings.timeouts,
            hash_seed: random_seed()?,
            buckets: settings.size.buckets(),
            interface_multiplier: multiplier,
            events_opened: 0,
            tunnels: settings.look.tunnels.into(),
            reserved: 0,
        };
        let pins = settings.pin.as_deref().map(Pins::open).transpose()?;
        let adopted = match &pins {
            Some(pins) => pins.settle(&mut config)?,
            None => false,
        };
        let prefilter = settings.policy.config();
        let mut loader = EbpfLoader::new();
        if let Some(pins) = &pins {
            for name in MAPS {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        let aggregates = TableSize::for_aggregates()?;
        let sized =
            [settings.size.maps(SharedTable::FLOWS), aggregates.maps(SharedTable::AGGREGATES)].concat();
        for (name, elements) in &sized {
            loader.map_max_entries(name, *elements);
        }
        let mut ebpf = loader
            .override_global("CONFIG", &config, true)
            .override_global("PREFILTER", &prefilter, true)
            .load(&OBJECT.0)
            .context("the kernel refused the flow table or the programs' maps")?;

        // Before any map is taken out: a program is loaded with its maps' descriptors, which must still be open.
        let ingress = xdp_program(&mut ebpf, settings.ingress_program())?;
        ingress.load().map_err(explain).context("the kernel refused the ingress program")?;
        for (name, _) in settings.tc_programs() {
            let program = tc_program(&mut ebpf, name)?;
            program
                .load()
                .map_err(explain)
                .with_context(|| format!("the kernel refused the program {name}"))?;
        }

        let aggregates = SharedTable::take(&mut ebpf, SharedTable::AGGREGATES, aggregates)?;
        let table = SharedTable::take(&mut ebpf, SharedTable::FLOWS, settings.size)?;
        let ring = ebpf.take_map("EVENTS").context("the programs have no map EVENTS")?;
        let ring = Ring::new(RingBuf::try_from(ring)?);
        let counters = ebpf.take_map("COUNTERS").context("the programs have no map COUNTERS")?;
        let PrefilterMaps { heartbeat, lists, tallies } = PrefilterMaps::take(&mut ebpf, &prefilter)?;
        let counters = Counters {
            map: PerCpuArray::try_from(counters)?,
            tallies,
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
        let kernel = Self {
            ebpf,
            logger,
            ingress_links: Vec::new(),
            tc_links: Vec::new(),
            pinned_tc_links: Vec::new(),
            pins,
        };
        Ok(Loaded { kernel, table, aggregates, ring, counters, heartbeat, lists, adopted })
    }

    /// Attaches to all interfaces, natively where the driver can.
    ///
    /// # Errors
    /// An interface refuses. What was attached before is detached when `self` is dropped.
    pub fn attach(&mut self, settings: &Settings) -> Result<Vec<Attachment>> {
        let xdp = xdp_program(&mut self.ebpf, settings.ingress_program())?;
        let (mut attachments, mut kept) = (Vec::new(), Vec::new());
        for interface in &settings.interfaces {
            let (link, mode) = match &self.pins {
                Some(pins) => {
                    let (link, mode) = adopt_or_attach_xdp(xdp, pins, interface)?;
                    let name = xdp_link_name(interface, mode);
                    let link = pins.keep(link, &name)?;
                    kept.push(name);
                    (link, mode)
                }
                None => attach_xdp(xdp, interface)?,
            };
            self.ingress_links.push(link);
            attachments.push(Attachment {
                interface: interface.clone(),
                ingress: mode,
                egress: watches_egress(settings, interface),
            });
        }
        for (name, way) in settings.tc_programs() {
            let tc = tc_program(&mut self.ebpf, name)?;
            let looked_at = |name: &&String| way == TcAttachType::Ingress || watches_egress(settings, name);
            for interface in settings.interfaces.iter().filter(looked_at) {
                let name_kept = format!("{LINK}{}-{interface}", words(way));
                if let Some(old) = self.pins.as_ref().and_then(|pins| pins.link(&name_kept))
                    && let Ok(old) = SchedClassifierLink::try_from(old)
                    && let Ok(link) = tc.attach_to_link(old)
                {
                    // The pin is where it was.
                    self.pinned_tc_links.push(FdLink::try_from(tc.take_link(link)?)?);
                    kept.push(name_kept);
                    continue;
                }
                let link = tc
                    .attach(interface, way)
                    .or_else(|_| {
                        // Kernels before 6.6 have no TCX and need a queueing discipline to hold the filter.
                        let added = tc::qdisc_add_clsact(interface);
                        log::debug!("{interface}: adding clsact: {added:?}");
                        tc.attach(interface, way)
                    })
                    .with_context(|| format!("{interface}: cannot attach to {} packets", words(way)))?;
                match &self.pins {
                    Some(pins) => {
                        let link = FdLink::try_from(tc.take_link(link)?).ok().context(
                            "--pin needs Linux 6.6 or newer, where what is attached to TC is a link; leave it out, or \
                             watch with --no-egress",
                        )?;
                        self.pinned_tc_links.push(pins.keep(link, &name_kept)?);
                        kept.push(name_kept);
                    }
                    None => self.tc_links.push((name, link)),
                }
            }
        }
        if let Some(pins) = &self.pins {
            pins.release_links(&kept)?;
        }
        Ok(attachments)
    }

    /// Detaches from all interfaces. What the programs have counted stays in the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&mut self) -> Result<()> {
        if let Some(pins) = &self.pins {
            pins.remove();
        }
        self.pinned_tc_links.clear();
        self.ingress_links.clear();
        for (name, link) in self.tc_links.drain(..) {
            tc_program(&mut self.ebpf, name)?
                .detach(link)
                .with_context(|| format!("cannot detach {name}"))?;
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

fn xdp_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn tc_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

const fn words(way: TcAttachType) -> &'static str {
    match way {
        TcAttachType::Ingress => "incoming",
        _ => "outgoing",
    }
}

/// Whether what leaves an interface is counted. What leaves the loopback arrives there, and would be counted twice.
fn watches_egress(settings: &Settings, interface: &str) -> bool {
    settings.egress && interface_index(interface) != Some(LOOPBACK_INDEX)
}

/// The kernel's number of an interface of this name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a string ending in zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
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

/// The name under which an interface's XDP link is kept.
fn xdp_link_name(interface: &str, mode: &str) -> String {
    format!("{LINK}xdp-{mode}-{interface}")
}

/// Puts the program into the link that the agent before has left, if there is one whose interface still exists.
fn adopt_or_attach_xdp(xdp: &mut Xdp, pins: &Pins, interface: &str) -> Result<(FdLink, &'static str)> {
    for mode in ["native", "generic"] {
        if let Some(old) = pins.link(&xdp_link_name(interface, mode))
            && let Ok(link) = xdp.attach_to_link(XdpLink::try_from(old)?)
            && let Some(link) = as_fd_link(xdp, link)?
        {
            return Ok((link, mode));
        }
    }
    attach_xdp(xdp, interface)
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
