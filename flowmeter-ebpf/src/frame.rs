//! The only raw packet pointers: a frame between `data` and `data_end`, checked at each read.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::{TcContext, XdpContext};
use flowmeter_common::frame::{Frame, MAX_OFFSET, Plain};

/// The linear part of a packet.
pub struct KernelFrame {
    start: usize,
    end: usize,
    wire: Wire,
    /// A word of a map that only this CPU uses. An offset goes through it when the verifier is to forget what it knows of it.
    scratch: *mut u32,
}

/// Who knows how long a packet is.
#[derive(Clone, Copy)]
enum Wire {
    /// The kernel, which is asked only if it matters: a call costs nanoseconds.
    Xdp(*mut xdp_md),
    Known(usize),
}

impl KernelFrame {
    /// A packet before the kernel has made anything of it. `scratch` is a word of a map that only this CPU uses.
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext, scratch: *mut u32) -> Self {
        Self { start: ctx.data(), end: ctx.data_end(), wire: Wire::Xdp(ctx.ctx), scratch }
    }

    /// A packet that the kernel is about to send.
    #[inline(always)]
    pub fn of_tc(ctx: &TcContext, scratch: *mut u32) -> Self {
        Self { start: ctx.data(), end: ctx.data_end(), wire: Wire::Known(ctx.len() as usize), scratch }
    }

    /// The same frame of which more was on the wire: it was cut when it was captured.
    #[inline(always)]
    pub fn with_wire_len(self, wire_len: usize) -> Self {
        Self { wire: Wire::Known(wire_len), ..self }
    }

    /// True if the packet goes on after its linear part.
    #[inline(always)]
    pub fn is_partial(&self) -> bool {
        self.end - self.start < self.wire_len()
    }
}

impl Frame for KernelFrame {
    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the bytes lie between data and data_end, which the verifier checks again, and T is Plain. An IP
        // header after 14 bytes of Ethernet lies two bytes off its alignment; BPF loads have no alignment of their
        // own and the kernel refuses the program where the processor has one. An unaligned read would become a load
        // a byte: 59 ns a packet in place of 38.
        Some(unsafe { (at as *const T).read() })
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        length <= self.end - self.start
    }

    #[inline(always)]
    fn wire_len(&self) -> usize {
        match self.wire {
            // SAFETY: the helper reads the context that the kernel gave us.
            Wire::Xdp(ctx) => unsafe { bpf_xdp_get_buff_len(ctx) as usize },
            Wire::Known(length) => length,
        }
    }

    #[inline(always)]
    fn forget(&self, offset: usize) -> usize {
        // SAFETY: the word is this CPU's own. Volatile, so that the value really goes through the map.
        let offset = unsafe {
            self.scratch.write_volatile(offset as u32);
            self.scratch.read_volatile()
        };
        // The verifier knows nothing of the value now, and wants a bound.
        offset as usize & (MAX_OFFSET - 1)
    }
}

/// What the socket buffer knows of a packet beside its bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SkbFacts {
    /// Interface index.
    pub interface: u32,
    /// VLAN tag that is not in the bytes, as the parser would report it, or 0.
    pub vlan: u16,
    /// Number of wire packets that it will become; at least 1.
    pub segments: u16,
    /// Payload bytes of each but the last; 0 if it is one packet.
    pub segment_payload: u32,
}

impl SkbFacts {
    /// A packet on `interface` that has no socket buffer: it is one wire packet.
    #[inline(always)]
    pub const fn none(interface: u32) -> Self {
        Self { interface, vlan: 0, segments: 1, segment_payload: 0 }
    }

    /// Reads the socket buffer's fields.
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        // SAFETY: the context is a valid __sk_buff for the program's run; the verifier rewrites each field access.
        let skb: &__sk_buff = unsafe { &*ctx.skb.skb };
        let segments = if skb.gso_segs > 1 && skb.gso_segs <= u32::from(u16::MAX) { skb.gso_segs } else { 1 };
        Self {
            interface: skb.ifindex,
            vlan: if skb.vlan_present != 0 {
                flowmeter_common::key::VLAN_PRESENT | skb.vlan_tci as u16 & 0x0fff
            } else {
                0
            },
            segments: segments as u16,
            segment_payload: if segments > 1 { skb.gso_size } else { 0 },
        }
    }
}
