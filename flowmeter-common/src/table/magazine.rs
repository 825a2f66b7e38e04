//! Free entries that a CPU keeps for itself.

/// Free entries that a CPU has taken for itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Magazine {
    /// How many there are.
    pub count: u64,
    /// Their numbers.
    pub entries: [u32; Self::MAX as usize],
    /// Numbers go through this word when the kernel's verifier is to forget what it knows of them.
    pub scratch: u64,
}

impl Magazine {
    /// Most that a CPU takes at once: a power of two.
    pub const MAX: u32 = 16;

    /// The same number, of which the kernel's verifier knows nothing now. Otherwise it would walk everything that follows once
    /// for each slot, or line, that the number may be.
    #[inline(always)]
    pub(super) fn forget(&mut self, number: u64) -> u64 {
        // SAFETY: a field that is borrowed. Volatile, so that the value really goes through memory.
        unsafe {
            (&raw mut self.scratch).write_volatile(number);
            (&raw const self.scratch).read_volatile()
        }
    }
}
