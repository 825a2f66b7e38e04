//! From a parsed packet to an updated flow.

use flowmeter_common::aggregate;
use flowmeter_common::event::reason;
use flowmeter_common::flow::{Entry, Opening};
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::table::{Hit, Memory, NoSlot, Place, find_living, find_or_open, slot_of, tag};

use crate::count::Counters;
use crate::emit::emit;
use crate::log;
use crate::maps::{AGGREGATES, FLOWS, PARSED, Parsed, Table, config};

/// Adds the packet to its flow, and returns its entry.
///
/// # Errors
/// There is no slot for it; it has been counted as folded.
#[inline(always)]
pub fn track(counters: &Counters, parsed: *mut Parsed, now: u64) -> Result<*mut Entry, NoSlot> {
    // SAFETY: a value of a per-CPU map, looked up by the caller.
    let Parsed { packet, hash, .. } = unsafe { &*parsed };
    let config = config();
    let place = Place::of(*hash, config.buckets);
    let mut opened = false;
    let Hit { mut tag, mut entry, .. } = find_living(&FLOWS, &place, packet, now, &config.timeouts);
    if entry.is_null() {
        let outcome = flowmeter_open(now);
        if outcome & outcome::ENDED != 0 {
            // SAFETY: as above; read after they have been written.
            let (ended_slot, ended_tag) = unsafe {
                (
                    (&raw const (*parsed).ended_slot).read_volatile(),
                    (&raw const (*parsed).ended_tag).read_volatile(),
                )
            };
            emit(counters, ended_slot, reason::CLOSING, ended_tag);
        }
        if outcome & outcome::NO_SLOT == 0 {
            // SAFETY: as above.
            tag = unsafe { (&raw const (*parsed).tag).read_volatile() };
            opened = outcome & outcome::OPENED != 0;
            entry = FLOWS.entry(tag::entry(tag)).unwrap_or(core::ptr::null_mut());
        }
        if entry.is_null() {
            let contended = outcome & outcome::CONTENDED != 0;
            let aggregated = flowmeter_fold(now) == 0;
            // SAFETY: as above; read again, since it has been written.
            counters.folded(unsafe { &(*parsed).packet }, contended, aggregated);
            return Err(if contended { NoSlot::Contended } else { NoSlot::Full });
        }
    }
    // SAFETY: the slot's tag is live, or was when it was found: until this program returns the entry is this flow's.
    let updated = unsafe { (*entry).state.update(packet, now) };
    counters.counted(packet, opened);
    let told = opened && config.events_opened != 0;
    if told || updated.checkpoint || updated.closed {
        // The slot is looked for once more: had it been kept, the verifier would walk through the update once for each slot
        // that it may be.
        let slot = flowmeter_slot(tag);
        // A flow that has been retired meanwhile has been seen by the agent.
        if slot != NO_SLOT {
            let tell = |reason| emit(counters, slot as u32, reason, tag);
            if told {
                tell(reason::OPENED);
            }
            if updated.checkpoint {
                tell(reason::CHECKPOINT);
            }
            if updated.closed {
                tell(reason::CLOSING);
            }
        }
    }
    Ok(entry)
}

/// What [`flowmeter_slot`] returns if there is none.
const NO_SLOT: u64 = u64::MAX;

/// The slot of the flow with this tag, which is that of the packet in [`PARSED`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_slot(tag: u64) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return NO_SLOT;
    };
    // SAFETY: a value of a per-CPU map.
    let place = Place::of(unsafe { (*parsed).hash }, config().buckets);
    slot_of(&FLOWS, &place, tag).map_or(NO_SLOT, u64::from)
}

/// What [`flowmeter_open`] returns: these bits. Tags are in [`Parsed`].
mod outcome {
    /// The packet opened the flow.
    pub const OPENED: u64 = 1;
    /// The packet ended a flow.
    pub const ENDED: u64 = 2;
    /// There is no slot.
    pub const NO_SLOT: u64 = 4;
    /// There is none because other CPUs kept claiming the same flow.
    pub const CONTENDED: u64 = 8;
}

/// [`find_or_open`] for the packet in [`PARSED`]. Few packets need it, and it takes the verifier longest. So it is a global
/// function: the verifier looks at it once, and not again for each way that leads to it. With static functions Linux 6.1
/// gives up. A global function takes no pointers, so it finds the packet by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_open(now: u64) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return outcome::NO_SLOT;
    };
    let config = config();
    // SAFETY: a value of a per-CPU map.
    let (hash, opening) = unsafe { ((*parsed).hash, Opening::of(&(*parsed).packet)) };
    open(&FLOWS, parsed, Place::of(hash, config.buckets), opening, now, &config.timeouts)
}

/// Adds the packet in [`PARSED`], whose flow has no slot, to its aggregate, and returns 0; 1 if that has none either.
/// What was parsed is written over. Global for the same reason as [`flowmeter_open`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowmeter_fold(now: u64) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: a value of a per-CPU map.
    let whole = unsafe { &mut (*parsed).packet };
    *whole = aggregate::of(whole);
    let hash = config().hash_keys.hash(&whole.key.to_words());
    let place = Place::of(hash, aggregate::BUCKETS);
    let outcome = open(&AGGREGATES, parsed, place, aggregate::OPENING, now, &aggregate::TIMEOUTS);
    if outcome & outcome::NO_SLOT != 0 {
        return 1;
    }
    // SAFETY: a value of a per-CPU map; read after it has been written.
    let tag = unsafe { (&raw const (*parsed).tag).read_volatile() };
    let Some(entry) = AGGREGATES.entry(tag::entry(tag)) else {
        return 1;
    };
    // SAFETY: as in `track`.
    unsafe { (*entry).state.fold(&(*parsed).packet, now) };
    0
}

/// [`find_or_open`] with its result as bits, see [`outcome`].
#[inline(always)]
fn open(
    table: &Table,
    parsed: *mut Parsed,
    place: Place,
    opening: Opening,
    now: u64,
    timeouts: &Timeouts,
) -> u64 {
    // SAFETY: a value of a per-CPU map.
    let Parsed { packet, tag, ended_slot, ended_tag, .. } = unsafe { &mut *parsed };
    match find_or_open(table, &place, packet, opening, now, timeouts) {
        Ok(found) => {
            *tag = found.tag;
            let mut outcome = 0;
            if found.opened {
                outcome |= outcome::OPENED;
            }
            if let Some(ended) = found.ended {
                (*ended_slot, *ended_tag) = (ended.slot, ended.tag);
                outcome |= outcome::ENDED;
            }
            outcome
        }
        Err(NoSlot::Full) => outcome::NO_SLOT,
        Err(NoSlot::Contended) => outcome::NO_SLOT | outcome::CONTENDED,
    }
}

/// How often the agent is told again that packets find no slot.
const TELL_EVERY: u64 = 1 << 16;

/// Tells the agent that the table is full, and says so in the log at each doubling of the number of packets that found no
/// slot on this CPU. What other CPUs kept from its slot says nothing of how full the table is.
#[inline(always)]
pub fn report_full<C: aya_ebpf::EbpfContext>(ctx: &C, counters: &Counters, packets: u16) {
    let folded = counters.full_so_far();
    let before = folded.wrapping_sub(u64::from(packets));
    let doubled = folded ^ before > before;
    if doubled || folded / TELL_EVERY != before / TELL_EVERY {
        emit(counters, 0, reason::NO_ROOM, 0);
    }
    if doubled {
        log::no_slot(ctx, folded);
    }
}
