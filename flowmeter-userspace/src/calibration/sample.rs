//! A network's own flows, by their inputs of the model: an even sample of bounded size.

use std::collections::HashMap;

use jiff::Timestamp;

use super::Service;
use crate::features::FeatureSet;
use crate::flow_log::Row;
use crate::model::{Model, to_input};

/// Most flows that are kept: at 4 bytes an input, some hundred MiB. If there are more, every second is kept, or every
/// fourth, and so on.
const MAX_FLOWS: usize = 400_000;

/// A flow as it was read.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// Nanoseconds since the Unix epoch.
    pub(super) time: i64,
    /// What it is for.
    pub(super) service: Service,
    /// Index of its source.
    pub(super) source: u32,
}

/// Flows of the network, evenly thinned.
pub struct Sample {
    pub(super) set: &'static FeatureSet,
    /// Index of each input in the set, and its name.
    pub(super) columns: Vec<usize>,
    pub(super) names: Vec<&'static str>,
    pub(super) seen: Vec<Seen>,
    pub(super) inputs: Vec<f32>,
    pub(super) sources: HashMap<String, u32>,
    /// One flow in so many is kept.
    pub(super) each: u64,
    pub(super) total: u64,
    pub(super) without_features: u64,
    pub(super) malformed: u64,
}

impl Sample {
    /// Nothing yet; flows are kept by the inputs of `model`, which are features of `set`.
    pub fn new(model: &Model, set: &'static FeatureSet) -> Self {
        Self {
            set,
            columns: model.inputs().to_vec(),
            names: model.input_names(set),
            seen: Vec::new(),
            inputs: Vec::new(),
            sources: HashMap::new(),
            each: 1,
            total: 0,
            without_features: 0,
            malformed: 0,
        }
    }

    /// Keeps a flow that began at `time` (ns since the Unix epoch). `fill` appends its inputs, and says false if they are not
    /// there.
    fn push(
        &mut self,
        time: i64,
        service: Service,
        source: &str,
        fill: impl FnOnce(&Self, &mut Vec<f32>) -> bool,
    ) {
        let mut inputs = std::mem::take(&mut self.inputs);
        let before = inputs.len();
        let complete = fill(self, &mut inputs);
        self.total += u64::from(complete);
        self.without_features += u64::from(!complete);
        if complete && (self.total - 1).is_multiple_of(self.each) {
            let next = self.sources.len() as u32;
            let source = match self.sources.get(source) {
                Some(&index) => index,
                None => *self.sources.entry(source.to_owned()).or_insert(next),
            };
            self.seen.push(Seen { time, service, source });
        } else {
            inputs.truncate(before);
        }
        self.inputs = inputs;
        if self.seen.len() > MAX_FLOWS {
            self.thin();
        }
    }

    /// Takes a flow of a capture that began at `time` (ns since the Unix epoch), by its features in the set's order.
    pub fn add(&mut self, time: i64, service: Service, source: &str, features: &[f64]) {
        self.push(time, service, source, |this, inputs| {
            inputs.extend(this.columns.iter().map(|&column| to_input(features[column])));
            true
        });
    }

    /// Keeps every second.
    fn thin(&mut self) {
        self.each *= 2;
        let width = self.columns.len();
        let mut keep = (0..).map(|i: usize| i.is_multiple_of(2));
        self.seen.retain(|_| keep.next() == Some(true));
        for i in 0..self.seen.len() {
            self.inputs.copy_within(2 * i * width..(2 * i + 1) * width, i * width);
        }
        self.inputs.truncate(self.seen.len() * width);
    }

    /// Takes a row of a log or table.
    pub fn take(&mut self, row: &dyn Row) {
        let is_flow = row.text("event").is_none_or(|event| event == "flow");
        if !is_flow || row.text("end_reason").as_deref() == Some("folded") {
            return;
        }
        let time = row.text("timestamp").and_then(|text| text.parse::<Timestamp>().ok());
        let number = |name: &str| row.number(name).filter(|number| (0.0..65_536.0).contains(number));
        let (Some(time), Some(protocol)) = (time, number("protocol")) else {
            self.malformed += 1;
            return;
        };
        let service = Service::of(protocol as u8, number("dst_port").unwrap_or(0.0) as u16);
        let time = i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
        let source = row.text("src_ip").unwrap_or_default();
        self.push(time, service, &source, |this, inputs| {
            this.names.iter().all(|name| {
                row.feature(name).is_some_and(|value| {
                    inputs.push(to_input(value));
                    true
                })
            })
        });
    }
}
