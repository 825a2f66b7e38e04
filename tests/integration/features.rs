//! The feature sets over many kinds of flows: no column says what another one says, and none says nothing.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use flowmeter::features::{FeatureSet, FlowView, Kind, SETS};
use flowmeter::record::FlowRecord;
use flowmeter::source::pcap::flow_table::Flows;
use flowmeter::source::pcap::{self, Recorder};
use flowmeter_common::frame::SliceFrame;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::parse::{ParseOptions, parse_link};
use harness::packets::{STEP, step};
use harness::{fixtures, sample_folder};

/// Each feature's values over the recorded sample, the fixtures and made-up flows.
fn columns(set: &FeatureSet) -> Result<Vec<Vec<f64>>> {
    let mut columns = vec![Vec::new(); set.names().len()];
    let mut row = Vec::new();
    let mut give = |record: FlowRecord| {
        row.clear();
        set.values(&FlowView::new(&record), &mut row);
        for (column, value) in columns.iter_mut().zip(&row) {
            assert!(value.is_finite());
            column.push(*value);
        }
        Ok(())
    };
    let settings = pcap::ReadSettings { context: set.context, ..pcap::ReadSettings::default() };
    for entry in std::fs::read_dir(sample_folder())? {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "zst") {
            continue;
        }
        let summary = pcap::read(&path, &settings, &Arc::default(), &mut give, |_| ())?;
        ensure!(summary.problem.is_none(), "{}: {:?}", path.display(), summary.problem);
    }
    for fixture in fixtures::all() {
        let mut give = Recorder::new(set.context, &mut give);
        let mut flows = Flows::new(Timeouts::default());
        for frame in &fixture.frames {
            let slice = SliceFrame::new(&frame.data, frame.wire_len as usize);
            flows.packets(
                &[(parse_link(&slice, 1, ParseOptions::default()), frame.timestamp_ns)],
                &mut give,
            )?;
        }
        flows.finish(&mut give)?;
    }
    let mut random = fastrand::Rng::with_seed(39);
    for _ in 0..200 {
        let mut give = Recorder::new(set.context, &mut give);
        let mut flows = Flows::new(Timeouts::default());
        let mut now = 0;
        for _ in 0..60 {
            let (packet, gap) = step(&std::array::from_fn::<u8, STEP, _>(|_| random.u8(..)));
            now += gap;
            flows.packets(&[(Ok(packet), now)], &mut give)?;
        }
        flows.finish(&mut give)?;
    }
    Ok(columns)
}

#[test]
fn whole_numbers_are_whole() -> Result<()> {
    for set in SETS {
        for (column, feature) in columns(set)?.iter().zip(set.features()) {
            if let (Kind::Integer, Some(broken)) =
                (feature.kind, column.iter().find(|value| value.fract() != 0.0))
            {
                panic!("{}: {} is said to be whole and is {broken}", set.id, feature.name);
            }
        }
    }
    Ok(())
}

#[test]
fn every_column_of_every_set_says_something() -> Result<()> {
    for set in SETS {
        for (column, name) in columns(set)?.iter().zip(set.names()) {
            let same = column.iter().all(|value| *value == column[0]);
            assert!(!same, "{}: {name} is {} of all {} flows", set.id, column[0], column.len());
        }
    }
    Ok(())
}

/// The other sets keep what their tools repeat.
#[test]
fn no_column_of_the_own_set_repeats_another() -> Result<()> {
    let set = FeatureSet::find("flowmeter/v1").expect("the own set");
    let columns = columns(set)?;
    assert!(columns.len() >= 120, "{} columns", columns.len());
    let mut seen: HashMap<Vec<u64>, &str> = HashMap::new();
    for (column, name) in columns.iter().zip(set.names()) {
        let bits = column.iter().map(|value| value.to_bits()).collect();
        if let Some(other) = seen.insert(bits, name) {
            panic!("{name} is {other} of all {} flows", column.len());
        }
    }
    println!("{} columns over {} flows", columns.len(), columns[0].len());
    Ok(())
}
