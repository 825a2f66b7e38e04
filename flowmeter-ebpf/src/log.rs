//! What the programs write into the agent's log.

use aya_log_ebpf::warn;

#[inline(always)]
pub fn no_slot<C: aya_ebpf::EbpfContext>(ctx: &C, folded: u64) {
    warn!(ctx, "no slot in the flow table: {} packets folded on this CPU so far", folded);
}

// A record of the log holds the number of the line that wrote it, so that number is code. Hence `warn!` stands in a file of
// its own, and comments stand below it: elsewhere one more line of comment would change the object.
