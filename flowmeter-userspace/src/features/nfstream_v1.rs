//! `nfstream/v1`: NFStream's flow columns under its names and in its units.
//!
//! Source: NFStream's `NFlow` attributes with `statistical_analysis=True` and `accounting_mode=1` (bytes of IP packets).

use super::{Feature, FeatureSet, identity, row};

/// The set.
pub const SET: FeatureSet = FeatureSet {
    id: "nfstream/v1",
    identity: &[
        identity::nfstream_expiration("expiration_id"),
        identity::source_address("src_ip"),
        identity::source_port("src_port"),
        identity::destination_address("dst_ip"),
        identity::destination_port("dst_port"),
        identity::protocol("protocol"),
        identity::ip_version("ip_version"),
        identity::nfstream_vlan("vlan_id"),
        identity::nfstream_tunnel("tunnel_id"),
    ],
    context: false,
    description: "NFStream's columns under its names, in its units, as with `statistical_analysis=True` and \
                  `accounting_mode=1`: sizes are IP lengths, deviations are of the sample. Times are milliseconds as in \
                  NFStream, but with their fraction, where NFStream's clock knows whole ones only. Hardware addresses \
                  and application names are not collected. `src` is the initiator.",
    parts: &[&COUNTS, &SIZES, &GAPS, &FLAGS],
};

/// A millisecond in nanoseconds, in which gaps are counted.
const MS: f64 = 1e6;

/// Time since the Unix epoch in milliseconds, or 0 if there were no packets.
fn unix_ms(time: u64, clock_offset: u64, packets: u64) -> f64 {
    if packets == 0 { 0.0 } else { time.wrapping_add(clock_offset) as f64 / 1e6 }
}

/// Rows for the whole flow or one direction.
macro_rules! scope {
    (counts $prefix:literal, $words:literal, |$f:ident| $first:expr, $last:expr, $span:expr, $packets:expr, $bytes:expr) => {
        [
            row!(concat!($prefix, "_first_seen_ms"), "ms", concat!("Time of the first packet since the Unix epoch, ", $words), "0 without packets", |$f| unix_ms($first, $f.record.clock_offset, $packets)),
            row!(concat!($prefix, "_last_seen_ms"), "ms", concat!("Time of the last packet since the Unix epoch, ", $words), "0 without packets", |$f| unix_ms($last, $f.record.clock_offset, $packets)),
            row!(concat!($prefix, "_duration_ms"), "ms", concat!("Time between them, ", $words), "0 with fewer than two packets", |$f| $span as f64 / MS),
            row!(concat!($prefix, "_packets"), "packets", concat!("Packets, ", $words), "never", |$f| $packets as f64),
            row!(int concat!($prefix, "_bytes"), "B", concat!("Bytes of IP packets, ", $words), "never", |$f| $bytes),
        ]
    };
    (sizes $prefix:literal, $words:literal, |$f:ident| $m:expr) => {
        [
            row!(int concat!($prefix, "_min_ps"), "B", concat!("Smallest IP length, ", $words), "0 without packets", |$f| $m.min),
            row!(concat!($prefix, "_mean_ps"), "B", concat!("Mean IP length, ", $words), "0 without packets", |$f| $m.mean),
            row!(concat!($prefix, "_stddev_ps"), "B", concat!("Deviation of the IP length, ", $words), "0 with fewer than two packets", |$f| $m.sample_std()),
            row!(int concat!($prefix, "_max_ps"), "B", concat!("Largest IP length, ", $words), "0 without packets", |$f| $m.max),
        ]
    };
    (gaps $prefix:literal, $words:literal, |$f:ident| $m:expr) => {
        [
            row!(concat!($prefix, "_min_piat_ms"), "ms", concat!("Shortest gap between successive packets, ", $words), "0 without gaps", |$f| $m.in_unit(MS).min),
            row!(concat!($prefix, "_mean_piat_ms"), "ms", concat!("Mean gap, ", $words), "0 without gaps", |$f| $m.in_unit(MS).mean),
            row!(concat!($prefix, "_stddev_piat_ms"), "ms", concat!("Deviation of the gaps, ", $words), "0 with fewer than two gaps", |$f| $m.in_unit(MS).sample_std()),
            row!(concat!($prefix, "_max_piat_ms"), "ms", concat!("Longest gap, ", $words), "0 without gaps", |$f| $m.in_unit(MS).max),
        ]
    };
    (flags $prefix:literal, $words:literal, $($side:ident)+) => {
        [
            scope!(flag $prefix, $words, "_syn_packets", "SYN", [raw.syn], $($side)+),
            scope!(flag $prefix, $words, "_cwr_packets", "CWR", [raw.cwr], $($side)+),
            scope!(flag $prefix, $words, "_ece_packets", "ECE", [raw.ece], $($side)+),
            scope!(flag $prefix, $words, "_urg_packets", "URG", [raw.urg], $($side)+),
            scope!(flag $prefix, $words, "_ack_packets", "ACK", [acks], $($side)+),
            scope!(flag $prefix, $words, "_psh_packets", "PSH", [raw.psh], $($side)+),
            scope!(flag $prefix, $words, "_rst_packets", "RST", [raw.rst], $($side)+),
            scope!(flag $prefix, $words, "_fin_packets", "FIN", [raw.fin], $($side)+),
        ]
    };
    (sum $f:ident, $field:tt, $($side:ident)+) => {
        0.0 $(+ scope!(of $f, $side, $field))+
    };
    (of $f:ident, $side:ident, [$($field:tt)+]) => {
        $f.$side.$($field)+ as f64
    };
    (flag $prefix:literal, $words:literal, $name:literal, $flag:literal, [$($field:tt)+], $($side:ident)+) => {
        row!(concat!($prefix, $name), "packets", concat!("Packets with ", $flag, ", ", $words), "0 but for TCP", |f| {
            scope!(sum f, [$($field)+], $($side)+)
        })
    };
}

/// One list of three.
const fn join<const N: usize, const ALL: usize>(parts: [[Feature; N]; 3]) -> [Feature; ALL] {
    let mut all = [parts[0][0]; ALL];
    let mut i = 0;
    while i < ALL {
        all[i] = parts[i / N][i % N];
        i += 1;
    }
    all
}

static COUNTS: [Feature; 15] = join([
    scope!(counts "bidirectional", "both directions", |f|
        f.record.entry.state.first(), f.record.entry.state.last(), f.record.duration(), f.record.entry.state.packets(), f.size.sum),
    scope!(counts "src2dst", "forward", |f|
        f.forward.raw.first_seen(), f.forward.raw.last, f.forward.span(), f.forward.raw.packets, f.forward.size.sum),
    scope!(counts "dst2src", "backward", |f|
        f.backward.raw.first_seen(), f.backward.raw.last, f.backward.span(), f.backward.raw.packets, f.backward.size.sum),
]);

static SIZES: [Feature; 12] = join([
    scope!(sizes "bidirectional", "both directions", |f| f.size),
    scope!(sizes "src2dst", "forward", |f| f.forward.size),
    scope!(sizes "dst2src", "backward", |f| f.backward.size),
]);

static GAPS: [Feature; 12] = join([
    scope!(gaps "bidirectional", "both directions", |f| f.gap),
    scope!(gaps "src2dst", "forward", |f| f.forward.gap),
    scope!(gaps "dst2src", "backward", |f| f.backward.gap),
]);

static FLAGS: [Feature; 24] = join([
    scope!(flags "bidirectional", "both directions", forward backward),
    scope!(flags "src2dst", "forward", forward),
    scope!(flags "dst2src", "backward", backward),
]);
