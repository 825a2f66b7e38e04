//! The maps: who writes them, and what being full means.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, DevMap, PerCpuArray, RingBuf};
use flowmeter_common::config::{KernelConfig, MAX_INTERFACES};
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::flow::{Direction, Entry};
use flowmeter_common::hash::HashKeys;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::packet::Packet;
use flowmeter_common::prefilter::{Control, ListKey, MAX_RULES, PrefilterCounters};
use flowmeter_common::table::{Buckets, Magazine, Memory, Opens, WAYS, Word};

use crate::clock;
use crate::frame::SkbFacts;

/// `BPF_F_MMAPABLE` (linux/bpf.h): userspace may map the values.
const MMAPABLE: u32 = 1 << 10;

/// Settings, written by the agent before loading, constant afterwards.
#[unsafe(no_mangle)]
static CONFIG: KernelConfig = KernelConfig {
    timeouts: Timeouts { idle: 0, active: 0, linger: 0 },
    hash_keys: HashKeys::ZERO,
    buckets: Buckets { near_mask: 0, far_mask: 0 },
    interface_multiplier: 1,
    events_opened: 0,
    tunnels: 0,
    interruptible: 0,
};

/// The settings as loaded.
#[inline(always)]
pub fn config() -> &'static KernelConfig {
    // SAFETY: reading through a volatile pointer keeps the compiler from taking the zeros above for the values; the
    // reference is to a static.
    unsafe { &*core::hint::black_box(&raw const CONFIG) }
}

/// Tags by bucket; written by both sides, see the table protocol. Sized by the agent before loading.
#[map]
static BUCKETS: Array<[Tag; WAYS]> = Array::with_max_entries(1, MMAPABLE);

/// Flows; written by the kernel, the verdict by the agent. Sized by the agent before loading.
/// Full: the packet is counted as folded, in an aggregate.
#[map]
static ENTRIES: Array<Entry> = Array::with_max_entries(1, MMAPABLE);

/// The list of entries that are free, see the table protocol. Sized by the agent before loading.
#[map]
static FREE: Array<Tag> = Array::with_max_entries(1, MMAPABLE);

/// The same three for aggregates. Full: the packet is counted as unaggregated.
#[map]
static AGGREGATE_BUCKETS: Array<[Tag; WAYS]> = Array::with_max_entries(1, MMAPABLE);
#[map]
static AGGREGATE_ENTRIES: Array<Entry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static AGGREGATE_FREE: Array<Tag> = Array::with_max_entries(1, MMAPABLE);

/// Free entries that each CPU has taken for itself: of flows, and of aggregates.
#[map]
static SPARES: PerCpuArray<Magazine> = PerCpuArray::with_max_entries(2, 0);

/// Events for the agent. Full: counted in `events_lost`; the agent's sweep finds what the event did not tell.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Size of the ring: 43,690 events.
pub const EVENTS_BYTES: u32 = 1 << 20;

/// Accounting by interface slot, a copy for each CPU, written by the kernel.
#[map]
pub static COUNTERS: PerCpuArray<InterfaceCounters> = PerCpuArray::with_max_entries(MAX_INTERFACES, 0);

/// The packet at hand, a copy for each CPU. It is not on the stack: the verifier follows what it knows of the stack through
/// everything after it, once for each of the thousands of ways through the parser. Of what lies in a map it knows nothing,
/// and goes on once. [`turn`](crate::turn) keeps programs on one CPU from using it at the same time.
#[map]
pub static PARSED: PerCpuArray<Parsed> = PerCpuArray::with_max_entries(1, 0);

/// What a packet's stations leave for each other.
#[repr(C)]
pub struct Parsed {
    /// The packet.
    pub packet: Packet,
    /// Its key's hash.
    pub hash: u64,
    /// What the socket buffer says of a packet that leaves.
    pub facts: SkbFacts,
    /// When it was seen; written where the pre-filter decides.
    pub now: u64,
    /// What the lists say of it, see [`listed`](flowmeter_common::prefilter::listed); likewise.
    pub listed: u32,
    /// The tag of the flow that the packet opened or met, if [`flowmeter_open`](crate::track) says that there is one.
    pub tag: u64,
    /// The flow that the packet ended, if it says that it did.
    pub ended_slot: u32,
    /// Its tag.
    pub ended_tag: u64,
    /// 1 while a program is between its first and its last use of this memory; see [`turn`](crate::turn).
    pub busy: u64,
    /// Packets of programs that met it so.
    pub turned_away: u64,
    /// 1 while a copy of the packet is being sent: what a program sees meanwhile on this CPU is that copy.
    pub copying: u32,
}

