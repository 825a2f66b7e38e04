//! Programs and maps that outlive the agent: pinned in a folder of the BPF file system, and adopted by the next agent.
//!
//! While no agent runs the programs go on counting into the pinned table; verdicts are not honoured, since nobody renews
//! the heartbeat. The next agent loads its own programs with the same maps, and puts them into the same links, so that no
//! packet goes uncounted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use flowmeter_common::config::KernelConfig;
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::flow::Entry;
use flowmeter_common::prefilter::{Control, PrefilterCounters};
use flowmeter_common::table::Magazine;
use rustix::fs::{FlockOperation, flock, fstatfs};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FILE_SYSTEM: u64 = 0xcafe_4a11;

/// The maps that are kept.
pub const MAPS: [&str; 13] = [
    "BUCKETS",
    "ENTRIES",
    "FREE",
    "AGGREGATE_BUCKETS",
    "AGGREGATE_ENTRIES",
    "AGGREGATE_FREE",
    "SPARES",
    "EVENTS",
    "COUNTERS",
    "CONTROL",
    "PREFILTER_COUNTERS",
    "LISTS_1",
    "LISTS_2",
];

/// Begins the name of the file that holds the settings; what follows tells the memory's layout.
const SETTINGS: &str = "settings-";

/// A folder of pinned programs and maps, held by one agent at a time.
pub struct Pins {
    folder: PathBuf,
    /// Locked as long as it is open, also if this process is killed.
    _lock: File,
}

impl Pins {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// It cannot be made, is not on the BPF file system, or another agent holds it.
    pub fn open(folder: &Path) -> Result<Self> {
        let shown = folder.display();
        fs::create_dir_all(folder).with_context(|| {
            format!("cannot make {shown}; pins need the BPF file system: mount -t bpf bpf /sys/fs/bpf")
        })?;
        let lock = File::open(folder).with_context(|| format!("cannot open {shown}"))?;
        let kind = fstatfs(&lock)?.f_type as u64 & 0xffff_ffff;
        ensure!(
            kind == BPF_FILE_SYSTEM,
            "{shown} is not on the BPF file system: expected a folder below /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)"
        );
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another agent holds {shown}: stop it first, or take another folder");
        }
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// Where this map is or will be.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Takes over the settings that the agent before has left, if they are those that are `wanted` but for the hash's
    /// secrets; otherwise leaves these for the next. Says whether they were taken over.
    ///
    /// # Errors
    /// They are others.
    pub fn settle(&self, wanted: &mut KernelConfig) -> Result<bool> {
        let path = self.folder.join(format!("{SETTINGS}{:016x}", layout()));
        if path.exists() {
            let map = Map::from_map_data(MapData::from_pin(&path)?)?;
            let left = Array::<_, KernelConfig>::try_from(map)?.get(&0, 0)?;
            wanted.hash_keys = left.hash_keys;
            ensure!(
                *wanted == left,
                "{0} was left by an agent with other settings (interfaces, --max-flows, timeouts, --tunnels): start with the \
                 same, or remove it with its flows: rm -r {0}",
                self.folder.display()
            );
            return Ok(true);
        }
        ensure!(
            self.names()?.is_empty(),
            "{0} was left by another version of flowmeter: remove it with its flows: rm -r {0}",
            self.folder.display()
        );
        let mut settings = Array::<MapData, KernelConfig>::create(1, 0)?;
        settings.set(0, *wanted, 0)?;
        settings.pin(&path).context("cannot pin the settings")?;
        Ok(false)
    }

    /// The link that the agent before has left under this name.
    pub fn link(&self, name: &str) -> Option<FdLink> {
        PinnedLink::from_pin(self.folder.join(name)).ok().map(FdLink::from)
    }

    /// Keeps a link under this name, in place of whatever is there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn keep(&self, link: FdLink, name: &str) -> Result<FdLink> {
        let path = self.folder.join(name);
        let _ = fs::remove_file(&path);
        Ok(link.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?.into())
    }

    /// Lets go of links of this kind that are not `wanted`: the agent before was told to do something else.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn release_links(&self, wanted: &[String]) -> Result<()> {
        for name in self.names()? {
            if name.starts_with(LINK) && !wanted.contains(&name) {
                log::info!("detaching {name}, which the agent before has left");
                let _ = fs::remove_file(self.folder.join(name));
            }
        }
        Ok(())
    }

    /// Removes everything that is pinned here: what nobody else holds is detached and freed.
    pub fn remove(&self) {
        for name in self.names().unwrap_or_default() {
            let _ = fs::remove_file(self.folder.join(name));
        }
        let _ = fs::remove_dir(&self.folder);
    }

    fn names(&self) -> Result<Vec<String>> {
        let read = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.folder)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        read().with_context(|| format!("cannot read {}", self.folder.display()))
    }
}

/// Whether pins can be made at this place. What is there stays, and what is not there is not made.
///
/// # Errors
/// The BPF file system is not there, or not writable, or another agent holds the folder.
pub fn check_pins(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Pins::open(folder).map(drop);
    }
    Pins::open(folder)?;
    // It was made just now.
    fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Begins the names of links.
pub const LINK: &str = "link-";

/// A number that differs between versions, and where shared memory is laid out differently.
fn layout() -> u64 {
    let sizes = [
        size_of::<Entry>(),
        size_of::<InterfaceCounters>(),
        size_of::<PrefilterCounters>(),
        size_of::<Control>(),
        size_of::<KernelConfig>(),
        size_of::<Magazine>(),
    ];
    let version = env!("CARGO_PKG_VERSION").bytes().map(u64::from);
    // FNV-1a, by numbers: it guards against forgetting, not against malice.
    version
        .chain(sizes.map(|size| size as u64))
        .fold(0xcbf2_9ce4_8422_2325, |hash, number| (hash ^ number).wrapping_mul(0x0100_0000_01b3))
}
