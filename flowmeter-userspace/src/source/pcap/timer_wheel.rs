//! When to look at which flow again: a timing wheel (Varghese and Lauck, 1987) over the slots of the host's flow table.
//!
//! Each slot is in at most one list, so that arming, moving and removing it take constant time and memory is eight
//! bytes a slot. A tick is coarse: a flow is looked at up to one tick after its time, and then judged by its own times.

use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::time::SECOND;

/// Length of a tick, ns.
const TICK: u64 = SECOND / 4;
/// Ticks in the wheel: more than the longest timeout lasts.
const TICKS: usize = 16_384;
const _: () = assert!(TICKS as u64 * TICK > Timeouts::MAX_IDLE + 2 * TICK);
const _: () = assert!(TICKS as u64 * TICK > Timeouts::MAX_ACTIVE + 2 * TICK);
/// No slot.
const NONE: u32 = u32::MAX;

/// Marks a list's number in [`Link::previous`].
const LIST: u32 = 1 << 31;

/// A slot's place in the lists.
#[derive(Clone, Copy)]
struct Link {
    next: u32,
    /// The slot before, or the list, marked, for the first one; [`NONE`] for a slot that is in no list.
    previous: u32,
}

/// The wheel.
pub struct Timers {
    /// First slot of each tick's list.
    heads: Box<[u32]>,
    links: Vec<Link>,
    /// The earliest tick that has not been looked at.
    tick: u64,
    started: bool,
}

impl Timers {
    /// No timer yet.
    pub fn new() -> Self {
        Self { heads: vec![NONE; TICKS].into_boxed_slice(), links: Vec::new(), tick: 0, started: false }
    }

    /// Sees to it that `slot` comes out of [`due`](Self::due) when its time `at` (ns) has passed, instead of whenever it
    /// would have come.
    pub fn arm(&mut self, slot: u32, at: u64) {
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, Link { next: NONE, previous: NONE });
        }
        self.disarm(slot);
        // What would be beyond the wheel is looked at early, and armed again.
        let tick = (at / TICK).clamp(self.tick, self.tick + TICKS as u64 - 1);
        let list = (tick % TICKS as u64) as u32;
        let first = std::mem::replace(&mut self.heads[list as usize], slot);
        if first != NONE {
            self.links[first as usize].previous = slot;
        }
        self.links[slot as usize] = Link { next: first, previous: LIST | list };
    }

    /// Takes a slot out.
    pub fn disarm(&mut self, slot: u32) {
        let Some(&Link { next, previous }) = self.links.get(slot as usize) else {
            return;
        };
        if previous == NONE {
            return;
        }
        if previous & LIST != 0 {
            self.heads[(previous & !LIST) as usize] = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.links[slot as usize].previous = NONE;
    }

    /// True if [`due`](Self::due) has something to do at `now`.
    #[inline]
    pub fn ticked(&self, now: u64) -> bool {
        now / TICK > self.tick
    }

    /// Takes out the slots of the earliest tick that has any and is over at `now` (ns), which never goes back; with the
    /// end of that tick, ns. To be asked again until there are none.
    pub fn due(&mut self, now: u64) -> Option<(u64, Vec<u32>)> {
        let present = now / TICK;
        if !self.started {
            // Captures begin decades after tick 0.
            self.started = true;
            self.tick = present;
        }
        let mut slots = Vec::new();
        let last = present.min(self.tick + TICKS as u64);
        while self.tick < last {
            let list = (self.tick % TICKS as u64) as usize;
            while self.heads[list] != NONE {
                let slot = self.heads[list];
                self.disarm(slot);
                slots.push(slot);
            }
            self.tick += 1;
            if !slots.is_empty() {
                return Some((self.tick * TICK, slots));
            }
        }
        self.tick = present;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start of a capture, on a tick.
    const START: u64 = 1_700_000_000 * SECOND;

    fn started() -> Timers {
        let mut timers = Timers::new();
        assert!(timers.due(START).is_none());
        timers
    }

    /// All slots that are due, in order.
    fn due(timers: &mut Timers, now: u64) -> Vec<u32> {
        let mut slots: Vec<u32> =
            std::iter::from_fn(|| timers.due(now)).flat_map(|(_, slots)| slots).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn a_slot_comes_out_once_within_a_tick_after_its_time() {
        let mut timers = started();
        timers.arm(7, START + SECOND);
        assert!(due(&mut timers, START + SECOND).is_empty(), "the tick of its time is not over");
        assert_eq!(timers.due(START + SECOND + TICK), Some((START + SECOND + TICK, vec![7])));
        assert!(due(&mut timers, START + 9 * SECOND).is_empty());
    }

    #[test]
    fn arming_again_moves_and_disarming_removes() {
        let mut timers = started();
        for slot in 0..4 {
            timers.arm(slot, START + SECOND);
        }
        timers.arm(1, START + 60 * SECOND);
        timers.disarm(2);
        timers.disarm(99);
        assert_eq!(due(&mut timers, START + 2 * SECOND), [0, 3]);
        assert_eq!(due(&mut timers, START + 61 * SECOND), [1]);
    }

    #[test]
    fn a_jump_over_the_whole_wheel_finds_every_slot() {
        let mut timers = started();
        timers.arm(0, START + SECOND);
        timers.arm(1, START + 3600 * SECOND);
        timers.arm(2, START + 100_000 * SECOND);
        assert_eq!(due(&mut timers, START + 1_000_000 * SECOND), [0, 1, 2]);
    }
}
