//! The packets of the kernel benchmarks.

use harness::frames::{Packet, Transport, tcp};
use harness::test_programs::SERVER_SENDS;
use serde::Serialize;

/// Elements of a sequence.
pub const SEQUENCE: usize = 1 << 20;

/// How packets are distributed over flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Each flow alike.
    Uniform,
    /// The n-th flow one n-th as often as the first.
    Zipf,
}

/// The smallest packet of an established connection, with this payload.
pub fn frame(ip: u8, payload: usize) -> Vec<u8> {
    let packet = if ip == 4 {
        Packet::ipv4("10.0.0.0", "192.0.2.1")
    } else {
        // Turning a packet round exchanges the last words of its addresses only.
        Packet::ipv6("2001:db8::a00:0", "2001:db8::c000:201")
    };
    packet.with(Transport::tcp(1024, 443).flags(tcp::ACK).payload(vec![0; payload])).build()
}

/// The flows of successive packets, half of which the server sends.
pub fn sequence(flows: u32, distribution: Distribution) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(u64::from(flows));
    // Which flow comes often has nothing to do with where it lies.
    let mut names: Vec<u32> = (0..flows).collect();
    random.shuffle(&mut names);
    let mut sum = 0.0;
    let weights: Vec<f64> = (1..=flows)
        .map(|rank| {
            sum += if distribution == Distribution::Zipf { 1.0 / f64::from(rank) } else { 1.0 };
            sum
        })
        .collect();
    (0..SEQUENCE)
        .map(|_| {
            let at = random.f64() * sum;
            let rank = weights.partition_point(|&up_to| up_to <= at).min(names.len() - 1);
            names[rank] | if random.bool() { SERVER_SENDS } else { 0 }
        })
        .collect()
}
