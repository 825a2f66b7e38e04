//! The table's protocol under every interleaving of two parties: loom runs each test again and again, with another order
//! of the accesses to shared tags each time, up to a bound on the number of preemptions.
//!
//! The model covers tags. The kernel reads them by plain loads, taken for acquire loads here; what the loads of an entry
//! may see on a processor with weak ordering is outside of it.

use std::cell::UnsafeCell;

use flowmeter_common::flow::{Entry, Opening};
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::packet::{Packet, protocol};
use flowmeter_common::prefilter::mark;
use flowmeter_common::table::{
    Found, Magazine, Memory, NoSlot, Opens, Place, WAYS, Word, find_or_open, free, retire, state, tag,
};
use flowmeter_common::time::SECOND;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use loom::thread;

/// Preemptions of a run. Two show nearly all defects of such protocols (Musuvathi and Qadeer, 2007); without a bound, two
/// claims for one flow take minutes.
const PREEMPTIONS: usize = 5;
const START: u64 = 1_700_000_000 * SECOND;
/// A hash whose tag is told from the others.
const HASH: u64 = 0x1234_5678_9abc_def0;

/// A tag: shared by the parties, or taken all the time by some other flow, which keeps the model small.
enum Tag {
    Shared(AtomicU64),
    Taken,
}

impl Word for Tag {
    fn load(&self) -> u64 {
        match self {
            Self::Shared(word) => word.load(Ordering::Acquire),
            Self::Taken => tag::live(tag::HASH, 0),
        }
    }

    /// A full barrier, as BPF's compare-exchange is.
    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        let Self::Shared(word) = self else { return false };
        fence(Ordering::SeqCst);
        let exchanged = word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok();
        fence(Ordering::SeqCst);
        exchanged
    }

    fn publish(&self, new: u64) {
        if let Self::Shared(word) = self {
            fence(Ordering::SeqCst);
            word.swap(new, Ordering::AcqRel);
            fence(Ordering::SeqCst);
        }
    }
}

/// A table of which every key has one line of tags, beside lines that others have taken.
struct Table {
    bucket: [Tag; WAYS],
    entries: *mut Entry,
    /// Where the list of free entries begins, and the links.
    free: Vec<Tag>,
    /// Kernel programs that run; the agent's grace period waits for them.
    running: AtomicUsize,
}

// SAFETY: loom runs the parties in turns on one thread; who may touch an entry when is what is tested.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Drop for Table {
    fn drop(&mut self) {
        let entries = core::ptr::slice_from_raw_parts_mut(self.entries, self.free.len() - 1);
        // SAFETY: made by `new` from a box of as many, and dropped once.
        drop(unsafe { Box::from_raw(entries) });
    }
}

impl Memory for Table {
    type Word = Tag;

    fn line(&self, index: u32) -> Option<&[Tag; WAYS]> {
        const TAKEN: [Tag; WAYS] = [const { Tag::Taken }; WAYS];
        Some(if index == 0 { &self.bucket } else { &TAKEN })
    }

    fn entry(&self, number: u32) -> Option<*mut Entry> {
        // SAFETY: there are as many entries as links.
        (number as usize + 1 < self.free.len()).then(|| unsafe { self.entries.add(number as usize) })
    }

    fn free_word(&self, index: u32) -> Option<&Tag> {
        self.free.get(index as usize)
    }
}

/// A CPU, with the entries that it has taken for itself.
struct Cpu<'a> {
    table: &'a Table,
    magazine: UnsafeCell<Magazine>,
}

impl Memory for Cpu<'_> {
    type Word = Tag;

    /// More than the preemptions of a run, so that the model shows whether waiting ever takes for ever.
    const PATIENCE: u32 = 16;
    /// Fewer, each of which multiplies the orders that there are.
    const LOOKS: u32 = 3;

    fn relax(&self) {
        thread::yield_now();
    }

    fn line(&self, index: u32) -> Option<&[Tag; WAYS]> {
        self.table.line(index)
    }

    fn entry(&self, number: u32) -> Option<*mut Entry> {
        self.table.entry(number)
    }

    fn free_word(&self, index: u32) -> Option<&Tag> {
        self.table.free_word(index)
    }
}

impl Opens for Cpu<'_> {
    fn magazine(&self) -> Option<*mut Magazine> {
        Some(self.magazine.get())
    }
}

impl Table {
    /// A table with so many slots that are not taken by others, and as many entries in its list.
    fn new(slots: usize, entries: usize) -> Self {
        let empty = Entry::opened_by(&packet(0, 0), Opening { initiator: 0, earlier: 0 });
        let boxed: Box<[Entry]> = vec![empty; entries].into();
        Self {
            bucket: std::array::from_fn(|way| match way < slots {
                true => Tag::Shared(AtomicU64::new(state::EMPTY)),
                false => Tag::Taken,
            }),
            entries: Box::into_raw(boxed).cast(),
            free: (0..=entries).map(|_| Tag::Shared(AtomicU64::new(0))).collect(),
            running: AtomicUsize::new(0),
        }
    }