/// Heartbeat and which lists count; written by the agent at any time.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, MMAPABLE);

/// What became of packets: by interface slot those that arrived, and after them those that left. A copy for each CPU,
/// written by the kernel.
#[map]
pub static PREFILTER_COUNTERS: PerCpuArray<PrefilterCounters> =
    PerCpuArray::with_max_entries(2 * MAX_INTERFACES, 0);

/// Where redirected packets leave: one interface, put there by the agent, taken out by the kernel when it goes away.
#[map]
pub static INSPECTOR: DevMap = DevMap::with_max_entries(1, 0);

/// The allow and deny lists, one of [`listed`] by [`ListKey`]. There are two such maps, so that the agent can fill one and
/// change over with one store. Full: the agent refuses the lists.
#[map]
pub static LISTS_1: LpmTrie<[u8; ListKey::BYTES], u32> = LpmTrie::with_max_entries(MAX_RULES, 0);
#[map]
pub static LISTS_2: LpmTrie<[u8; ListKey::BYTES], u32> = LpmTrie::with_max_entries(MAX_RULES, 0);

/// A tag in a bucket.
#[repr(transparent)]
pub struct Tag(core::cell::UnsafeCell<u64>);

// SAFETY: every access to the cell is one aligned 64-bit instruction.
unsafe impl Sync for Tag {}

impl Word for Tag {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the cell is eight readable, aligned bytes of a map value.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        use core::intrinsics::{AtomicOrdering, atomic_cxchg};
        // SAFETY: as above, and writable. There is no compare_exchange on AtomicU64 for this target; the intrinsic
        // lowers to BPF_CMPXCHG, which is a full barrier.
        let (_, exchanged) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                self.0.get(),
                current,
                new,
            )
        };
        exchanged
    }

    #[inline(always)]
    fn publish(&self, new: u64) {
        use core::intrinsics::{AtomicOrdering, atomic_xchg};
        // SAFETY: as above. An exchange, because BPF has no plain store with release ordering before version 4 of
        // its instruction set; it happens only when a flow opens.
        unsafe {
            atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.0.get(), new);
        }
    }
}

/// A table as the kernel programs reach it.
pub struct Table {
    buckets: &'static Array<[Tag; WAYS]>,
    entries: &'static Array<Entry>,
    free: &'static Array<Tag>,
    /// Where its magazine is.
    number: u32,
}

/// The flow table.
pub const FLOWS: Table = Table { buckets: &BUCKETS, entries: &ENTRIES, free: &FREE, number: 0 };
/// What finds no slot there.
pub const AGGREGATES: Table =
    Table { buckets: &AGGREGATE_BUCKETS, entries: &AGGREGATE_ENTRIES, free: &AGGREGATE_FREE, number: 1 };

impl Memory for Table {
    type Word = Tag;

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&[Tag; WAYS]> {
        self.buckets.get(index)
    }

    #[inline(always)]
    fn entry(&self, number: u32) -> Option<*mut Entry> {
        self.entries.get_ptr_mut(number)
    }

    #[inline(always)]
    fn free_word(&self, index: u32) -> Option<&Tag> {
        self.free.get(index)
    }

    #[inline(always)]
    fn relax(&self) {
        // There is no instruction for it. Reading the clock takes some 20 to 40 ns: all looks together are a microsecond,
        // which is several times what writing an entry takes.
        clock::now();
    }

    #[inline(always)]
    fn prefetch(&self, entry: *mut Entry, packet: &Packet) {
        // BPF has no instruction for it; a load whose value nobody waits for does the same. Where flows are many each
        // line comes from memory, and four waits become one.
        // SAFETY: the words lie in the entry, aligned. Volatile, or the compiler would leave the loads out.
        unsafe {
            let directions = (&raw const (*entry).state.directions).cast::<Direction>();
            let (own, other) = if packet.direction & 1 == 0 {
                (directions, directions.add(1))
            } else {
                (directions.add(1), directions)
            };
            (&raw const (*own).packets).read_volatile();
            (&raw const (*own).bytes).read_volatile();
            (&raw const (*own).gaps.squares_low).read_volatile();
            (&raw const (*other).packets).read_volatile();
            if packet.payload != 0 {
                (&raw const (*own).bulk_start).read_volatile();
            }
        }
    }
}

impl Opens for Table {
    #[inline(always)]
    fn magazine(&self) -> Option<*mut Magazine> {
        SPARES.get_ptr_mut(self.number)
    }
}
