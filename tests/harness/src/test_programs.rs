//! The kernel programs without an interface: loaded with settings of the test's, run on a packet (BPF_PROG_TEST_RUN).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use flowmeter::kernel::{PrefilterMaps, Ring, SharedTable, TableSize};
use flowmeter_common::config::KernelConfig;
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::flow::FlowState;
use flowmeter_common::hash::HashKeys;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::ParseOptions;
use flowmeter_common::prefilter::PrefilterConfig;

/// The programs for tests and benchmarks; built beside the shipped object.
const OBJECT: &str = "../bpf/test_programs.bpf.o";
/// The program that sends packets.
pub const GENERATOR: &str = "test_generate";
/// `XDP_PASS` (linux/bpf.h).
const XDP_PASS: u32 = 2;
/// Shortest frame that the kernel lets a test run with: an Ethernet header.
pub const SHORTEST: usize = 14;

/// In an element of the traffic: the server sends.
pub const SERVER_SENDS: u32 = 1 << 31;
/// Flows of the traffic that can be told apart.
pub const MAX_FLOWS: u32 = 1 << 24;

/// Which flow each packet of a run belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// The packet is taken as it is given.
    AsGiven,
    /// One after the other, and then from the beginning: a flow's number, with [`SERVER_SENDS`] or not. As many as a
    /// power of two.
    Sequence(Vec<u32>),
    /// Each packet is a flow of its own.
    EachItsOwn,
}

/// How the programs are loaded.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Which of them.
    pub programs: &'a [&'a str],
    /// When flows end.
    pub timeouts: Timeouts,
    /// How deep packets are looked into.
    pub look: ParseOptions,
    /// Flows that the table, and the hash map that it is compared with, has room for.
    pub flows: u32,
    /// Which flow each packet belongs to.
    pub traffic: Traffic,
    /// The interface by which what is generated leaves; 0 if nothing is.
    pub leave_by: u32,
    /// What becomes of packets.
    pub prefilter: PrefilterConfig,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            programs: &[],
            timeouts: Timeouts::default(),
            look: ParseOptions::default(),
            flows: 1,
            traffic: Traffic::AsGiven,
            leave_by: 0,
            prefilter: PrefilterConfig::WATCH,
        }
    }
}

/// Where a CPU is in the traffic; as the programs have it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// Packets made so far.
    pub position: u32,
    /// Exclusive-or of each element.
    pub change: u32,
    /// The clock of the packets, ns.
    pub time: u64,
}

// SAFETY: repr(C), without padding, and every bit pattern is a value.
unsafe impl Pod for Cursor {}

/// An empty flow as the hash map of the yardstick holds it.
#[repr(C)]
#[derive(Clone, Copy)]
struct PlainFlow {
    lock: u32,
    initiator: u32,
    earlier: u64,
    state: [u64; size_of::<FlowState>() / 8],
}

// SAFETY: as above.
unsafe impl Pod for PlainFlow {}

/// Loaded programs and their maps.
pub struct TestPrograms {
    ebpf: Ebpf,
    /// The flow table.
    pub table: Arc<SharedTable>,
    /// What found no slot there.
    pub aggregates: Arc<SharedTable>,
    counters: PerCpuArray<MapData, InterfaceCounters>,
    cursor: PerCpuArray<MapData, Cursor>,
}

