//! A generator of packets: what the kernel lets it run on (BPF_PROG_TEST_RUN with live frames) leaves by an interface.

use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use super::traffic;

/// Number of the interface that packets leave by. Set before loading.
#[unsafe(no_mangle)]
static LEAVE_BY: u32 = 0;

/// Makes the packet the next flow's, and sends it.
#[xdp]
#[inline(always)]
pub fn test_generate(ctx: XdpContext) -> u32 {
    traffic::next(&ctx);
    // SAFETY: reads a static, volatile since it is set before loading; the helper takes numbers only.
    unsafe { bpf_redirect((&raw const LEAVE_BY).read_volatile(), 0) as u32 }
}
