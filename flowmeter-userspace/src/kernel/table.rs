//! The flow table as the agent reaches it: the kernel's arrays, mapped into this process.

use std::ffi::c_void;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::Ebpf;
use aya::maps::Map;
use aya::util::nr_cpus;
use flowmeter_common::aggregate;
use flowmeter_common::flow::{Direction, Entry, completion};
use flowmeter_common::prefilter::mark;
use flowmeter_common::table::{Buckets, Magazine, Memory, WAYS, Word, state, tag};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::grace;
use crate::config::MAX_FLOWS;

/// Sizes of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Flows that can live at once, a power of two.
    flows: u32,
    /// Entries beside those: what CPUs may have taken for themselves.
    spare: u32,
}

impl TableSize {
    /// The smallest table with room for at least so many flows.
    ///
    /// # Errors
    /// If the number is 0 or above [`MAX_FLOWS`], or the kernel does not say how many CPUs there may be.
    pub fn for_flows(flows: u32) -> Result<Self> {
        ensure!(
            (1..=MAX_FLOWS).contains(&flows),
            "a flow table has room for 1 to {MAX_FLOWS} flows, not for {flows}"
        );
        let cpus = nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        let spare = Magazine::MAX * cpus as u32;
        let size = Self { flows: flows.next_power_of_two().max(WAYS as u32), spare };
        ensure!(size.entries() <= tag::MAX_ENTRIES, "{cpus} CPUs are more than a table can have room for");
        Ok(size)
    }

    /// The table of aggregates.
    ///
    /// # Errors
    /// As [`for_flows`](Self::for_flows).
    pub fn for_aggregates() -> Result<Self> {
        Self::for_flows(aggregate::SERVICES)
    }

    /// Flows that can live at once, at least.
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// Entries.
    pub fn entries(&self) -> u32 {
        self.flows + self.spare
    }

    /// Buckets.
    pub fn buckets(&self) -> Buckets {
        Buckets::for_flows(self.flows)
    }

    /// Slots of all buckets.
    pub fn slots(&self) -> u32 {
        self.buckets().lines() * WAYS as u32
    }

    /// Words of the list of free entries: where it begins, and a link for each.
    pub fn free_words(&self) -> u32 {
        self.entries() + 1
    }

    /// Bytes of memory, in kernel and agent together since they share it.
    pub fn bytes(&self) -> u64 {
        u64::from(self.slots() + self.free_words()) * size_of::<SharedTag>() as u64
            + u64::from(self.entries()) * size_of::<Entry>() as u64
    }

    /// The maps of a table whose names begin with `prefix`, with how many elements each has.
    pub fn maps(&self, prefix: &str) -> [(String, u32); 3] {
        [("BUCKETS", self.buckets().lines()), ("ENTRIES", self.entries()), ("FREE", self.free_words())]
            .map(|(name, elements)| (format!("{prefix}{name}"), elements))
    }
}

/// A tag in shared memory.
#[repr(transparent)]
pub struct SharedTag(AtomicU64);

impl Word for SharedTag {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        self.0.compare_exchange(current, new, Ordering::SeqCst, Ordering::Acquire).is_ok()
    }

    fn publish(&self, new: u64) {
        self.0.store(new, Ordering::Release);
    }
}

/// A mark in shared memory.
struct SharedMark<'a>(&'a AtomicU32);

