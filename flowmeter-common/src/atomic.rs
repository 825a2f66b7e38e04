//! Adding to a counter that several CPUs may add to at once.

/// Adds to `counter` so that no concurrent addition is lost, and returns its value before.
///
/// In the kernel programs two CPUs can carry packets of one direction (no receive-side scaling, several senders);
/// totals must stay exact. A capture has one reader, and needs no atomic.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn add_exact(counter: &mut u64, n: u64) -> u64 {
    // SAFETY: `counter` points to eight writable, aligned bytes. BPF_ADD with BPF_FETCH is what this lowers to.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(counter, n)
    }
}

/// Adds to `counter` and returns its value before. See the kernel's variant for why it exists.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub fn add_exact(counter: &mut u64, n: u64) -> u64 {
    let before = *counter;
    *counter = before.wrapping_add(n);
    before
}
