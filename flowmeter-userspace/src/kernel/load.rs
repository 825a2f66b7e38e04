//! Loads the kernel programs and makes their maps.

use anyhow::{Context as _, Result};
use aya::maps::xdp::DevMap;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use flowmeter_common::config::{KernelConfig, counter_slot};

use super::attach::{Attaching, Attachment, Links};
use super::counters::Watched;
use super::interfaces::{self, Interface};
use super::pins::{MAPS, Pins};
use super::prefilter::PrefilterMaps;
use super::programs::{Programs, tc_program, xdp_program};
use super::random::random_keys;
use super::{Counters, Heartbeat, ListMaps, Ring, SharedTable, TableSize};
use crate::config::LiveConfig;
use crate::prefilter::Policy;

/// The compiled programs, which are committed; `cargo xtask ebpf` builds them.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../../bpf/flowmeter.bpf.o"));

/// Loaded and attached programs. Dropping it detaches them.
pub struct Kernel {
    ebpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    interfaces: Vec<Interface>,
    programs: Programs,
    links: Links,
    pins: Option<Pins>,
    /// Gives each interface a counter slot.
    multiplier: u32,
    /// Where packets are redirected to.
    inspector: Option<DevMap<MapData>>,
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

impl Kernel {
    /// Loads the programs and makes their maps; nothing is attached yet.
    ///
    /// # Errors
    /// An interface does not exist, or the kernel refuses the programs.
    pub fn load(config: &LiveConfig, policy: &Policy) -> Result<Loaded> {
        let interfaces = interfaces::find(&config.interfaces)?;
        let size = TableSize::for_flows(config.max_flows)?;
        let mut settings = KernelConfig {
            timeouts: config.timeouts,
            hash_keys: random_keys()?,
            buckets: size.buckets(),
            interface_multiplier: interfaces::find_multiplier(&interfaces)?,
            events_opened: 0,
            tunnels: config.parse.tunnels.into(),
            interruptible: super::probe::interruptible().into(),
        };
        let pins = config.pin.as_deref().map(Pins::open).transpose()?;
        let adopted = match &pins {
            Some(pins) => pins.settle(&mut settings)?,
            None => false,
        };
        let programs = Programs::new(policy.mode(), config.egress);
        let mut ebpf = load_programs(&settings, policy, size, &programs, pins.as_ref())?;
        let aggregates = SharedTable::take(&mut ebpf, SharedTable::AGGREGATES, TableSize::for_aggregates()?)?;
        let table = SharedTable::take(&mut ebpf, SharedTable::FLOWS, size)?;
        let ring = ebpf.take_map("EVENTS").context("the programs have no map EVENTS")?;
        let ring = Ring::new(RingBuf::try_from(ring)?);
        let counters = ebpf.take_map("COUNTERS").context("the programs have no map COUNTERS")?;
        let PrefilterMaps { heartbeat, lists, tallies, inspector } =
            PrefilterMaps::take(&mut ebpf, &policy.config())?;
        let multiplier = settings.interface_multiplier;
        let watched = interfaces.iter().map(|i| Watched::new(i, counter_slot(i.index, multiplier)));
        let counters = Counters::new(PerCpuArray::try_from(counters)?, tallies, watched.collect());
        let logger = match EbpfLogger::init(&mut ebpf) {
            Ok(logger) => Some(logger),
            Err(error) => {
                log::debug!("the kernel programs have nothing to log: {error}");
                None
            }
        };
        let links = Links::default();
        let kernel = Self { ebpf, logger, interfaces, programs, links, pins, multiplier, inspector };
        Ok(Loaded { kernel, table, aggregates, ring, counters, heartbeat, lists, adopted })
    }

    /// Attaches to all interfaces, natively where the driver can.
    ///
    /// # Errors
    /// An interface refuses. What was attached before is detached when `self` is dropped.
    pub fn attach(&mut self) -> Result<Vec<Attachment>> {
        let Self { ebpf, pins, programs, links, interfaces, .. } = self;
        links.attach_all(&mut Attaching { ebpf, pins: pins.as_ref(), programs }, interfaces)
    }

    /// The watched interfaces, with the numbers that they had when they were attached to.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Lets go of an interface that is gone, or whose program somebody detached.
    pub fn forget(&mut self, name: &str) {
        self.links.forget(&mut self.ebpf, name);
    }

    /// Attaches again to an interface that has come back, perhaps under another number.
    ///
    /// # Errors
    /// It refuses, or its packets could not be told from those of another interface.
    pub fn attach_again(&mut self, interface: &Interface, counters: &Counters) -> Result<Attachment> {
        counters.add_number(
            &interface.name,
            interface.index,
            counter_slot(interface.index, self.multiplier),
        )?;
        let Self { ebpf, pins, programs, links, .. } = self;
        let mut attaching = Attaching { ebpf, pins: pins.as_ref(), programs };
        let attachment = links.attach(&mut attaching, interface, &mut Vec::new())?;
        if let Some(known) = self.interfaces.iter_mut().find(|known| known.name == interface.name) {
            known.index = interface.index;
        }
        Ok(attachment)
    }

    /// Has packets redirected to an inspector's interface that has come back under another number.
    ///
    /// # Errors
    /// The mode copies to a number that is fixed while the programs run, or the kernel refuses.
    pub fn redirect_to(&mut self, index: u32) -> Result<()> {
        let inspector = self.inspector.as_mut().context("copies go to the interface's old number")?;
        inspector.set(0, index, None, 0).context("the kernel cannot redirect to the inspector's interface")
    }

    /// Detaches from all interfaces. What the programs have counted stays in the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&mut self) -> Result<()> {
        if let Some(pins) = &self.pins {
            pins.remove();
        }
        self.links.detach_all(&mut self.ebpf)
    }

    /// Passes the kernel programs' own messages to the log.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// Loads the maps, and the programs that will be attached.
fn load_programs(
    settings: &KernelConfig,
    policy: &Policy,
    size: TableSize,
    programs: &Programs,
    pins: Option<&Pins>,
) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for name in MAPS {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    let sized =
        [size.maps(SharedTable::FLOWS), TableSize::for_aggregates()?.maps(SharedTable::AGGREGATES)].concat();
    for (name, elements) in &sized {
        loader.map_max_entries(name, *elements);
    }
    let prefilter = policy.config();
    let mut ebpf = loader
        .override_global("CONFIG", settings, true)
        .override_global("PREFILTER", &prefilter, true)
        .load(&OBJECT.0)
        .context("the kernel refused the flow table or the programs' maps")?;
    // Before any map is taken out: a program is loaded with its maps' descriptors, which must still be open.
    let ingress = xdp_program(&mut ebpf, programs.ingress)?;
    ingress.load().map_err(explain).context("the kernel refused the ingress program")?;
    for &(name, _) in &programs.tc {
        let program = tc_program(&mut ebpf, name)?;
        program.load().map_err(explain).with_context(|| format!("the kernel refused the program {name}"))?;
    }
    Ok(ebpf)
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
