//! Accounting, read from the kernel's per-CPU counters.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapData, PerCpuArray};
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::prefilter::PrefilterCounters;

use super::interfaces::Interface;
use super::prefilter::Tallies;

/// How often an unbalanced account is read again. A CPU is between two packets at least a tenth of its time, else it
/// would do nothing but this.
const TRIES: u32 = 1000;

/// A watched interface.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its name.
    pub name: String,
    /// The numbers that it has had, which flow keys hold, each with its counter slot.
    numbers: Vec<(u32, u32)>,
}

impl Watched {
    /// An interface with its first number.
    pub(super) fn new(interface: &Interface, slot: u32) -> Self {
        Self { name: interface.name.clone(), numbers: vec![(interface.index, slot)] }
    }

    /// Its counter slots, each once.
    fn slots(&self) -> BTreeSet<u32> {
        self.numbers.iter().map(|(_, slot)| *slot).collect()
    }
}

/// Reads the counters of watched interfaces.
pub struct Counters {
    map: PerCpuArray<MapData, InterfaceCounters>,
    /// What became of packets.
    tallies: Tallies,
    /// Each watched interface.
    interfaces: RwLock<Arc<[Watched]>>,
}

impl Counters {
    /// The counters of these interfaces.
    pub(super) fn new(
        map: PerCpuArray<MapData, InterfaceCounters>,
        tallies: Tallies,
        interfaces: Vec<Watched>,
    ) -> Self {
        Self { map, tallies, interfaces: RwLock::new(interfaces.into()) }
    }

    /// The watched interfaces, as they are now.
    pub fn watched(&self) -> Arc<[Watched]> {
        Arc::clone(&self.interfaces.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts what has this number to the interface of this name as well.
    ///
    /// # Errors
    /// Another interface has the counter slot.
    pub(super) fn add_number(&self, name: &str, index: u32, slot: u32) -> Result<()> {
        let mut interfaces = self.watched().to_vec();
        for watched in &mut interfaces {
            if watched.name != name {
                ensure!(
                    !watched.slots().contains(&slot),
                    "its packets cannot be told from those of {} under its new number; restart flowmeter",
                    watched.name
                );
            } else if !watched.numbers.contains(&(index, slot)) {
                watched.numbers.push((index, slot));
            }
        }
        *self.interfaces.write().unwrap_or_else(PoisonError::into_inner) = interfaces.into();
        Ok(())
    }

    /// What became of the packets of each watched interface, in the order of [`read`](Self::read): those that arrived, and
    /// those that left. If this is read before [`read`](Self::read), the sum is at most what was seen.
    ///
    /// # Errors
    /// If the kernel refuses to read the map.
    pub fn prefilter_counters(&self) -> Result<Vec<[PrefilterCounters; 2]>> {
        let sum = |watched: &Watched| {
            watched.slots().into_iter().try_fold([PrefilterCounters::default(); 2], |mut sums, slot| {
                let read = self.tallies.read(slot)?;
                sums.iter_mut().zip(&read).for_each(|(sum, counters)| sum.add(counters));
                Ok(sums)
            })
        };
        self.watched().iter().map(sum).collect()
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
        let sum = |watched: &Watched| {
            let mut sum = InterfaceCounters::default();
            for slot in watched.slots() {
                self.read_slot(slot)
                    .with_context(|| format!("cannot read the counters of {}", watched.name))?
                    .iter()
                    .for_each(|cpu| sum.add(cpu));
            }
            Ok((watched.name.clone(), sum))
        };
        self.watched().iter().map(sum).collect()
    }

    /// One slot's counters of each CPU, read between two packets.
    fn read_slot(&self, slot: u32) -> Result<Vec<InterfaceCounters>> {
        let mut found: Vec<InterfaceCounters> = Vec::new();
        for _ in 0..TRIES {
            let values = self.map.get(&slot, 0)?;
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
        Ok(found)
    }
}

/// Name of the interface with this number.
pub fn name_of(watched: &[Watched], index: u32) -> Option<&str> {
    watched
        .iter()
        .find(|watched| watched.numbers.iter().any(|(number, _)| *number == index))
        .map(|watched| watched.name.as_str())
}
