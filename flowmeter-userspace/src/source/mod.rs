//! Where flows come from: the kernel's table, or a capture file. Both give [`FlowRecord`](crate::record::FlowRecord)s.

pub mod capture;
pub mod flows;
mod index;
pub mod live;
pub mod pcap;
mod timers;

/// Asks for all cache lines of a value, without waiting for them.
#[inline]
fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<T>().div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint, which cannot fault; the address lies within the value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().add(line * 64)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
