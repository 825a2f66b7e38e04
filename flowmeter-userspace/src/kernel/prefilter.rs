//! The pre-filter's maps: the heartbeat, the lists, where the inspector is, and what became of packets.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMap;
use aya::maps::{MapData, PerCpuArray};
use flowmeter_common::config::MAX_INTERFACES;
use flowmeter_common::prefilter::{Action, Control, ListKey, MAX_RULES, PrefilterConfig, PrefilterCounters};

use super::grace;
use super::table::Mapping;
use crate::prefilter::lists::Rule;

/// Bytes of a page, which is the least that can be mapped.
const PAGE: usize = 4096;

/// What the agent tells the programs while they run.
pub struct Heartbeat {
    page: Mapping,
    held: AtomicBool,
}

impl Heartbeat {
    fn new(page: Mapping) -> Self {
        Self { page, held: AtomicBool::new(false) }
    }

    /// Has every packet pass until it is let go of again: beats are left out meanwhile.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    /// The agent was well at that time (CLOCK_MONOTONIC, ns): the programs honour verdicts for a while.
    pub fn beat(&self, at: u64) {
        if self.held.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: the page begins with the control's words, which only the agent writes.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.control()).beat) }.store(at, Ordering::Release);
    }

    /// Notes what has been taken out of the table, for the agent that comes after.
    pub fn note(&self, ledger: [u64; 4]) {
        for (i, number) in ledger.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { (&raw mut (*self.control()).ledger[i]).write_volatile(number) };
        }
    }

    /// What the agent before has noted.
    pub fn ledger(&self) -> [u64; 4] {
        // SAFETY: as above.
        unsafe { (&raw const (*self.control()).ledger).read_volatile() }
    }

    /// Which trie holds the lists.
    fn lists(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.control()).lists) }
    }

    fn control(&self) -> *mut Control {
        self.page.start.cast::<Control>().as_ptr()
    }
}

/// The allow and deny lists in the kernel.
pub struct ListMaps {
    tries: [LpmTrie<MapData, [u8; ListKey::BYTES], u32>; 2],
}

impl ListMaps {
    /// Puts these rules in force, all at once. Packets that are on their way are still decided by the rules before.
    ///
    /// # Errors
    /// There are too many, or the kernel refuses one; the ones before stay in force.
    pub fn install(&mut self, heartbeat: &Heartbeat, rules: &[Rule]) -> Result<()> {
        ensure!(
            rules.len() <= MAX_RULES as usize,
            "the lists have {} rules: expected at most {MAX_RULES}",
            rules.len()
        );
        if rules.is_empty() {
            heartbeat.lists().store(0, Ordering::Release);
            return Ok(());
        }
        let next = if heartbeat.lists().load(Ordering::Acquire) == 1 { 2 } else { 1 };
        let trie = &mut self.tries[next as usize - 1];
        // Programs that began while it was in force have come to their end, long ago as a rule.
        grace::period()?;
        let old: Vec<_> = trie.keys().collect::<Result<_, _>>().context("cannot read the old lists")?;
        for key in old {
            trie.remove(&key).context("cannot clear the old lists")?;
        }
        for rule in rules {
            trie.insert(&key_of(rule), rule.listed, 0)
                .with_context(|| format!("the kernel refused the rule `{rule}`"))?;
        }
        heartbeat.lists().store(next, Ordering::Release);
        Ok(())
    }
}

/// A rule as the tries have it.
fn key_of(rule: &Rule) -> Key<[u8; ListKey::BYTES]> {
    let (address, bits) = match rule.prefix {
        None => ([0; 16], 0),
        Some((IpAddr::V4(address), bits)) => (address.to_ipv6_mapped().octets(), u32::from(bits) + 96),
        Some((IpAddr::V6(address), bits)) => (address.octets(), u32::from(bits)),
    };
    let mut data = [0; ListKey::BYTES];
    data[0..2].copy_from_slice(&u16::from(rule.port.is_some()).to_ne_bytes());
    data[2..4].copy_from_slice(&rule.port.unwrap_or(0).to_ne_bytes());
    data[4..].copy_from_slice(&address);
    Key::new(ListKey::FIXED + bits, data)
}

/// What became of packets.
pub struct Tallies(PerCpuArray<MapData, PrefilterCounters>);

impl Tallies {
    /// The counters of the interface with this slot: what arrived, and what left.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub fn read(&self, slot: u32) -> Result<[PrefilterCounters; 2]> {
        let mut sums = [PrefilterCounters::default(); 2];
        for (sum, slot) in sums.iter_mut().zip([slot, slot + MAX_INTERFACES]) {
            let values = self.0.get(&slot, 0).context("cannot read what became of packets")?;
            values.iter().for_each(|cpu| sum.add(cpu));
        }
        Ok(sums)
    }
}

/// The pre-filter's maps, in the parts that different threads use.
pub struct PrefilterMaps {
    /// Heartbeat.
    pub heartbeat: Heartbeat,
    /// Allow and deny lists.
    pub lists: ListMaps,
    /// Counters.
    pub tallies: Tallies,
    /// Where packets are redirected to; None in modes that do not redirect.
    pub inspector: Option<DevMap<MapData>>,
}

impl PrefilterMaps {
    /// Takes the maps out of loaded programs, and shows the inspector's interface to those that redirect.
    ///
    /// # Errors
    /// The kernel refuses; most often the inspector's interface.
    pub fn take(ebpf: &mut Ebpf, config: &PrefilterConfig) -> Result<Self> {
        let mut take =
            |name: &str| ebpf.take_map(name).with_context(|| format!("the programs have no map {name}"));
        let mut inspector = None;
        if config.inspector != 0 && config.actions.contains(&(Action::Redirect as u32)) {
            let mut map: DevMap<MapData> = take("INSPECTOR")?.try_into()?;
            map.set(0, config.inspector, None, 0)
                .context("the kernel cannot redirect to the inspector's interface")?;
            inspector = Some(map);
        }
        let control = match take("CONTROL")? {
            aya::maps::Map::Array(data) => data,
            _ => anyhow::bail!("CONTROL is no array"),
        };
        let tries = [take("LISTS_1")?.try_into()?, take("LISTS_2")?.try_into()?];
        Ok(Self {
            heartbeat: Heartbeat::new(Mapping::new(control.fd().as_fd(), PAGE)?),
            inspector,
            lists: ListMaps { tries },
            tallies: Tallies(take("PREFILTER_COUNTERS")?.try_into()?),
        })
    }
}
