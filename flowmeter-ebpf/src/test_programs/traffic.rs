//! Makes one packet that of another flow at each run, since a test run repeats the same packet.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;

/// Which flow each packet belongs to, one after the other and then from the beginning: a number below 2^24, and in the
/// highest bit the direction, 1 for what the server sends. Written by the test.
#[map]
static TRAFFIC: Array<u32> = Array::with_max_entries(1, 0);

/// Where in it a CPU is. Written by the test before, and by the programs.
#[map]
static CURSOR: PerCpuArray<Cursor> = PerCpuArray::with_max_entries(1, 0);

/// Length of [`TRAFFIC`] less one, a power of two less one. If it is `u32::MAX`, each packet is a flow of its own.
/// Set before loading.
#[unsafe(no_mangle)]
static TRAFFIC_MASK: u32 = 0;

/// A CPU's place in the traffic.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Cursor {
    /// Packets made so far.
    position: u32,
    /// Exclusive-or of each element: turns the directions round, or chooses other flows.
    change: u32,
    /// A clock that advances by [`STEP`] a packet, ns.
    time: u64,
}

/// Less than a packet takes, so that the packets' clock is never ahead of the real one, ns.
const STEP: u64 = 16;
const SERVER_SENDS: u32 = 1 << 31;
/// Where the IP header begins.
const IP: usize = 14;
/// Lengths of the IP headers, and of the ports after them.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const PORTS: usize = 4;
/// EtherType of IPv6 as a little-endian processor reads it.
const IPV6: u16 = 0x86dd_u16.to_be();
/// Ports of the server and, as its base, of the clients.
const SERVER_PORT: u16 = 443;
const CLIENT_PORT: u16 = 1024;

/// Writes addresses and ports of the next flow into the packet, which is TCP or UDP over IPv4 without options or over
/// IPv6 without extensions. Returns the time that it is by the packets; `None` if the packet is too short.
#[inline(always)]
pub fn next(ctx: &XdpContext) -> Option<u64> {
    // SAFETY: the value's pointer; this CPU's copy.
    let cursor = unsafe { &mut *CURSOR.get_ptr_mut(0)? };
    // SAFETY: a static; volatile, or the compiler would take the zero above for its value.
    let mask = unsafe { (&raw const TRAFFIC_MASK).read_volatile() };
    let element = if mask == u32::MAX { cursor.position } else { *TRAFFIC.get(cursor.position & mask)? };
    let element = element ^ cursor.change;
    cursor.position = cursor.position.wrapping_add(1);
    cursor.time = cursor.time.wrapping_add(STEP);

    let flow = element & 0x00ff_ffff;
    let (client, server) = ((0x0a00_0000 | flow).to_be(), 0xc000_0201_u32.to_be());
    let client_port = (CLIENT_PORT + (flow & 0x7fff) as u16).to_be();
    let backward = element & SERVER_SENDS != 0;
    let (source, destination) = if backward { (server, client) } else { (client, server) };
    let (from, to) =
        if backward { (SERVER_PORT.to_be(), client_port) } else { (client_port, SERVER_PORT.to_be()) };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + IP + IPV4_HEADER + PORTS > end {
        return None;
    }
    // SAFETY: what is read and written lies before the end, which was checked; BPF has no alignment. Of an IPv6 address
    // the last word is written.
    unsafe {
        if ((start + 12) as *const u16).read() == IPV6 {
            if start + IP + IPV6_HEADER + PORTS > end {
                return None;
            }
            ((start + IP + 20) as *mut u32).write(source);
            ((start + IP + 36) as *mut u32).write(destination);
            ((start + IP + IPV6_HEADER) as *mut u16).write(from);
            ((start + IP + IPV6_HEADER + 2) as *mut u16).write(to);
        } else {
            ((start + IP + 12) as *mut u32).write(source);
            ((start + IP + 16) as *mut u32).write(destination);
            ((start + IP + IPV4_HEADER) as *mut u16).write(from);
            ((start + IP + IPV4_HEADER + 2) as *mut u16).write(to);
        }
    }
    Some(cursor.time)
}
