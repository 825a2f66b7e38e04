//! Sends recorded or made-up frames out of an interface, at their recorded times or as fast as it goes.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flowmeter::capture::CaptureReader;

use crate::netns::interface_request;

/// The one link type that can be sent (LINKTYPE_ETHERNET of the pcap registry).
const ETHERNET: u32 = 1;
/// Destination, source, EtherType.
const ETHERNET_HEADER: usize = 14;
/// A VLAN tag may come on top of what the MTU allows; the kernel grants one.
const VLAN_TAG: usize = 4;
/// How long a full queue is waited for before the replay gives up.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two tries.
const RETRY: Duration = Duration::from_micros(100);
/// A frame is sent at once if it is due in less: a sleep takes longer than asked.
const NEAR: Duration = Duration::from_micros(60);

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When, in nanoseconds since any origin.
    pub timestamp_ns: u64,
    /// What was kept of it.
    pub data: Vec<u8>,
    /// Its length on the wire; what was cut off is sent as zeros.
    pub wire_len: u32,
}

impl Frame {
    /// A whole frame.
    pub fn new(timestamp_ns: u64, data: Vec<u8>) -> Self {
        let wire_len = data.len() as u32;
        Self { timestamp_ns, data, wire_len }
    }
}

/// When frames leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// At their recorded distances, divided by this: 1 is as recorded, 10 ten times as fast.
    Times(f64),
    /// One after the other.
    Unpaced,
}

/// What to do with a frame that the interface's MTU does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversized {
    /// Nothing is sent, and the first such frame is named.
    Refuse,
    /// They are left out.
    Skip,
}

/// Reads a whole capture of Ethernet frames, with the product's own reader.
pub fn read_capture(path: &Path) -> Result<Vec<Frame>> {
    let mut reader = CaptureReader::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().with_context(|| format!("reading {}", path.display()))? {
        ensure!(
            frame.link_type == ETHERNET,
            "{}: link type {} cannot be replayed, Ethernet can",
            path.display(),
            frame.link_type
        );
        let (timestamp_ns, wire_len) = (frame.timestamp_ns, frame.wire_len);
        frames.push(Frame { timestamp_ns, data: frame.data.to_vec(), wire_len });
    }
    Ok(frames)
}

/// Puts several captures on one clock: all begin at zero, frames are in order of time.
pub fn merge(captures: Vec<Vec<Frame>>) -> Vec<Frame> {
    let mut all = Vec::with_capacity(captures.iter().map(Vec::len).sum());
    for mut capture in captures {
        let start = capture.iter().map(|frame| frame.timestamp_ns).min().unwrap_or(0);
        for frame in &mut capture {
            frame.timestamp_ns -= start;
        }
        all.append(&mut capture);
    }
    // A stable sort: frames of one capture with the same time stay in order.
    all.sort_by_key(|frame| frame.timestamp_ns);
    all
}

/// A raw socket on one interface, opened in the calling thread's network namespace.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    interface: String,
    longest: usize,
}

