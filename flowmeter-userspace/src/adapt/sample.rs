//! A network's own flows, by their inputs: a bounded sample in which rare services and quiet hours keep their place.
//!
//! Of more flows than fit, those stay that have the greatest priority: the flow's chance weight divided by a number drawn
//! evenly between 0 and 1 (N. Duffield, C. Lund, M. Thorup, *Priority sampling for estimation of arbitrary subset sums*, JACM 54,
//! 2007). A flow's weight falls with the root of how many flows its service had in the same ten minutes, so that a flood does
//! not crowd out everything else; what a kept flow stands for rises by as much, so that sums over the sample stay unbiased.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;

use super::words::{OperatorWord, Words};
use crate::calibration::Service;
use crate::flow_log::Row;
use crate::model::to_input;
use crate::record::FlowRecord;

/// Most flows that are kept: 30 MiB of inputs, and learned from in seconds.
pub const MAX_FLOWS: usize = 60_000;
/// Nanoseconds within which flows of a service crowd each other.
const SLOT: i64 = 600_000_000_000;
/// Services that are told apart in a slot; those that come later are taken together.
const MAX_SERVICES: usize = 65_536;
/// Seed of the dice: the same flows in the same order give the same sample.
const SEED: u64 = 1;

/// A flow that was kept.
#[derive(Clone, Copy, Debug)]
pub struct OwnFlow {
    /// When it began, nanoseconds since the Unix epoch.
    pub time: i64,
    /// What it is for.
    pub service: Service,
    /// Who began it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What the operator says of it.
    pub word: Option<OperatorWord>,
    /// Its weight in the draw.
    chance: f64,
    /// What decided that it was kept.
    priority: f64,
    /// Number among the kept flows that its inputs stand at.
    row: usize,
}

/// Flows of one service in one slot of time.
type Crowd = (Service, i64);

/// The sample.
pub struct OwnSample {
    names: Vec<&'static str>,
    columns: Vec<usize>,
    words: Words,
    most: usize,
    dice: Dice,
    crowds: HashMap<Crowd, u32>,
    slot: i64,
    /// The kept flows, the one of the least priority first.
    kept: BinaryHeap<Reverse<Ranked>>,
    inputs: Vec<f32>,
    /// The greatest priority of a flow that was not kept.
    threshold: f64,
    scratch: Vec<f32>,
    /// Flows that were looked at.
    pub total: u64,
    /// Flows that lack an input.
    pub without_features: u64,
    /// Rows without a time, addresses or a protocol.
    pub malformed: u64,
}

/// A flow by its priority.
struct Ranked(OwnFlow);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.priority.total_cmp(&other.0.priority)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014).
struct Dice(u64);

impl Dice {
    /// A number above 0 and at most 1.
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// A kept flow with its inputs.
pub struct Own {
    /// When, what for, and between whom.
    pub seen: OwnFlow,
    /// Its inputs.
    pub row: Vec<f32>,
    /// Flows that it stands for, itself included.
    pub stands_for: f64,
}

impl OwnSample {
    /// Nothing yet. `names` are the inputs, `columns` their places among the features of the set.
    pub fn new(names: Vec<&'static str>, columns: Vec<usize>, words: Words) -> Self {
        Self::bounded(names, columns, words, MAX_FLOWS)
    }

    fn bounded(names: Vec<&'static str>, columns: Vec<usize>, words: Words, most: usize) -> Self {
        Self {
            names,
            columns,
            words,
            most,
            dice: Dice(SEED),
            crowds: HashMap::new(),
            slot: i64::MIN,
            kept: BinaryHeap::new(),
            inputs: Vec::new(),
            threshold: 0.0,
            scratch: Vec::new(),
            total: 0,
            without_features: 0,
            malformed: 0,
        }
    }

    /// Takes a flow of a capture, by its features in the set's order.
    pub fn add(&mut self, record: &FlowRecord, features: &[f64]) {
        let (source, destination) = (record.source(), record.destination());
        let mut seen = OwnFlow {
            time: i64::try_from(record.first_seen()).unwrap_or(i64::MAX),
            service: crate::scoring::service(record),
            source: source.address,
            destination: destination.address,
            word: None,
            chance: 1.0,
            priority: 0.0,
            row: 0,
        };
        if !self.words.is_empty() {
            let ends = [(source.address, source.port), (destination.address, destination.port)];
            seen.word = self.words.of(record.community_id().as_deref(), ends);
        }
        let mut row = std::mem::take(&mut self.scratch);
        row.clear();
        row.extend(self.columns.iter().map(|&column| to_input(features[column])));
        self.keep(seen, &row);
        self.scratch = row;
    }

    /// Takes a row of a log or table.
    pub fn take(&mut self, row: &dyn Row) {
        let is_flow = row.text("event").is_none_or(|event| event == "flow");
        if !is_flow || row.text("end_reason").as_deref() == Some("folded") {
            return;
        }
        let Some(seen) = self.identity(row) else {
            self.malformed += 1;
            return;
        };
        let mut inputs = std::mem::take(&mut self.scratch);
        inputs.clear();
        inputs.extend(self.names.iter().map_while(|name| row.feature(name).map(to_input)));
        if inputs.len() == self.names.len() && inputs.iter().all(|value| value.is_finite()) {
            self.keep(seen, &inputs);
        } else {
            self.without_features += 1;
        }
        self.scratch = inputs;
    }