    /// A table whose list of free entries is empty: each CPU has one.
    fn with_an_entry_each(slots: usize, cpus: u32) -> Self {
        let table = Self::new(slots, cpus as usize);
        let all = Cpu { table: &table, magazine: UnsafeCell::default() };
        // Opening a flow takes all that there are.
        find_or_open(&all, &place(&packet(0, 99)), &packet(0, 99), OPENING, START, &Timeouts::default())
            .expect("there is room");
        table.bucket.iter().for_each(|tag| {
            if let Tag::Shared(word) = tag {
                word.store(state::EMPTY, Ordering::Relaxed);
            }
        });
        table
    }

    /// A CPU that has this entry.
    fn cpu(&self, entry: u32) -> Cpu<'_> {
        let mut magazine = Magazine { count: 1, ..Magazine::default() };
        magazine.entries[0] = entry;
        Cpu { table: self, magazine: magazine.into() }
    }

    /// A CPU that has none.
    fn bare_cpu(&self) -> Cpu<'_> {
        Cpu { table: self, magazine: UnsafeCell::default() }
    }

    /// What the agent does with a retired slot: lets programs end, copies the flow, gives slot and entry back.
    fn take_out(&self, slot: u32, live_tag: u64) -> Entry {
        fence(Ordering::SeqCst);
        while self.running.load(Ordering::Acquire) != 0 {
            thread::yield_now();
        }
        // SAFETY: the flow is retired, and no program that found it before still runs.
        let entry = unsafe { self.entries.add(tag::entry(live_tag) as usize).read() };
        free(self, slot, tag::retired(live_tag));
        entry
    }

    /// The flows that live.
    fn living(&self) -> Vec<Entry> {
        let tags = self.bucket.iter().filter_map(|tag| match tag {
            Tag::Shared(word) => Some(word.load(Ordering::Acquire)),
            Tag::Taken => None,
        });
        tags.filter(|tag| tag & state::MASK == state::LIVE)
            // SAFETY: nobody else is left.
            .map(|tag| unsafe { self.entries.add(tag::entry(tag) as usize).read() })
            .collect()
    }

    /// Slots that nobody will ever free.
    fn stuck(&self) -> usize {
        let claiming = |tag: &&Tag| matches!(tag, Tag::Shared(word) if word.load(Ordering::Acquire) & state::MASK == state::CLAIMING);
        self.bucket.iter().filter(claiming).count()
    }

    /// The entries in the list, in their order. Nobody else is left.
    fn free_entries(&self) -> Vec<u32> {
        let cpu = self.bare_cpu();
        let mut found = Vec::new();
        // Each flow that opens takes all that there are, and keeps one.
        let opened =
            find_or_open(&cpu, &place(&packet(0, 99)), &packet(0, 99), OPENING, START, &Timeouts::default());
        if let Ok(opened) = opened {
            let magazine = cpu.magazine.into_inner();
            found.extend_from_slice(&magazine.entries[..magazine.count as usize]);
            found.push(tag::entry(opened.tag));
        }
        found
    }
}

impl Cpu<'_> {
    /// What a kernel program does with a packet.
    fn count(&self, packet: &Packet, at: u64) -> Result<Found, NoSlot> {
        self.table.running.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let found = find_or_open(self, &place(packet), packet, Opening::of(packet), at, &Timeouts::default());
        if let Ok(found) = &found {
            // SAFETY: the tag was live when it was found, and this program has not returned.
            unsafe { (*found.entry).state.update(packet, at) };
        }
        fence(Ordering::SeqCst);
        self.table.running.fetch_sub(1, Ordering::AcqRel);
        found
    }

    /// The entries that it has not used.
    fn unused(&self) -> Vec<u32> {
        // SAFETY: this party alone has the cell.
        let magazine = unsafe { *self.magazine.get() };
        magazine.entries[..magazine.count as usize].to_vec()
    }
}

const OPENING: Opening = Opening { initiator: 0, earlier: 0 };

fn place(packet: &Packet) -> Place {
    Place { lines: [0, 1, 2], hash: (HASH ^ u64::from(packet.key.a_port) << 8) & tag::HASH }
}

/// A datagram of a flow.
fn packet(direction: u8, port: u16) -> Packet {
    let key = FlowKey { a_port: port, protocol: protocol::UDP, ip_version: 4, ..FlowKey::default() };
    Packet { direction, header: 8, size: 28, ..Packet::of(key) }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(test);
}

