//! One program at a time on a CPU: where programs can interrupt each other, who comes second lets the packet pass.
//!
//! Programs run with bottom halves off, and on most kernels nothing interrupts them on their CPU, so that memory of the
//! CPU's own needs no lock. A kernel built with PREEMPT_RT may run one in the middle of another. The agent then sets
//! [`interruptible`](flowmeter_common::config::KernelConfig::interruptible); elsewhere the verifier removes all this.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

use flowmeter_common::counter::Skip;

use crate::count::Counters;
use crate::maps::{PARSED, config};

/// Takes this CPU's memory for a program with so many packets; false if another has it, which then counts them.
#[inline(always)]
pub fn take(packets: u16) -> bool {
    if config().interruptible == 0 {
        return true;
    }
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: aligned words of a map's value, accessed by atomic instructions only.
    unsafe {
        let (_, taken) = atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            &raw mut (*parsed).busy,
            0,
            1,
        );
        if !taken {
            atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(
                &raw mut (*parsed).turned_away,
                u64::from(packets),
            );
        }
        taken
    }
}

/// Gives it back, and counts on `interface` the packets of those that were turned away meanwhile.
#[inline(always)]
pub fn end(interface: u32) {
    if config().interruptible == 0 {
        return;
    }
    let Some(parsed) = PARSED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: as above.
    let away =
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(&raw mut (*parsed).turned_away, 0) as u16 };
    if away != 0
        && let Some(counters) = Counters::seen(interface, away)
    {
        counters.skipped(Skip::Busy as u32, away);
    }
    // SAFETY: as above.
    unsafe {
        atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(&raw mut (*parsed).busy, 0);
    }
}