    /// When, what for, and between whom, as a log or table says it.
    fn identity(&self, row: &dyn Row) -> Option<OwnFlow> {
        let time = row.text("timestamp")?.parse::<Timestamp>().ok()?;
        let number = |name: &str| row.number(name).filter(|number| (0.0..65_536.0).contains(number));
        let address = |name: &str| row.text(name).and_then(|text| text.parse::<IpAddr>().ok());
        let (source, destination) = (address("src_ip")?, address("dst_ip")?);
        let port = |name: &str| number(name).unwrap_or(0.0) as u16;
        let ends = [(source, port("src_port")), (destination, port("dst_port"))];
        let word = match self.words.is_empty() {
            true => None,
            false => self.words.of(row.text("community_id").as_deref(), ends),
        };
        Some(OwnFlow {
            time: i64::try_from(time.as_nanosecond()).ok()?,
            service: Service::of(number("protocol")? as u8, ends[1].1),
            source,
            destination,
            word,
            chance: 1.0,
            priority: 0.0,
            row: 0,
        })
    }

    /// Takes a flow that began at `time` (ns since the Unix epoch) between these ends, by its inputs.
    #[cfg(test)]
    pub(super) fn observe(&mut self, time: i64, protocol: u8, ends: [(IpAddr, u16); 2], row: &[f32]) {
        let service = Service::of(protocol, ends[1].1);
        let word = self.words.of(None, ends);
        let [source, destination] = ends.map(|(address, _)| address);
        self.keep(
            OwnFlow { time, service, source, destination, word, chance: 1.0, priority: 0.0, row: 0 },
            row,
        );
    }

    /// Draws whether the flow stays.
    fn keep(&mut self, mut seen: OwnFlow, row: &[f32]) {
        self.total += 1;
        seen.chance = self.chance(&seen);
        seen.priority = seen.chance / self.dice.draw();
        if self.kept.len() < self.most {
            seen.row = self.kept.len();
            self.inputs.extend_from_slice(row);
            self.kept.push(Reverse(Ranked(seen)));
            return;
        }
        let Some(mut least) = self.kept.peek_mut() else { return };
        if least.0.0.priority >= seen.priority {
            self.threshold = self.threshold.max(seen.priority);
            return;
        }
        self.threshold = self.threshold.max(least.0.0.priority);
        seen.row = least.0.0.row;
        let width = row.len();
        self.inputs[seen.row * width..][..width].copy_from_slice(row);
        least.0.0 = seen;
    }

    /// A flow's weight in the draw: less, the more of its kind there are; most for what the operator has named.
    fn chance(&mut self, seen: &OwnFlow) -> f64 {
        if seen.word.is_some() {
            return 100.0;
        }
        let slot = seen.time.div_euclid(SLOT);
        if slot != self.slot {
            self.slot = slot;
            self.crowds.clear();
        }
        let rest = Service { protocol: u8::MAX, port: u16::MAX };
        let known = self.crowds.len() < MAX_SERVICES || self.crowds.contains_key(&(seen.service, slot));
        let crowd = self.crowds.entry((if known { seen.service } else { rest }, slot)).or_default();
        *crowd = crowd.saturating_add(1);
        f64::from(*crowd).sqrt().recip()
    }

    /// The kept flows in the order of time.
    pub fn into_flows(self) -> Vec<Own> {
        let (width, threshold) = (self.columns.len(), self.threshold);
        let mut flows: Vec<OwnFlow> = self.kept.into_iter().map(|Reverse(Ranked(seen))| seen).collect();
        flows.sort_unstable_by_key(|seen| (seen.time, seen.row));
        flows
            .into_iter()
            .map(|seen| Own {
                seen,
                row: self.inputs[seen.row * width..][..width].to_vec(),
                stands_for: (threshold / seen.chance).max(1.0),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use flowmeter_common::packet::protocol;

    use super::*;

    fn flow(time: i64, port: u16) -> OwnFlow {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        OwnFlow {
            time,
            service: Service::of(protocol::TCP, port),
            source: address,
            destination: address,
            word: None,
            chance: 1.0,
            priority: 0.0,
            row: 0,
        }
    }

    /// A flood of 20,000 flows to one port, within which 1 in 100 is to others.
    fn flooded(most: usize) -> Vec<Own> {
        let mut sample = OwnSample::bounded(vec!["a"], vec![0], Words::default(), most);
        for i in 0..20_000_u32 {
            let port = if i % 100 == 0 { 1000 + (i / 100 % 20) as u16 } else { 80 };
            sample.keep(flow(i64::from(i), port), &[f32::from(port)]);
        }
        assert_eq!(sample.total, 20_000);
        sample.into_flows()
    }

    #[test]
    fn no_more_is_kept_than_fits_and_the_sums_stay() {
        let flows = flooded(2000);
        assert_eq!(flows.len(), 2000);
        let all: f64 = flows.iter().map(|own| own.stands_for).sum();
        assert!((all / 20_000.0 - 1.0).abs() < 0.1, "{all}");
    }

    #[test]
    fn a_flood_does_not_crowd_out_what_is_rare() {
        let flows = flooded(2000);
        let rare = flows.iter().filter(|own| own.seen.service.port != 80).count();
        assert!(rare > 100, "{rare} of 200, where an even draw keeps 20");
    }

    #[test]
    fn each_flow_keeps_its_inputs_and_time_orders_them() {
        let flows = flooded(500);
        assert!(flows.iter().all(|own| own.row == [f32::from(own.seen.service.port)]));
        assert!(flows.windows(2).all(|pair| pair[0].seen.time <= pair[1].seen.time));
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let flows = flooded(20_000);
        assert_eq!(flows.len(), 20_000);
        assert!(flows.iter().all(|own| own.stands_for == 1.0));
    }
}