impl TestPrograms {
    /// Loads the programs.
    ///
    /// # Errors
    /// They have not been built, or the kernel refuses them.
    pub fn load(setup: &Setup<'_>) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(OBJECT);
        let object = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let size = TableSize::for_flows(setup.flows)?;
        let config = KernelConfig {
            timeouts: setup.timeouts,
            hash_keys: HashKeys::expand(0x1234_5678_9abc_def1),
            buckets: size.buckets(),
            interface_multiplier: 1,
            events_opened: 0,
            tunnels: setup.look.tunnels.into(),
            interruptible: 0,
        };
        let (elements, mask) = match &setup.traffic {
            Traffic::AsGiven => (1, 0),
            Traffic::EachItsOwn => (1, u32::MAX),
            Traffic::Sequence(elements) => {
                ensure!(elements.len().is_power_of_two(), "{} is no power of two", elements.len());
                (elements.len() as u32, elements.len() as u32 - 1)
            }
        };
        let aggregates = TableSize::for_aggregates()?;
        let sized = [size.maps(SharedTable::FLOWS), aggregates.maps(SharedTable::AGGREGATES)].concat();
        let mut loader = EbpfLoader::new();
        for (name, elements) in &sized {
            loader.map_max_entries(name, *elements);
        }
        loader
            .override_global("CONFIG", &config, true)
            .override_global("PREFILTER", &setup.prefilter, true)
            .override_global("TRAFFIC_MASK", &mask, true)
            .override_global("LEAVE_BY", &setup.leave_by, true)
            .map_max_entries("TRAFFIC", elements);
        if setup.programs.contains(&"bench_hash_spinlock") {
            loader.map_max_entries("HASH", size.flows());
        }
        let mut ebpf = loader.load(&object).context("loading the object")?;
        for name in setup.programs {
            let program: &mut Xdp =
                ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("the kernel refused {name}"))?;
        }
        if let Traffic::Sequence(elements) = &setup.traffic {
            let mut traffic: Array<_, u32> = ebpf.map_mut("TRAFFIC").context("no map TRAFFIC")?.try_into()?;
            for (i, element) in elements.iter().enumerate() {
                traffic.set(i as u32, element, 0)?;
            }
        }
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let mut empty: PerCpuArray<_, PlainFlow> =
            ebpf.map_mut("EMPTY_FLOW").context("no map EMPTY_FLOW")?.try_into()?;
        // SAFETY: the state is made of words, and has no padding.
        let state =
            unsafe { std::mem::transmute::<FlowState, [u64; size_of::<FlowState>() / 8]>(FlowState::EMPTY) };
        let flow = PlainFlow { lock: 0, initiator: 0, earlier: 0, state };
        empty.set(0, PerCpuValues::try_from(vec![flow; cpus])?, 0)?;
        let aggregates = Arc::new(SharedTable::take(&mut ebpf, SharedTable::AGGREGATES, aggregates)?);
        let table = Arc::new(SharedTable::take(&mut ebpf, SharedTable::FLOWS, size)?);
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let counters = take("COUNTERS")?.try_into()?;
        let cursor = take("CURSOR")?.try_into()?;
        Ok(Self { ebpf, table, aggregates, counters, cursor })
    }

    /// Takes a map out, to be used by its type.
    ///
    /// # Errors
    /// There is none of this name, or it has been taken.
    pub fn take_map(&mut self, name: &str) -> Result<Map> {
        self.ebpf.take_map(name).with_context(|| format!("no map {name}"))
    }

    /// The reading end of the events, once.
    ///
    /// # Errors
    /// It has been taken.
    pub fn ring(&mut self) -> Result<Ring> {
        Ok(Ring::new(self.take_map("EVENTS")?.try_into()?))
    }

    /// The pre-filter's maps, once.
    ///
    /// # Errors
    /// They have been taken.
    pub fn filter(&mut self, config: &PrefilterConfig) -> Result<PrefilterMaps> {
        PrefilterMaps::take(&mut self.ebpf, config)
    }

    /// Places every CPU at the same point of the traffic.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn place(&mut self, cursors: impl Fn(usize) -> Cursor) -> Result<()> {
        let cpus = self.cursor.get(&0, 0)?.len();
        let values = PerCpuValues::try_from((0..cpus).map(cursors).collect::<Vec<_>>())?;
        Ok(self.cursor.set(0, values, 0)?)
    }

    /// Sets the clock of the packets, ns, where the programs do not read the real one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_time(&mut self, time: u64) -> Result<()> {
        let cursors = self.cursor.get(&0, 0)?;
        self.place(|cpu| Cursor { time, ..cursors[cpu] })
    }

    /// Runs a program `times` times on a frame of at least [`SHORTEST`] bytes, on the CPU that this thread is on, and
    /// returns the mean time of a run, in whole nanoseconds.
    ///
    /// # Errors
    /// The kernel does not run it, or the program does not pass the packet.
    pub fn run(&self, program: &str, frame: &[u8], times: u32) -> Result<Duration> {
        let (returned, took) = self.outcome(program, frame, times)?;
        ensure!(returned == XDP_PASS, "the program returned {returned}");
        Ok(took)
    }

    /// Runs a program likewise, and returns what it returned the last time as well.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn outcome(&self, program: &str, frame: &[u8], times: u32) -> Result<(u32, Duration)> {
        let program: &Xdp =
            self.ebpf.program(program).with_context(|| format!("no program {program}"))?.try_into()?;
        let ran = program.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat: times,
            ..TestRunOptions::new()
        })?;
        Ok((ran.return_value, ran.duration))
    }

    /// Sends `times` frames by the interface of the [`Setup`], from the network namespace that this thread is in, as fast
    /// as it goes. What the interface has no room for is lost.
    ///
    /// # Errors
    /// The kernel does not run the generator.
    pub fn send(&self, frame: &[u8], times: u32) -> Result<()> {
        let program: &Xdp = self.ebpf.program(GENERATOR).context("no generator")?.try_into()?;
        let attrs = TestRunAttrs::new().xdp_live_frames(64);
        program.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat: times,
            attrs,
            ..TestRunOptions::new()
        })?;
        Ok(())
    }

    /// Attaches a program to an interface of the network namespace that this thread is in, natively; it is detached with
    /// the test_programs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&mut self, program: &str, interface: &str) -> Result<()> {
        let program: &mut Xdp =
            self.ebpf.program_mut(program).with_context(|| format!("no program {program}"))?.try_into()?;
        program.attach(interface, XdpMode::Driver).with_context(|| format!("attaching to {interface}"))?;
        Ok(())
    }

    /// What has been counted, on all CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counted(&self) -> Result<InterfaceCounters> {
        let mut all = InterfaceCounters::default();
        for cpu in self.counters.get(&0, 0)?.iter() {
            all.add(cpu);
        }
        Ok(all)
    }
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// There is no such CPU, or it may not be used.
pub fn pin_to(cpu: usize) -> Result<()> {
    pin(0, cpu)
}

/// Binds a thread to one CPU; number 0 is the calling one.
///
/// # Errors
/// There is no such thread or CPU, or it may not be used.
pub fn pin(thread: u32, cpu: usize) -> Result<()> {
    // SAFETY: a cpu_set_t is plain bits; pointer and size describe it.
    let pinned = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(thread as libc::pid_t, size_of::<libc::cpu_set_t>(), &set)
    };
    ensure!(pinned == 0, "CPU {cpu} cannot be used: {}", std::io::Error::last_os_error());
    Ok(())
}