#[test]
fn two_claims_for_one_flow_make_one_flow() {
    model(|| {
        let table = Arc::new(Table::with_an_entry_each(2, 2));
        let other = Arc::clone(&table);
        let one = thread::spawn(move || other.cpu(0).count(&packet(0, 1), START).is_ok());
        let two = table.cpu(1).count(&packet(1, 1), START).is_ok();
        assert!(one.join().unwrap() && two, "both packets are counted, whatever the order");
        let living = table.living();
        assert_eq!(living.len(), 1, "flows for one key");
        assert_eq!(living[0].state.packets(), 2);
        assert_eq!(table.stuck(), 0);
    });
}

#[test]
fn two_claims_for_one_slot_give_it_to_one_flow() {
    model(|| {
        let table = Arc::new(Table::with_an_entry_each(1, 2));
        let other = Arc::clone(&table);
        let one = thread::spawn(move || other.cpu(0).count(&packet(0, 1), START).is_ok());
        let two = table.cpu(1).count(&packet(0, 2), START).is_ok();
        let counted = u64::from(one.join().unwrap()) + u64::from(two);
        let living = table.living();
        assert_eq!(living.iter().map(|entry| entry.state.packets()).sum::<u64>(), counted);
        assert_eq!(living.len() as u64, counted, "each of them has a packet");
        assert_eq!(table.stuck(), 0);
    });
}

#[test]
fn a_packet_while_its_flow_is_taken_out_is_counted_once() {
    model(|| {
        let table = Arc::new(Table::with_an_entry_each(2, 2));
        let opened = table.cpu(0).count(&packet(0, 1), START).expect("there is room");
        let (slot, tag) = (opened.slot, opened.tag);
        let other = Arc::clone(&table);
        let late = thread::spawn(move || other.cpu(1).count(&packet(1, 1), START).is_ok());
        let taken = if retire(&*table, slot, tag) { table.take_out(slot, tag).state.packets() } else { 0 };
        let counted = 1 + u64::from(late.join().unwrap());
        let living: u64 = table.living().iter().map(|entry| entry.state.packets()).sum();
        assert_eq!(taken + living, counted);
        assert_eq!(table.stuck(), 0);
    });
}

#[test]
fn a_flow_is_ended_by_the_agent_or_by_a_packet_and_never_by_both() {
    model(|| {
        let table = Arc::new(Table::with_an_entry_each(2, 2));
        let opened = table.cpu(0).count(&packet(0, 1), START).expect("there is room");
        let (slot, tag) = (opened.slot, opened.tag);
        let other = Arc::clone(&table);
        // After the idle timeout, so that the packet opens another flow.
        let later = START + Timeouts::default().idle + 1;
        let by_packet = thread::spawn(move || {
            let found = other.cpu(1).count(&packet(1, 1), later);
            (found.is_ok(), found.is_ok_and(|found| found.ended.is_some()))
        });
        let by_agent = retire(&*table, slot, tag);
        let (counted, by_packet) = by_packet.join().unwrap();
        assert!(by_agent ^ by_packet, "agent: {by_agent}, packet: {by_packet}");
        let ended = table.take_out(slot, tag);
        assert_eq!(ended.state.packets(), 1, "the old flow has its own packet alone");
        assert_eq!(table.living().iter().map(|entry| entry.state.packets()).sum::<u64>(), u64::from(counted));
    });
}

#[test]
fn a_slot_that_is_given_back_is_claimed_whole_or_not_at_all() {
    model(|| {
        let table = Arc::new(Table::with_an_entry_each(1, 2));
        let opened = table.cpu(0).count(&packet(0, 1), START).expect("there is room");
        assert!(retire(&*table, opened.slot, opened.tag));
        let (slot, tag) = (opened.slot, opened.tag);
        let other = Arc::clone(&table);
        let next = thread::spawn(move || other.cpu(1).count(&packet(0, 2), START).is_ok());
        let taken = table.take_out(slot, tag);
        let counted = next.join().unwrap();
        assert_eq!((taken.key.a_port, taken.state.packets()), (1, 1));
        let living: Vec<(u16, u64)> =
            table.living().iter().map(|entry| (entry.key.a_port, entry.state.packets())).collect();
        assert_eq!(living, if counted { vec![(2, 1)] } else { vec![] });
        assert_eq!(table.stuck(), 0);
    });
}

#[test]
fn a_verdict_and_an_update_leave_each_other_alone() {
    model(|| {
        let table = Arc::new(Table::with_an_entry_each(1, 2));
        let opened = table.cpu(0).count(&packet(0, 1), START).expect("there is room");
        let entry = opened.entry;
        // SAFETY: the flow lives; the word is the agent's alone.
        let word = unsafe { &raw mut (*entry).verdict };
        let other = Arc::clone(&table);
        let update = thread::spawn(move || other.cpu(1).count(&packet(1, 1), START).is_ok());
        // SAFETY: as above.
        unsafe { word.write_volatile(3) };
        assert!(update.join().unwrap());
        let living = table.living();
        assert_eq!((living[0].verdict, living[0].state.packets()), (3, 2));
    });
}

