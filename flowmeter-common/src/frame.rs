//! The one door through which packet bytes enter: a read at an offset, or nothing.

/// A type every bit pattern of which is a value, so that it may be read from packet bytes.
///
/// # Safety
/// Implementors have no padding and no invalid bit pattern.
pub unsafe trait Plain: Copy {}

// SAFETY: integers and arrays of them have no padding and no invalid bit pattern.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u16; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u32; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u64; N] {}

/// The bytes of one packet, from its link header on.
///
/// Two implementations exist: [`SliceFrame`] over captured bytes, and the kernel's over `data..data_end`.
pub trait Frame {
    /// Reads a value, in memory byte order, at `offset` bytes from the frame's start; `None` if it ends before.
    fn read<T: Plain>(&self, offset: usize) -> Option<T>;

    /// True if the frame's first `length` bytes are all here.
    fn holds(&self, length: usize) -> bool;

    /// Length on the wire in bytes, link header included, even where the captured bytes were cut.
    fn wire_len(&self) -> usize;

    /// The same offset, without what the verifier knows about how it came about.
    ///
    /// The kernel's verifier follows each way to an offset on its own, through everything after it. Where many ways
    /// meet, this makes one of them. `offset` is below [`MAX_OFFSET`]. Outside of the kernel this does nothing.
    #[inline(always)]
    fn forget(&self, offset: usize) -> usize {
        offset
    }
}

/// No header is looked for at or after this offset: the extension headers of two packets, one in the other, six of the
/// largest size each, fit before it.
pub const MAX_OFFSET: usize = 1 << 15;

/// A frame held in memory.
#[derive(Clone, Copy, Debug)]
pub struct SliceFrame<'a> {
    bytes: &'a [u8],
    wire_len: usize,
}

impl<'a> SliceFrame<'a> {
    /// A frame of which `bytes` were captured and `wire_len` bytes were on the wire.
    pub fn new(bytes: &'a [u8], wire_len: usize) -> Self {
        Self { bytes, wire_len: if wire_len < bytes.len() { bytes.len() } else { wire_len } }
    }
}

impl Frame for SliceFrame<'_> {
    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(offset..)?.get(..size_of::<T>())?;
        // SAFETY: `bytes` holds exactly size_of::<T>() readable bytes, and T is Plain.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        length <= self.bytes.len()
    }

    #[inline(always)]
    fn wire_len(&self) -> usize {
        self.wire_len
    }
}
