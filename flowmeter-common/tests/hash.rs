//! The flow hash under regular sets of keys: what an attacker, a scan or a mesh of hosts looks like.

use std::collections::HashSet;

use flowmeter_common::hash::{HashKeys, NameKeys};
use flowmeter_common::key::{FlowKey, mapped_ipv4};
use flowmeter_common::table::{Buckets, Place, WAYS};

/// Secrets that each set is tried with.
const SECRETS: u64 = 20;

fn key(version: u8, from: ([u64; 2], u16), to: ([u64; 2], u16)) -> FlowKey {
    let mut key = FlowKey { protocol: 17, ip_version: version, interface: 2, ..FlowKey::default() };
    key.set_endpoints(from.0, from.1, to.0, to.1);
    key
}

fn v4(c: u8, d: u8) -> [u64; 2] {
    mapped_ipv4(u32::from_ne_bytes([10, c, c, d]))
}

fn v6(subnet: u64, host: u64) -> [u64; 2] {
    [(0x2001_0db8_0001_0000 | subnet).to_be(), (0x1111_2222_3333_4400 ^ host).to_be()]
}

/// Pairs of bytes.
fn pairs() -> impl Iterator<Item = (u8, u8)> {
    (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b)))
}

/// 65,536 keys of each kind, or as many as there are.
fn sets() -> Vec<(&'static str, Vec<FlowKey>)> {
    let server = ([0x2a00_1234_0000_0001_u64.to_be(), 5_u64.to_be()], 443);
    vec![
        (
            "a /24 to a /24 on equal ports",
            pairs().map(|(a, b)| key(4, (v4(1, a), 500), (v4(2, b), 500))).collect(),
        ),
        (
            "a mesh inside a /24",
            pairs().filter(|(a, b)| a < b).map(|(a, b)| key(4, (v4(1, a), 500), (v4(1, b), 500))).collect(),
        ),
        (
            "a scan of ports of a /24",
            pairs().map(|(a, b)| key(4, (v4(9, 9), 54321), (v4(2, a), 1 + u16::from(b)))).collect(),
        ),
        (
            "ports by ports",
            pairs().map(|(a, b)| key(4, (v4(1, 1), 1024 + u16::from(a)), (v4(2, 1), u16::from(b)))).collect(),
        ),
        (
            "subnets of a /48 by hosts to one address",
            pairs().map(|(a, b)| key(6, (v6(a.into(), b.into()), 4000), server)).collect(),
        ),
        (
            "hosts of a /64 to hosts of a /64",
            pairs().map(|(a, b)| key(6, (v6(0, a.into()), 4000), (v6(1, u64::from(b) << 4), 443))).collect(),
        ),
        (
            "the highest bits of four bytes of both ends",
            pairs()
                .map(|(a, b)| {
                    let bits = |byte: u8| (u64::from(byte >> 4) << 4, u64::from(byte & 15) << 4);
                    let ((s, h), (t, i)) = (bits(a), bits(b));
                    key(
                        6,
                        (v6(s, h), 4000),
                        ([(0x2a00_1234 << 32 | t).to_be(), (0xaaaa << 32 | i).to_be()], 443),
                    )
                })
                .collect(),
        ),
    ]
}

/// How many of the keys find no slot in a table for `flows` flows.
fn without_slot(keys: &[FlowKey], secrets: &HashKeys, flows: u32) -> usize {
    let buckets = Buckets::for_flows(flows);
    let mut fill = vec![0; buckets.lines() as usize];
    keys.iter()
        .filter(|key| {
            let place = Place::of(secrets.hash(key.words()), buckets);
            let free = place.lines.into_iter().find(|&line| fill[line as usize] < WAYS);
            free.inspect(|&line| fill[line as usize] += 1).is_none()
        })
        .count()
}

/// Keys in which nothing is regular.
fn random_keys(count: u64) -> Vec<FlowKey> {
    let draw = HashKeys::expand(99);
    let word = |i: u64, which: u64| draw.hash(&[i, which, 0, 0, 0, 0, 0]);
    (0..count)
        .map(|i| key(6, ([word(i, 0), word(i, 1)], word(i, 2) as u16), ([word(i, 3), word(i, 4)], 443)))
        .collect()
}

#[test]
fn regular_keys_have_hashes_of_their_own() {
    for (name, keys) in sets() {
        for seed in 0..SECRETS {
            let secrets = HashKeys::expand(seed);
            let distinct: HashSet<u64> = keys.iter().map(|key| secrets.hash(key.words())).collect();
            // Of 2^31 pairs each may share a hash with a probability of 2^-32 at most.
            assert!(
                distinct.len() + 3 >= keys.len(),
                "{name}: {} of {} distinct, seed {seed}",
                distinct.len(),
                keys.len()
            );
        }
    }
}

#[test]
fn regular_keys_find_as_many_slots_as_random_ones() {
    // As many flows as the table is made for, and a sixteenth of it.
    for flows in [1 << 16, 1 << 20] {
        let random = random_keys(1 << 16);
        let expected: usize =
            (0..SECRETS).map(|seed| without_slot(&random, &HashKeys::expand(seed), flows)).sum();
        for (name, keys) in sets() {
            let missing: usize =
                (0..SECRETS).map(|seed| without_slot(&keys, &HashKeys::expand(seed), flows)).sum();
            assert!(
                missing <= expected + SECRETS as usize,
                "{name}: {missing} without a slot, {expected} of random keys"
            );
        }
    }
}

#[test]
fn pairs_of_addresses_share_no_hash_by_their_form() {
    let secrets = 20_000;
    for (x, y, u, v) in [(1, 1, 129, 129), (1, 129, 129, 1), (1, 1, 65, 65), (1, 65, 65, 1)] {
        let shared = (0..secrets)
            .filter(|&seed| {
                let secrets = HashKeys::expand(seed);
                let hash = |a, b| secrets.hash(key(4, (v4(1, a), 500), (v4(2, b), 500)).words());
                hash(x, y) == hash(u, v)
            })
            .count();
        assert_eq!(shared, 0, "({x}, {y}) and ({u}, {v}) share a hash for {shared} of {secrets} secrets");
    }
}

#[test]
fn names_of_regular_keys_are_all_different() {
    for (name, keys) in sets() {
        for seed in 0..SECRETS {
            let secrets = NameKeys::expand(seed);
            let distinct: HashSet<u128> = keys.iter().map(|key| secrets.name(key.words())).collect();
            assert_eq!(distinct.len(), keys.len(), "{name}, seed {seed}");
        }
    }
}

#[test]
fn secrets_from_random_bytes_are_those_bytes() {
    let bytes: [u8; HashKeys::BYTES] = std::array::from_fn(|i| i as u8);
    let keys = HashKeys::from_bytes(&bytes);
    assert_eq!(keys.words[0].to_ne_bytes(), bytes[..8]);
    assert_eq!(keys.sum.to_ne_bytes(), bytes[HashKeys::BYTES - 8..]);
    assert_ne!(HashKeys::expand(1), HashKeys::expand(2));
}