impl mark::MarkWord for SharedMark<'_> {
    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn compare_exchange(&self, current: u32, new: u32) -> bool {
        self.0.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Memory shared with the kernel programs.
pub struct SharedTable {
    buckets: Mapping,
    entries: Mapping,
    free: Mapping,
    size: TableSize,
}

impl SharedTable {
    /// What the names of the flow table's maps begin with.
    pub const FLOWS: &str = "";
    /// What the names of the aggregates' maps begin with.
    pub const AGGREGATES: &str = "AGGREGATE_";

    /// Takes the table's maps out of `ebpf`, and maps them. Their names begin with `prefix`.
    ///
    /// # Errors
    /// They have been taken, or the kernel refuses the mapping.
    pub fn take(ebpf: &mut Ebpf, prefix: &str, size: TableSize) -> Result<Self> {
        let mut mapping = |name: &str, length: u64| -> Result<Mapping> {
            match ebpf.take_map(name) {
                Some(Map::Array(data)) => Mapping::new(data.fd().as_fd(), length as usize),
                _ => bail!("the programs have no array {name}"),
            }
        };
        let [buckets, entries, free] = size.maps(prefix);
        let words = |count: u32| u64::from(count) * size_of::<SharedTag>() as u64;
        Ok(Self {
            buckets: mapping(&buckets.0, words(size.slots()))?,
            entries: mapping(&entries.0, u64::from(entries.1) * size_of::<Entry>() as u64)?,
            free: mapping(&free.0, words(free.1))?,
            size,
        })
    }

    /// Sizes.
    pub fn size(&self) -> TableSize {
        self.size
    }

    /// The tag of a slot.
    pub fn tag(&self, slot: u32) -> u64 {
        self.line(slot / WAYS as u32).map_or(state::EMPTY, |line| line[slot as usize % WAYS].load())
    }

    /// Copies the entry of a flow that nobody writes any more: retired, and its grace period past.
    pub fn copy_retired(&self, tag: u64) -> Option<Entry> {
        let entry = self.entry(tag::entry(tag))?;
        // SAFETY: the entry exists and, by the protocol, no kernel program can still write its entry.
        Some(unsafe { entry.read_volatile() })
    }

    /// Copies the entry of a living flow. The second value is false if updates tore each of several copies; then the
    /// last is returned, whose counters may be one packet apart.
    pub fn copy_living(&self, tag: u64) -> Option<(Entry, bool)> {
        const TRIES: u32 = 8;
        let entry = self.entry(tag::entry(tag))?;
        let mut tries = 0;
        loop {
            // SAFETY: the entry exists; every bit pattern of an entry is a value, so that a torn copy is still one.
            let (before, copy, after) = unsafe {
                let before = completions(entry);
                fence(Ordering::Acquire);
                let copy = entry.read_volatile();
                fence(Ordering::Acquire);
                (before, copy, completions(entry))
            };
            let [a, b] = &copy.state.directions;
            let whole = |direction: &Direction, complete: u32| {
                direction.complete == complete && completion(direction.packets) == complete
            };
            tries += 1;
            if before == after && whole(a, before[0]) && whole(b, before[1]) {
                return Some((copy, true));
            }
            if tries == TRIES {
                return Some((copy, false));
            }
            std::hint::spin_loop();
        }
    }

    /// Marks the flow that had the entry with this number when its word was read as `seen`, if it still has; false if it
    /// has gone.
    pub fn give_mark(&self, entry: u32, seen: u32, mark: u32) -> bool {
        self.entry(entry).is_some_and(|entry| {
            // SAFETY: the field is an aligned u32 of mapped memory.
            let word = unsafe { AtomicU32::from_ptr(&raw mut (*entry).verdict) };
            mark::give(&SharedMark(word), seen, mark)
        })
    }

    /// Writes any word where a flow's mark is: for tests of what the kernel makes of it.
    pub fn store_word(&self, entry: u32, word: u32) {
        if let Some(entry) = self.entry(entry) {
            // SAFETY: the field is an aligned u32 of mapped memory.
            unsafe { (&raw mut (*entry).verdict).write_volatile(word) };
        }
    }

    /// Notes that a flow's record has been given out although its slot is kept.
    pub fn mark_reported(&self, tag: u64) {
        if let Some(entry) = self.entry(tag::entry(tag)) {
            // SAFETY: the field is an aligned u16 of mapped memory that the kernel writes only when a slot is claimed,
            // which a slot in use cannot be.
            unsafe { (&raw mut (*entry).reported).write_volatile(1) };
        }
    }

    /// Lets every kernel program that is running now come to its end.
    ///
    /// # Errors
    /// If the kernel refuses; [`super::require`] has checked that it does not.
    pub fn grace_period(&self) -> Result<()> {
        compiler_fence(Ordering::SeqCst);
        grace::period()
    }
}

/// `complete` of both directions.
unsafe fn completions(entry: *const Entry) -> [u32; 2] {
    // SAFETY: the caller's entry exists; the words are aligned.
    unsafe {
        let directions = (&raw const (*entry).state.directions).cast::<Direction>();
        [
            (&raw const (*directions).complete).read_volatile(),
            (&raw const (*directions.add(1)).complete).read_volatile(),
        ]
    }
}

impl Memory for SharedTable {
    type Word = SharedTag;

    fn line(&self, index: u32) -> Option<&[SharedTag; WAYS]> {
        if index >= self.size.buckets().lines() {
            return None;
        }
        // SAFETY: the mapping is `buckets` arrays of eight words long, lives as long as self, and is only accessed as atomics.
        Some(unsafe { &*self.buckets.start.cast::<[SharedTag; WAYS]>().add(index as usize).as_ptr() })
    }

    fn entry(&self, number: u32) -> Option<*mut Entry> {
        if number >= self.size.entries() {
            return None;
        }
        // SAFETY: the mapping is that many entries long.
        Some(unsafe { self.entries.start.cast::<Entry>().add(number as usize).as_ptr() })
    }

    fn free_word(&self, index: u32) -> Option<&SharedTag> {
        if index >= self.size.free_words() {
            return None;
        }
        // SAFETY: the mapping is that many words long, lives as long as self, and is only accessed as atomics.
        Some(unsafe { &*self.free.start.cast::<SharedTag>().add(index as usize).as_ptr() })
    }
}

/// A map's values in this process's memory.
pub(super) struct Mapping {
    /// Where it begins.
    pub(super) start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the mapping is plain shared memory, accessed through atomics and volatile copies only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps so many bytes of the map with this descriptor.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn new(fd: BorrowedFd<'_>, length: usize) -> Result<Self> {
        // SAFETY: a new shared mapping of a map's descriptor; the kernel checks length and access.
        let start = unsafe {
            mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        };
        let start = start.with_context(|| format!("cannot map {length} bytes shared with the kernel"))?;
        let start = NonNull::new(start).context("shared memory was mapped at address zero")?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of a mapping of ours, and nothing borrowed from it outlives self.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}
