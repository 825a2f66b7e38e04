//! Counts what crosses an interface, by a second pair of eyes: a packet socket, and none of FlowMeter's code.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};

use crate::frames::protocol;
use crate::netns::{Namespace, interface_request};
use crate::row::End;

/// linux/virtio_net.h: flags, GSO type, header length, GSO size, checksum start, checksum offset.
const VNET_HEADER: usize = 10;
/// Where the GSO size stands in it, in the machine's byte order.
const VNET_GSO_SIZE: usize = 4;
/// linux/if_packet.h; the libc crate does not have it.
const PACKET_VNET_HDR: libc::c_int = 15;
/// Headers are enough: lengths stand in them.
const SNAPLEN: usize = 256;
/// Kernel memory for packets that wait to be counted.
const BUFFER: libc::c_int = 64 << 20;
/// The largest number of packets a test may send past a tap.
const MAX: u64 = 50_000_000;

/// One direction of a conversation: protocol, sender, receiver.
pub type OneWay = (u8, End, End);

/// Packets and bytes (IP length).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets as a cable would carry them.
    pub packets: u64,
    /// Their IP lengths.
    pub bytes: u64,
}

/// A packet socket that counts TCP and UDP, both directions, in a thread of its own.
#[derive(Debug)]
pub struct Tap {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<HashMap<OneWay, Count>>>>,
}

impl Tap {
    /// Starts counting on an interface of a namespace.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = namespace.run(|| open(interface))??;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || count(&socket, &told));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops and returns what was counted.
    pub fn finish(mut self) -> Result<HashMap<OneWay, Count>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a tap is finished once")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(interface: &str) -> Result<OwnedFd> {
    // Protocol 0 until it is bound: nothing of other interfaces gets in.
    // SAFETY: no pointers; the result is checked before it is owned.
    let number = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(number >= 0, "opening a packet socket: {}", io::Error::last_os_error());
    // SAFETY: a descriptor just opened, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1_i32)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)?;
    // So that the counting thread looks at its stop flag.
    let limit = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit)?;
    let mut request = interface_request(interface)?;
    // SAFETY: the request is a valid ifreq that outlives the call; the union's field read is the one written.
    let index = unsafe {
        ensure!(
            libc::ioctl(number, libc::SIOCGIFINDEX, &mut request) == 0,
            "there is no interface {interface}: {}",
            io::Error::last_os_error()
        );
        request.ifr_ifru.ifru_ifindex
    };
    // SAFETY: sockaddr_ll is plain old data, for which all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
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
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> Result<()> {
    let (pointer, length) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: pointer and length describe `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) };
    ensure!(result == 0, "option {name} of a packet socket: {}", io::Error::last_os_error());
    Ok(())
}

fn count(socket: &OwnedFd, stop: &AtomicBool) -> Result<HashMap<OneWay, Count>> {
    let mut counts: HashMap<OneWay, Count> = HashMap::new();
    let mut buffer = [0_u8; VNET_HEADER + SNAPLEN];
    for _ in 0..MAX {
        // SAFETY: pointer and length are the buffer's own.
        let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got < 0 {
            // Nothing for a while: what was sent before the stop has been counted.
            if stop.load(Ordering::Relaxed) {
                break;
            }
            continue;
        }
        let got = &buffer[..got as usize];
        let (Some(facts), Some(frame)) = (got.get(..VNET_HEADER), got.get(VNET_HEADER..)) else {
            continue;
        };
        let gso_size = u16::from_ne_bytes([facts[VNET_GSO_SIZE], facts[VNET_GSO_SIZE + 1]]);
        if let Some((way, more)) = read(frame, u64::from(gso_size)) {
            let own = counts.entry(way).or_default();
            own.packets += more.packets;
            own.bytes += more.bytes;
        }
    }
    let mut lost = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: pointer and length describe `lost`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut lost).cast(),
            &mut length,
        )
    };
    ensure!(
        result == 0 && lost.tp_drops == 0,
        "the tap itself lost {} packets: its counts mean nothing",
        lost.tp_drops
    );
    Ok(counts)
}

/// Reads a frame without tags, extension headers or fragments: what the sockets of the tests send.
fn read(frame: &[u8], gso_size: u64) -> Option<(OneWay, Count)> {
    let short = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (number, source, destination, length, at): (u8, IpAddr, IpAddr, u64, usize) = match short(12)? {
        crate::frames::ETHERTYPE_IPV4 => {
            let four = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
            let header = usize::from(frame.get(14)? & 15) * 4;
            (*frame.get(23)?, four(26)?.into(), four(30)?.into(), u64::from(short(16)?), 14 + header)
        }
        crate::frames::ETHERTYPE_IPV6 => {
            let six = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
            (*frame.get(20)?, six(22)?.into(), six(38)?.into(), 40 + u64::from(short(18)?), 54)
        }
        _ => return None,
    };
    let transport = match number {
        protocol::TCP => usize::from(frame.get(at + 12)? >> 4) * 4,
        protocol::UDP => 8,
        _ => return None,
    };
    let headers = (at - 14 + transport) as u64;
    let payload = length - headers;
    let packets = if gso_size > 0 { payload.div_ceil(gso_size).max(1) } else { 1 };
    let way = (number, (source, short(at)?), (destination, short(at + 2)?));
    Some((way, Count { packets, bytes: payload + headers * packets }))
}
