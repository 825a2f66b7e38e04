//! Puts recorded packets through the kernel programs, one by one, with their recorded times (BPF_PROG_TEST_RUN).

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use flowmeter::kernel::{Ring, SharedTable, TableSize};
use flowmeter::record::{FlowRecord, Stage};
use flowmeter_common::config::{KernelConfig, Timeouts};
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::lifecycle::{Ages, EndReason};
use flowmeter_common::parse::Look;
use flowmeter_common::table::{free, state};

/// The programs with the entry that takes its clock from a map; built beside the shipped object.
const OBJECT: &str = "../target/bpf/flowmeter-replay";
/// `XDP_PASS` (linux/bpf.h).
const XDP_PASS: u32 = 2;
const PROGRAM: &str = "flowmeter_replay";
/// Shortest frame that the kernel lets a test run with: an Ethernet header.
pub const SHORTEST: usize = 14;

/// The loaded programs and their maps.
pub struct Programs {
    ebpf: Ebpf,
    table: SharedTable,
    clock: Array<MapData, [u64; 2]>,
    counters: PerCpuArray<MapData, InterfaceCounters>,
    ring: Ring,
    /// Flows that later packets ended.
    ended: Vec<FlowRecord>,
    timeouts: Timeouts,
    counted_before: InterfaceCounters,
}

impl Programs {
    /// Loads the programs with a table for `flows` flows.
    ///
    /// # Errors
    /// They have not been built, or the kernel refuses them.
    pub fn load(timeouts: Timeouts, look: Look, flows: u32) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(OBJECT);
        let object = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let size = TableSize::for_flows(flows)?;
        let config = KernelConfig {
            timeouts,
            hash_seed: 0x1234_5678_9abc_def1,
            bucket_mask: size.buckets - 1,
            interface_multiplier: 1,
            events_opened: 0,
            tunnels: look.tunnels.into(),
        };
        let mut ebpf = EbpfLoader::new()
            .override_global("CONFIG", &config, true)
            .map_max_entries("BUCKETS", size.buckets)
            .map_max_entries("ENTRIES", size.slots())
            .load(&object)
            .context("loading the object")?;
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).context("no such program")?.try_into()?;
        program.load().context("the kernel refused the program")?;
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let (buckets, entries) = (take("BUCKETS")?, take("ENTRIES")?);
        let table = match (&buckets, &entries) {
            (Map::Array(buckets), Map::Array(entries)) => {
                SharedTable::map(buckets.fd().as_fd(), entries.fd().as_fd(), size)?
            }
            _ => anyhow::bail!("the table's maps are no arrays"),
        };
        let ring = Ring::new(take("EVENTS")?.try_into()?);
        let clock = take("REPLAY")?.try_into()?;
        let counters = take("COUNTERS")?.try_into()?;
        let counted_before = InterfaceCounters::default();
        Ok(Self { ebpf, table, clock, counters, ring, ended: Vec::new(), timeouts, counted_before })
    }

    /// Runs the ingress path on a frame of at least [`SHORTEST`] bytes.
    ///
    /// # Errors
    /// The kernel does not run it, or the program does not pass the packet.
    pub fn packet(&mut self, data: &[u8], now: u64, wire_len: usize) -> Result<()> {
        self.clock.set(0, [now, wire_len as u64], 0)?;
        let program: &Xdp = self.ebpf.program(PROGRAM).context("no such program")?.try_into()?;
        let ran = program.test_run(TestRunOptions { data_in: Some(data), ..TestRunOptions::new() })?;
        ensure!(ran.return_value == XDP_PASS, "the program returned {}", ran.return_value);
        // At once, as the agent does within milliseconds: a key's slots are few.
        while let Some(event) = self.ring.take() {
            if self.table.tag(event.slot) & state::MASK == state::RETIRED {
                self.take_out(event.slot, None);
            }
        }
        Ok(())
    }

    /// Takes all flows out, as the agent does; those that live ended by the clock, or with the capture, at `now`.
    pub fn drain(&mut self, now: u64) -> Vec<FlowRecord> {
        for slot in 0..self.table.size().slots() {
            match self.table.tag(slot) & state::MASK {
                state::LIVE => self.take_out(slot, Some(now)),
                state::RETIRED => self.take_out(slot, None),
                _ => {}
            }
        }
        std::mem::take(&mut self.ended)
    }

    /// Takes one flow out; it lives if it is given a time.
    fn take_out(&mut self, slot: u32, living_at: Option<u64>) {
        if let Some(entry) = self.table.copy_retired(slot) {
            let why = match living_at {
                Some(now) => {
                    // SAFETY: a reference points to a readable flow.
                    let ages = unsafe { Ages::read(&entry.state) };
                    let by_clock = ages.and_then(|ages| ages.expired(now, &self.timeouts));
                    by_clock.unwrap_or(EndReason::EndOfCapture)
                }
                None => EndReason::from_number(entry.end_reason).unwrap_or(EndReason::PortReuse),
            };
            self.ended.push(FlowRecord { entry, stage: Stage::End(why), clock_offset: 0 });
        }
        free(&self.table, slot);
    }

    /// What was counted since the last call. Events are left out: nobody takes them.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counted(&mut self) -> Result<InterfaceCounters> {
        let mut all = InterfaceCounters::default();
        for cpu in self.counters.get(&0, 0)?.iter() {
            all.add(cpu);
        }
        all.events_lost = 0;
        let before = std::mem::replace(&mut self.counted_before, all);
        let mut since = all;
        since.seen -= before.seen;
        since.counted -= before.counted;
        since.counted_bytes -= before.counted_bytes;
        since.folded -= before.folded;
        since.folded_bytes -= before.folded_bytes;
        since.opened -= before.opened;
        for (now, before) in since.skipped.iter_mut().zip(before.skipped) {
            *now -= before;
        }
        Ok(since)
    }
}
