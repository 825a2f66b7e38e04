//! The recipe on small networks that are made up of the library's own rows.

use std::net::{IpAddr, Ipv4Addr};

use flowmeter_common::packet::protocol;

use super::sample::OwnSample;
use super::words::Words;
use super::*;

/// A library of two inputs: attacks have a high first one, whatever the second is; benign flows of strangers a low one.
fn library() -> Library {
    let set = crate::features::DEFAULT_SET;
    let mut library = Library {
        set,
        columns: vec![0, 1],
        values: Vec::new(),
        malicious: Vec::new(),
        weights: Vec::new(),
        networks: Vec::new(),
    };
    for i in 0..2000_u32 {
        let malicious = i % 2 == 0;
        let level = if malicious { 60.0 } else { 10.0 };
        library.values.extend([level + (i % 37) as f32, (i % 11) as f32]);
        library.malicious.push(malicious);
        library.weights.push(1.0);
        library.networks.push(i / 2 % 10);
    }
    library
}

/// Flows of a network, one a second, with these inputs.
fn network(flows: impl Iterator<Item = [f32; 2]>, words: Words) -> Vec<Own> {
    let mut sample = OwnSample::new(vec!["a", "b"], vec![0, 1], words);
    for (second, row) in (0..).zip(flows) {
        let host = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        sample.observe(second * 1_000_000_000, protocol::TCP, [(host(1), 40_000), (host(2), 443)], &row);
    }
    sample.into_flows()
}

#[test]
fn what_a_network_does_all_the_time_is_normal_there() {
    let library = library();
    // Busy in the first input as only attacks are in the library, but at a value of the second that is its own.
    let usual = |i: u32| [70.0 + (i % 9) as f32, 100.0];
    let own = network((0..3000).map(usual), Words::default());
    let learned = learn(&own, &library, 0.01).expect("learns");
    assert!(learned.expected <= 0.01, "{}", learned.expected);
    assert!(learned.trees.score(&usual(4)) < learned.malicious);
    assert!(
        learned.trees.score(&[80.0, 5.0]) >= learned.malicious,
        "an attack of the library is still found"
    );
}

#[test]
fn an_attack_in_a_tenth_of_the_time_is_set_aside_and_found_afterwards() {
    let library = library();
    let row = |i: u32| if (1000..1150).contains(&i) { [80.0, 5.0] } else { [12.0 + (i % 9) as f32, 100.0] };
    let own = network((0..3000).map(row), Words::default());
    let learned = learn(&own, &library, 0.01).expect("learns");
    let aside = (0..3000).filter(|&i| learned.aside[i]).collect::<Vec<_>>();
    assert_eq!(aside, (1000..1150).collect::<Vec<_>>());
    assert!(learned.trees.score(&[80.0, 5.0]) >= learned.malicious);
}

#[test]
fn the_operators_word_decides_what_is_learned() {
    let library = library();
    let row = |i: u32| if (1000..1150).contains(&i) { [80.0, 5.0] } else { [12.0 + (i % 9) as f32, 100.0] };
    let all = |word: &str| {
        let folder = std::env::temp_dir().join(format!("flowmeter-words-{}-{word}", std::process::id()));
        std::fs::write(&folder, "192.0.2.2 443\n").expect("writes");
        let words =
            if word == "fine" { Words::read(None, Some(&folder)) } else { Words::read(Some(&folder), None) };
        std::fs::remove_file(&folder).expect("removes");
        network((0..3000).map(row), words.expect("a list"))
    };
    let fine = learn(&all("fine"), &library, 0.01).expect("learns");
    assert!(!fine.aside.contains(&true), "all of it is fine");
    let attack = learn(&all("attack"), &library, 0.01);
    assert!(attack.is_err(), "nothing is left to learn as normal");
}

#[test]
fn too_few_flows_are_refused_with_what_to_do() {
    let own = network((0..10).map(|_| [1.0, 1.0]), Words::default());
    let problem = learn(&own, &library(), 0.01).err().expect("too few").to_string();
    assert!(problem.contains("10 flows") && problem.contains("some thousand"), "{problem}");
}

#[test]
fn strangers_raise_the_threshold_of_a_small_network_and_a_large_one_outweighs_them() {
    let own = |count: usize| vec![(0.01, 1.0); count];
    let strangers: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i) / 100.0, 1.0)).collect();
    let small = threshold(&own(50), &strangers, 0.01);
    let large = threshold(&own(20_000), &strangers, 0.01);
    assert!(small > 0.95, "{small}");
    assert!((large - LEAST_THRESHOLD).abs() < 1e-9, "{large}");
    assert!(threshold(&own(1000), &strangers, 0.01) < small);
}