#[test]
fn two_cpus_take_different_entries() {
    model(|| {
        let table = Arc::new(Table::new(2, 2));
        let other = Arc::clone(&table);
        let one = thread::spawn(move || {
            let cpu = other.bare_cpu();
            let found = cpu.count(&packet(0, 1), START).map(|found| tag::entry(found.tag));
            (found, cpu.unused())
        });
        let cpu = table.bare_cpu();
        let two = cpu.count(&packet(0, 2), START).map(|found| tag::entry(found.tag));
        let (one, one_has) = one.join().unwrap();
        let used = [one, two].into_iter().flatten();
        let mut all: Vec<u32> = used.chain(one_has).chain(cpu.unused()).chain(table.free_entries()).collect();
        all.sort();
        assert_eq!(all, [0, 1], "each entry is somewhere, once");
    });
}

#[test]
fn an_entry_given_back_while_others_are_taken_is_neither_lost_nor_given_twice() {
    model(|| {
        // Two flows live, one entry is in the list.
        let table = Arc::new(Table::new(4, 3));
        let opened: Vec<(u32, u64)> = {
            let cpu = table.bare_cpu();
            let flows = [1, 2].map(|port| cpu.count(&packet(0, port), START).expect("there is room"));
            let left = cpu.unused();
            assert_eq!(left.len(), 1);
            // As if it had never been taken.
            for entry in left {
                free_entry(&table, entry);
            }
            flows.map(|found| (found.slot, found.tag)).into()
        };
        let other = Arc::clone(&table);
        let takes = thread::spawn(move || {
            let cpu = other.bare_cpu();
            let found = cpu.count(&packet(0, 3), START).map(|found| tag::entry(found.tag));
            (found, cpu.unused())
        });
        // Another CPU takes it, and gives it back last: the list begins as before, and goes on otherwise.
        let cpu = table.bare_cpu();
        let found = cpu.count(&packet(0, 4), START).map(|found| (found.slot, found.tag));
        for (slot, tag) in opened.into_iter().chain(found) {
            assert!(retire(&*table, slot, tag));
            free(&*table, slot, tag::retired(tag));
        }
        let (taken, kept) = takes.join().unwrap();
        let kept = kept.into_iter().chain(cpu.unused());
        let mut all: Vec<u32> = taken.into_iter().chain(kept).chain(table.free_entries()).collect();
        all.sort();
        assert_eq!(all, [0, 1, 2], "each entry is somewhere, once");
    });
}

/// Puts an entry into the list by way of a slot that is nobody's.
fn free_entry(table: &Table, entry: u32) {
    free(table, WAYS as u32 - 1, tag::retired(tag::live(0, entry)));
}

/// A flow's mark, as shared memory has it.
struct Mark(AtomicU32);

impl mark::MarkWord for Mark {
    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn compare_exchange(&self, current: u32, new: u32) -> bool {
        self.0.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[test]
fn a_verdict_that_comes_late_does_not_meet_the_next_flow() {
    model(|| {
        let word = Arc::new(Mark(AtomicU32::new(mark::changed(mark::reopened(0), mark::UNKNOWN))));
        let seen = mark::MarkWord::load(&*word);
        let other = Arc::clone(&word);
        // As `open` does, whose slot nobody else claims. Exchanges stand for its stores: a processor brings all stores to
        // one word into an order that everybody agrees about, and loom only those.
        let opens = thread::spawn(move || {
            let before = mark::MarkWord::load(&*other);
            other.0.swap(0, Ordering::Relaxed);
            other.0.swap(mark::reopened(before), Ordering::Release);
        });
        let given = mark::give(&*word, seen, mark::MALICIOUS);
        opens.join().unwrap();
        let after = mark::MarkWord::load(&*word);
        assert_eq!(
            after,
            mark::reopened(seen),
            "no verdict, whether the old flow had got it ({given}) or not"
        );
        assert!(!mark::give(&*word, seen, mark::MALICIOUS), "nor any later");
    });
}

#[test]
fn two_verdicts_of_one_flow_are_given_one_after_the_other() {
    model(|| {
        let word = Mark(AtomicU32::new(mark::reopened(0)));
        let seen = mark::MarkWord::load(&word);
        assert!(mark::give(&word, seen, mark::MALICIOUS));
        assert!(
            mark::give(&word, seen, mark::of(mark::BENIGN, true, false)),
            "copied before the first was given"
        );
        assert_eq!(mark::MarkWord::load(&word) & mark::BITS, mark::BENIGN | mark::LATER);
    });
}
