//! Accounting, read from the kernel's per-CPU counters.

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use flowmeter_common::counter::InterfaceCounters;

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
    /// Each watched interface.
    pub(super) interfaces: Vec<Watched>,
}

impl Counters {
    /// Name of a watched interface by its index.
    pub fn interface(&self, index: u32) -> Option<&str> {
        self.interfaces.iter().find(|watched| watched.index == index).map(|watched| watched.name.as_str())
    }

    /// Name and summed counters of each watched interface.
    ///
    /// While packets flow, the CPUs are read one after the other; the identity is exact once they have come to rest.
    ///
    /// # Errors
    /// If the kernel refuses to read the map.
    pub fn read(&self) -> Result<Vec<(String, InterfaceCounters)>> {
        self.interfaces
            .iter()
            .map(|Watched { name, slot, .. }| {
                let mut sum = InterfaceCounters::default();
                let values =
                    self.map.get(slot, 0).with_context(|| format!("cannot read the counters of {name}"))?;
                for cpu in values.iter() {
                    sum.add(cpu);
                }
                Ok((name.clone(), sum))
            })
            .collect()
    }
}
