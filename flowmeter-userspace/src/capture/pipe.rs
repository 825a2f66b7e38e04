//! Reads from a pipe, of which nobody knows when it has the next byte, and ends when asked to.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long it waits for input before it looks whether it is to stop, in milliseconds.
const PATIENCE: libc::c_int = 100;

/// A pipe, terminal or socket that ends when `stop` is set.
pub(super) struct Pipe {
    pub(super) input: File,
    pub(super) stop: Arc<AtomicBool>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut poll = libc::pollfd { fd: self.input.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which lives as long as the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE) };
            match ready {
                0 => {}
                // Errors and the other side's end are for `read` to report.
                1.. => return self.input.read(buffer),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(0)
    }
}
