//! What time it is.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no argument and no precondition.
    unsafe { bpf_ktime_get_ns() }
}
