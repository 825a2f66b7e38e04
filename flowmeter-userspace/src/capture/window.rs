//! A window over an input stream that holds at least one record, and knows where in the stream it stands.

use std::io::{self, Cursor, ErrorKind, Read};
use std::ops::Range;

/// Large enough that the copies at the window's edge vanish, small enough for a CPU's second-level cache.
const WINDOW: usize = 256 * 1024;

/// The bytes between what was consumed and what was read.
pub(super) struct Window {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `start` in the (decompressed) stream.
    offset: u64,
    ended: bool,
    cut: bool,
}

impl Window {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self { input, buffer: vec![0; WINDOW], start: 0, end: 0, offset: 0, ended: false, cut: false }
    }

    /// Whether `len` bytes are there; reads and grows as needed, so the caller bounds `len` first.
    #[inline]
    pub(super) fn has(&mut self, len: usize) -> io::Result<bool> {
        if self.end - self.start >= len { Ok(true) } else { self.fill(len) }
    }

    #[cold]
    fn fill(&mut self, len: usize) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < len {
            self.buffer.resize(len.next_power_of_two(), 0);
        }
        while self.end < len && !self.ended {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What a decoder says when its input stops too early: the rest is missing, not wrong.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    self.cut = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.end >= len)
    }

    /// Everything that has been read and not consumed.
    #[inline]
    pub(super) fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Moves on by `len` bytes, which are there, and says where in the buffer they lie (see [`Self::slice`]).
    #[inline]
    pub(super) fn consume(&mut self, len: usize) -> Range<usize> {
        let consumed = self.start..self.start + len;
        debug_assert!(consumed.end <= self.end);
        self.start = consumed.end;
        self.offset += len as u64;
        consumed
    }

    /// Bytes that were consumed; they last until the window is filled again.
    #[inline]
    pub(super) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Offset in the (decompressed) stream of the first byte of [`Self::data`].
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the compression around the stream stopped before its own end.
    pub(super) fn input_was_cut(&self) -> bool {
        self.cut
    }

    /// The stream again, from the first byte that was not consumed.
    pub(super) fn into_input(self) -> impl Read + Send + 'static {
        let mut rest = self.buffer;
        rest.truncate(self.end);
        let mut rest = Cursor::new(rest);
        rest.set_position(self.start as u64);
        rest.chain(self.input)
    }
}
