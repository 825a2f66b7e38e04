//! Waits until every kernel program that runs now has come to its end.
//!
//! The kernel does that whenever an array of maps is changed from userspace (`maybe_wait_bpf_programs` in
//! kernel/bpf/syscall.c, since Linux 5.0), by `synchronize_rcu`, whatever the machine: a global membarrier does not wait
//! on a machine with one processor, and is refused where `nohz_full` is set.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};

/// Commands and map types of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// An array of maps with one element, and what is put there again and again.
struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

/// The beginning of `union bpf_attr` for BPF_MAP_CREATE; the kernel takes what is left out for zero.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// The same for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct Update {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Grace {
    fn new() -> io::Result<Self> {
        let map = |map_type, inner: Option<&OwnedFd>| {
            let inner_map_fd = inner.map_or(0, |inner| inner.as_raw_fd() as u32);
            let attributes =
                Create { map_type, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0, inner_map_fd };
            let fd = bpf(BPF_MAP_CREATE, &attributes)?;
            // SAFETY: a descriptor that the kernel has just made for us.
            Ok::<_, io::Error>(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        let inner = map(BPF_MAP_TYPE_ARRAY, None)?;
        Ok(Self { outer: map(BPF_MAP_TYPE_ARRAY_OF_MAPS, Some(&inner))?, inner })
    }

    fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, self.inner.as_raw_fd() as u32);
        let attributes = Update {
            map_fd: self.outer.as_raw_fd() as u32,
            padding: 0,
            key: (&raw const key).addr() as u64,
            value: (&raw const value).addr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
    }
}

/// The bpf system call, which libc has no function for.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are those of the command, with their length; what they point to lives until the call returns.
    match unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_ref(attributes), size_of::<T>()) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn grace() -> Result<&'static Grace> {
    static GRACE: OnceLock<Result<Grace, io::Error>> = OnceLock::new();
    GRACE.get_or_init(Grace::new).as_ref().map_err(|error| anyhow!("cannot make an array of maps: {error}"))
}

/// Whether [`period`] can work here.
///
/// # Errors
/// The kernel refuses the array of maps.
pub(super) fn require() -> Result<()> {
    grace().map(drop)
}

/// Lets every kernel program that is running now come to its end. A full barrier.
///
/// # Errors
/// The kernel refuses.
pub(super) fn period() -> Result<()> {
    grace()?.wait().context("waiting for running kernel programs")
}