impl Sender {
    /// Opens the interface; needs CAP_NET_RAW.
    pub fn open(interface: &str) -> Result<Self> {
        // Protocol 0: a socket that sends and receives nothing.
        // SAFETY: no pointers; the result is checked before it is owned.
        let number = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(number >= 0, "opening a raw socket: {}; it needs root", io::Error::last_os_error());
        // SAFETY: a descriptor just opened, owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };

        let mut request = interface_request(interface)?;
        // SAFETY: the request is a valid ifreq that outlives both calls; the union's field read is the one written.
        let (index, mtu) = unsafe {
            if libc::ioctl(number, libc::SIOCGIFINDEX, &mut request) != 0 {
                bail!("there is no interface {interface}: {}", io::Error::last_os_error());
            }
            let index = request.ifr_ifru.ifru_ifindex;
            if libc::ioctl(number, libc::SIOCGIFMTU, &mut request) != 0 {
                bail!("asking for the MTU of {interface}: {}", io::Error::last_os_error());
            }
            (index, request.ifr_ifru.ifru_mtu)
        };
        // SAFETY: sockaddr_ll is plain old data, for which all zeros is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index;
        // SAFETY: pointer and length describe `address`, which outlives the call.
        let bound = unsafe {
            libc::bind(
                number,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        ensure!(bound == 0, "binding to {interface}: {}", io::Error::last_os_error());
        Ok(Self { socket, interface: interface.to_owned(), longest: mtu.max(0) as usize + ETHERNET_HEADER })
    }

    /// Sends frames in the order given and returns how many left; stops early when `stop` becomes true.
    pub fn send(&self, frames: &[Frame], pace: Pace, oversized: Oversized, stop: &AtomicBool) -> Result<u64> {
        if oversized == Oversized::Refuse
            && let Some((number, frame)) = frames.iter().enumerate().find(|(_, frame)| !self.allows(frame))
        {
            bail!(
                "frame {} has {} bytes; {} takes {} at most",
                number + 1,
                frame.wire_len,
                self.interface,
                self.longest
            );
        }
        let (start, origin) = (Instant::now(), frames.first().map_or(0, |frame| frame.timestamp_ns));
        let mut padded = Vec::new();
        let mut sent = 0;
        for frame in frames.iter().filter(|frame| self.allows(frame)) {
            if let Pace::Times(factor) = pace {
                // Always counted from the start, so that lateness does not add up.
                let offset = frame.timestamp_ns.saturating_sub(origin) as f64 / factor;
                wait_until(start + Duration::from_nanos(offset as u64), stop);
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let whole = frame.wire_len as usize;
            let bytes = if frame.data.len() < whole {
                padded.clear();
                padded.extend_from_slice(&frame.data);
                padded.resize(whole, 0);
                &padded
            } else {
                &frame.data
            };
            self.send_one(bytes)?;
            sent += 1;
        }
        Ok(sent)
    }

    /// Sends frames with one system call for many, and returns how many the kernel took.
    pub fn send_together(&self, frames: &mut [Vec<u8>]) -> Result<usize> {
        let mut parts: Vec<libc::iovec> = frames
            .iter_mut()
            .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: mmsghdr is plain old data, for which all zeros is a valid value.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: pointer and length are those of the messages, whose parts and frames outlive the call.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as libc::c_uint, 0)
        };
        ensure!(sent >= 0, "sending on {}: {}", self.interface, io::Error::last_os_error());
        Ok(sent as usize)
    }

    /// Sends one frame once; false if the kernel has dropped it.
    pub fn offer(&self, bytes: &[u8]) -> Result<bool> {
        // SAFETY: pointer and length are those of a slice that outlives the call.
        let count = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if count >= 0 => Ok(true),
            Some(libc::ENOBUFS) => Ok(false),
            _ => bail!("sending {} bytes on {}: {error}", bytes.len(), self.interface),
        }
    }

    fn allows(&self, frame: &Frame) -> bool {
        let tagged = frame.data.get(12..14).is_some_and(|kind| kind == [0x81, 0x00] || kind == [0x88, 0xa8]);
        let room = self.longest + if tagged { VLAN_TAG } else { 0 };
        frame.data.len().max(frame.wire_len as usize) <= room
    }

    /// Sends one frame; a queue that is full is tried again for a while.
    fn send_one(&self, bytes: &[u8]) -> Result<()> {
        let first_try = Instant::now();
        loop {
            // SAFETY: pointer and length are those of a slice that outlives the call.
            let count = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            if count >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) if first_try.elapsed() < PATIENCE => {
                    std::thread::sleep(RETRY);
                }
                _ => bail!("sending {} bytes on {}: {error}", bytes.len(), self.interface),
            }
        }
    }
}

/// Sleeps until a moment, but looks at `stop` now and then.
fn wait_until(moment: Instant, stop: &AtomicBool) {
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        if left < NEAR || stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep((left - NEAR).min(Duration::from_millis(100)));
    }
}

/// Writes frames as a pcap file with nanoseconds, for tests that give the same frames to both ways.
pub fn write_capture(path: &Path, frames: &[Frame]) -> Result<()> {
    use std::io::Write;
    let mut file =
        io::BufWriter::new(File::create(path).with_context(|| format!("creating {}", path.display()))?);
    // Magic for nanoseconds, version 2.4, zone and accuracy 0, longest frame, link type.
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, ETHERNET] {
        file.write_all(&word.to_le_bytes())?;
    }
    for frame in frames {
        let seconds = (frame.timestamp_ns / 1_000_000_000) as u32;
        let nanos = (frame.timestamp_ns % 1_000_000_000) as u32;
        for word in [seconds, nanos, frame.data.len() as u32, frame.wire_len] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame.data)?;
    }
    file.flush().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_merged_on_one_clock() {
        let frame = |at| Frame::new(at, vec![at as u8]);
        let merged = merge(vec![vec![frame(1000), frame(1005)], vec![], vec![frame(7), frame(9), frame(12)]]);
        let order: Vec<_> = merged.iter().map(|f| (f.timestamp_ns, f.data[0])).collect();
        assert_eq!(order, [(0, 1000_u64 as u8), (0, 7), (2, 9), (5, 1005_u64 as u8), (5, 12)]);
    }
}
