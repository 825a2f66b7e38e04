//! From a key's hash to its slot: open addressing with linear probing, the cells of a probe side by side in one cache
//! line. Unlike a general hash map it can be asked to fetch what a later look will need, and it grows without a look at
//! the keys; both are what the capture path's rate hangs on.

use super::prefetch;

/// A place for one slot.
#[derive(Clone, Copy, Default)]
struct IndexCell {
    /// Low half of the hash: where the cell belongs, and whether a key is worth comparing.
    hash: u32,
    /// The slot and one; 0 is an empty cell.
    slot: u32,
}

/// Cells to begin with.
const SMALLEST: usize = 1024;

/// The index.
pub struct Index {
    /// A power of two of them, at most seven eighths in use: probes stay within a few lines.
    cells: Vec<IndexCell>,
    count: usize,
}

impl Index {
    /// Nothing in it.
    pub fn new() -> Self {
        Self { cells: vec![IndexCell::default(); SMALLEST], count: 0 }
    }

    /// Number of slots in it.
    pub fn len(&self) -> usize {
        self.count
    }

    /// All slots, in no order.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.cells.iter().filter_map(|cell| cell.slot.checked_sub(1))
    }

    #[inline]
    fn mask(&self) -> usize {
        self.cells.len() - 1
    }

    /// Asks for the cells where a hash would be, without waiting for them.
    #[inline]
    pub fn fetch(&self, hash: u64) {
        prefetch(&self.cells[hash as u32 as usize & self.mask()]);
    }

    /// The first slot whose hash is the same and which `is_it`.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = hash as u32;
        let mut at = hash as usize & self.mask();
        loop {
            let cell = self.cells[at];
            let slot = cell.slot.checked_sub(1)?;
            if cell.hash == hash && is_it(slot) {
                return Some(slot);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Adds a slot that is not in it.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        if (self.count + 1) * 8 > self.cells.len() * 7 {
            let cells = vec![IndexCell::default(); self.cells.len() * 2];
            for cell in std::mem::replace(&mut self.cells, cells) {
                if cell.slot != 0 {
                    self.place(cell);
                }
            }
        }
        self.place(IndexCell { hash: hash as u32, slot: slot + 1 });
        self.count += 1;
    }

    fn place(&mut self, cell: IndexCell) {
        let mut at = cell.hash as usize & self.mask();
        while self.cells[at].slot != 0 {
            at = (at + 1) & self.mask();
        }
        self.cells[at] = cell;
    }

    /// Takes a slot out, if it is there.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let mask = self.mask();
        let mut hole = hash as u32 as usize & mask;
        while self.cells[hole].slot != slot + 1 {
            if self.cells[hole].slot == 0 {
                return;
            }
            hole = (hole + 1) & mask;
        }
        self.count -= 1;
        // Cells after the hole move up if that does not put them before where they belong (Knuth, volume 3, 6.4, R).
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell.slot == 0 {
                break;
            }
            let home = cell.hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = IndexCell::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// What is done to an index; few different hashes, so that they collide and wrap around the end.
    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let hash = prop_oneof![0..8_u64, 1018..1030_u64, 0..1_000_000_u64];
        (hash, any::<bool>())
            .prop_map(|(hash, insert)| if insert { Step::Insert(hash) } else { Step::Remove(hash) })
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(steps in proptest::collection::vec(step(), 0..3000)) {
            let (mut index, mut map) = (Index::new(), HashMap::new());
            for (slot, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(hash) if !map.contains_key(&hash) => {
                        index.insert(hash, slot as u32);
                        map.insert(hash, slot as u32);
                    }
                    Step::Insert(_) => {}
                    Step::Remove(hash) => match map.remove(&hash) {
                        Some(slot) => index.remove(hash, slot),
                        None => index.remove(hash, u32::MAX - 1),
                    },
                }
                prop_assert_eq!(index.len(), map.len());
            }
            for (&hash, &slot) in &map {
                prop_assert_eq!(index.find(hash, |found| found == slot), Some(slot));
            }
            let mut slots: Vec<u32> = index.slots().collect();
            let mut expected: Vec<u32> = map.into_values().collect();
            slots.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(slots, expected);
        }
    }
}
