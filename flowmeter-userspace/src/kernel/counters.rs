//! Accounting, read from the kernel's per-CPU counters.

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::prefilter::PrefilterCounters;

use super::prefilter::Tallies;

/// How often an unbalanced account is read again. A CPU is between two packets at least a tenth of its time, else it
/// would do nothing but this.
const TRIES: u32 = 1000;

/// A watched interface.
pub(super) struct Watched {
    /// Its name.
    pub name: String,
    /// Its index, which flow keys hold.
    pub index: u32,
    /// Its counter slot.
    pub slot: u32,
}

/// Reads the counters of watched interfaces.
pub struct Counters {
    pub(super) map: PerCpuArray<MapData, InterfaceCounters>,
    /// What became of packets.
    pub(super) tallies: Tallies,
    /// Each watched interface.
    pub(super) interfaces: Vec<Watched>,
}

impl Counters {
    /// Name of a watched interface by its index.
    pub fn interface(&self, index: u32) -> Option<&str> {
        self.interfaces.iter().find(|watched| watched.index == index).map(|watched| watched.name.as_str())
    }

    /// What became of the packets of each watched interface, in the order of [`read`](Self::read): those that arrived, and
    /// those that left. If this is read before [`read`](Self::read), the sum is at most what was seen.
    ///
    /// # Errors
    /// If the kernel refuses to read the map.
    pub fn prefilter_counters(&self) -> Result<Vec<[PrefilterCounters; 2]>> {
        self.interfaces.iter().map(|watched| self.tallies.read(watched.slot)).collect()
    }

    /// Name and summed counters of each watched interface.
    ///
    /// Packets may flow meanwhile, so each CPU's counters are read until they were read between two packets. There, and only
    /// there, the account balances: a packet adds to `seen` first, and `seen` is read first, so whatever comes while the rest
    /// is read makes the sum larger. If a CPU's account stays unbalanced, it is wrong.
    ///
    /// # Errors
    /// If the kernel refuses to read the map.
    pub fn read(&self) -> Result<Vec<(String, InterfaceCounters)>> {
        self.interfaces
            .iter()
            .map(|Watched { name, slot, .. }| {
                let mut found: Vec<InterfaceCounters> = Vec::new();
                for _ in 0..TRIES {
                    let values = self
                        .map
                        .get(slot, 0)
                        .with_context(|| format!("cannot read the counters of {name}"))?;
                    if found.is_empty() {
                        found = values.to_vec();
                    }
                    for (cpu, again) in found.iter_mut().zip(values.iter()) {
                        if !cpu.balanced() {
                            *cpu = *again;
                        }
                    }
                    if found.iter().all(InterfaceCounters::balanced) {
                        break;
                    }
                }
                let mut sum = InterfaceCounters::default();
                found.iter().for_each(|cpu| sum.add(cpu));
                Ok((name.clone(), sum))
            })
            .collect()
    }
}
