//! Finds what is normal at a network, and which thresholds keep a budget of false alarms. Nobody has said which flows are
//! attacks.
//!
//! The flows are cut by time into [`PARTS`] parts of as many flows each. Attacks come in bursts, habits do not. So alarms
//! are counted without the [`SET_ASIDE`] parts that have most, and a range is the median of the parts' ranges. What fills
//! less than these parts, an attack or one noisy host, moves neither by much.
//!
//! 1. Ranges: for each service that is there most of the time, the range of the middle 96 % of its flows, by input.
//! 2. Alarms: flows that the model calls malicious and that are not within their service's ranges.
//! 3. Too many for the budget: the services that have most get a higher threshold, one after the other, until it is
//!    kept; an attack on another service is still found. Fewer, and enough flows to be sure of it: a lower threshold for
//!    all, not below half way to the model's benign one.

use std::collections::{BTreeMap, HashMap};

use super::{Service, Usual};
use crate::model::Thresholds;

/// Parts of the time.
pub const PARTS: usize = 10;
/// Parts that are not taken for normal.
pub const SET_ASIDE: usize = 2;
/// Share of a service's flows, in one part, that lies below its ranges; as many lie above.
const TAIL: f64 = 0.02;
/// A service has ranges from so many flows on, in so many parts with at least so many flows each.
const HABIT_FLOWS: usize = 50;
const HABIT_PARTS: usize = 5;
const HABIT_FLOWS_A_PART: usize = 3;
/// Most services that get ranges, those with most flows first: bounds the file.
const MAX_SERVICES: usize = 256;
/// Thresholds are lowered from so many flows on, if the doubt that the budget is kept then is at most this.
const ENOUGH: usize = 1_000;
const DOUBT: f64 = 0.1;

/// A flow of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredFlow {
    /// When it began, nanoseconds since the Unix epoch.
    pub time: i64,
    /// What it is for.
    pub service: Service,
    /// Its score; None if it is unknown whatever its score.
    pub score: Option<f64>,
}

/// Alarms, before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// With the model's own threshold.
    pub before: usize,
    /// Calibrated.
    pub after: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// For all flows.
    pub thresholds: Thresholds,
    /// For single services.
    pub services: HashMap<Service, Usual>,
    /// Alarms as they are counted here: without the parts set aside, for the whole time.
    pub counted: (f64, f64),
    /// Alarms of the whole.
    pub alarms: Alarms,
    /// Alarms of each service that had any.
    pub by_service: BTreeMap<Service, Alarms>,
    /// The part of each flow.
    pub parts: Vec<usize>,
    /// The score of each flow that is not unknown anyway.
    pub scores: Vec<Option<f64>>,
    /// The parts with most alarms before, which were set aside.
    pub set_aside: Vec<usize>,
}

/// Finds ranges and thresholds. `inputs` has the model's inputs of each flow, row after row; `rate` is the share of flows
/// that may be called malicious.
pub fn estimate(flows: &[ScoredFlow], inputs: &[f32], own: Thresholds, rate: f64) -> Estimate {
    let parts = parts(flows);
    let width = inputs.len().checked_div(flows.len()).unwrap_or(0);
    let row = |i: usize| &inputs[i * width..(i + 1) * width];
    let mut members: BTreeMap<Service, Vec<usize>> = BTreeMap::new();
    for (i, flow) in flows.iter().enumerate() {
        members.entry(flow.service).or_default().push(i);
    }
    let mut services = habits(&members, &parts, width, &row);

    // From here on only what may be an alarm at all: score, part, service.
    let floor = f64::midpoint(own.malicious, own.benign);
    let usual = |i: usize| services.get(&flows[i].service).is_some_and(|usual: &Usual| usual.holds(row(i)));
    let is_usual: Vec<bool> =
        (0..flows.len()).map(|i| flows[i].score.is_some_and(|score| score >= floor) && usual(i)).collect();
    let candidates = |indices: &mut dyn Iterator<Item = usize>| -> Vec<Candidate> {
        indices
            .filter(|&i| !is_usual[i])
            .filter_map(|i| {
                Some(Candidate { score: flows[i].score.filter(|s| *s >= floor)?, part: parts[i] })
            })
            .collect()
    };
    let all = candidates(&mut (0..flows.len()));
    let budget = rate * flows.len() as f64;
    let mut malicious = own.malicious;
    if counted(&all, malicious) > budget {
        raise(&members, &candidates, own.malicious, rate, budget, &mut services);
    } else if let Some(most) = surely_within(budget).filter(|_| flows.len() >= ENOUGH) {
        malicious = lowest(&all, most as f64, floor).min(own.malicious);
    }

    let is_malicious = |i: usize, threshold: f64| flows[i].score.is_some_and(|score| score >= threshold);
    let threshold =
        |i: usize| services.get(&flows[i].service).and_then(|usual| usual.malicious).unwrap_or(malicious);
    let mut by_service: BTreeMap<Service, Alarms> = BTreeMap::new();
    let mut before = [0; PARTS];
    let mut after = [0; PARTS];
    for i in 0..flows.len() {
        let (was, is) = (is_malicious(i, own.malicious), !is_usual[i] && is_malicious(i, threshold(i)));
        if was || is {
            let alarms = by_service.entry(flows[i].service).or_default();
            alarms.before += usize::from(was);
            alarms.after += usize::from(is);
            before[parts[i]] += usize::from(was);
            after[parts[i]] += usize::from(is);
        }
    }
    let mut order: Vec<usize> = (0..PARTS).collect();
    order.sort_by_key(|&part| std::cmp::Reverse(before[part]));
    Estimate {
        thresholds: Thresholds { malicious, benign: own.benign },
        services,
        counted: (trimmed(before), trimmed(after)),
        alarms: Alarms { before: before.iter().sum(), after: after.iter().sum() },
        by_service,
        parts,
        scores: flows.iter().map(|flow| flow.score).collect(),
        set_aside: order[..SET_ASIDE].to_vec(),
    }
}

/// A flow that may be an alarm.
#[derive(Clone, Copy)]
struct Candidate {
    score: f64,
    part: usize,
}

/// The part of each flow.
fn parts(flows: &[ScoredFlow]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..flows.len()).collect();
    order.sort_by_key(|&i| flows[i].time);
    let mut parts = vec![0; flows.len()];
    for (rank, i) in order.into_iter().enumerate() {
        parts[i] = rank * PARTS / flows.len();
    }
    parts
}

/// The sum without the greatest [`SET_ASIDE`], for all parts.
fn trimmed(mut by_part: [usize; PARTS]) -> f64 {
    by_part.sort_unstable();
    let kept: usize = by_part[..PARTS - SET_ASIDE].iter().sum();
    kept as f64 * PARTS as f64 / (PARTS - SET_ASIDE) as f64
}

/// Alarms from a threshold on.
fn counted(candidates: &[Candidate], threshold: f64) -> f64 {
    let mut by_part = [0; PARTS];
    for candidate in candidates.iter().filter(|candidate| candidate.score >= threshold) {
        by_part[candidate.part] += 1;
    }
    trimmed(by_part)
}

/// The lowest threshold from `least` on that gives at most `most` alarms.
fn lowest(candidates: &[Candidate], most: f64, least: f64) -> f64 {
    let mut thresholds = vec![least];
    thresholds.extend(candidates.iter().map(|c| c.score.next_up()).filter(|score| *score > least));
    thresholds.sort_by(f64::total_cmp);
    let first = thresholds.partition_point(|&threshold| counted(candidates, threshold) > most);
    // From the last on there is no alarm.
    thresholds[first.min(thresholds.len() - 1)]
}

/// Gives the services with most alarms higher thresholds until the budget is kept.
fn raise(
    members: &BTreeMap<Service, Vec<usize>>,
    candidates: &dyn Fn(&mut dyn Iterator<Item = usize>) -> Vec<Candidate>,
    own: f64,
    rate: f64,
    budget: f64,
    services: &mut HashMap<Service, Usual>,
) {
    let mut noisy: Vec<(Service, Vec<Candidate>, usize)> = members
        .iter()
        .map(|(service, indices)| (*service, candidates(&mut indices.iter().copied()), indices.len()))
        .filter(|(_, own_candidates, _)| counted(own_candidates, own) > 0.0)
        .collect();
    noisy.sort_by(|a, b| counted(&b.1, own).total_cmp(&counted(&a.1, own)).then(a.0.cmp(&b.0)));
    let mut all = candidates(&mut members.values().flatten().copied());
    all.retain(|candidate| candidate.score >= own);
    let mut left = [0_usize; PARTS];
    for candidate in &all {
        left[candidate.part] += 1;
    }
    for (service, own_candidates, flows) in noisy {
        let threshold = lowest(&own_candidates, rate * flows as f64, own);
        services.entry(service).or_default().malicious = Some(threshold);
        for candidate in own_candidates.iter().filter(|c| c.score >= own && c.score < threshold) {
            left[candidate.part] -= 1;
        }
        if trimmed(left) <= budget {
            break;
        }
    }
}

/// The ranges of services that are there most of the time.
fn habits<'a>(
    members: &BTreeMap<Service, Vec<usize>>,
    parts: &[usize],
    width: usize,
    row: &dyn Fn(usize) -> &'a [f32],
) -> HashMap<Service, Usual> {
    let mut often: Vec<_> = members.iter().filter(|(_, indices)| indices.len() >= HABIT_FLOWS).collect();
    often.sort_by_key(|(_, indices)| std::cmp::Reverse(indices.len()));
    let mut found = HashMap::new();
    for (&service, indices) in often {
        let mut by_part: [Vec<usize>; PARTS] = Default::default();
        for &i in indices {
            by_part[parts[i]].push(i);
        }
        let present: Vec<&Vec<usize>> =
            by_part.iter().filter(|part| part.len() >= HABIT_FLOWS_A_PART).collect();
        if present.len() < HABIT_PARTS {
            continue;
        }
        let range = |input: usize| {
            let (mut lows, mut highs): (Vec<f32>, Vec<f32>) = present
                .iter()
                .map(|part| {
                    let mut values: Vec<f32> = part.iter().map(|&i| row(i)[input]).collect();
                    values.sort_by(f32::total_cmp);
                    let tail = (values.len() as f64 * TAIL) as usize;
                    (values[tail], values[values.len() - 1 - tail])
                })
                .unzip();
            (median(&mut lows), median(&mut highs))
        };
        let normal = Some((0..width).map(range).collect());
        found.insert(service, Usual { malicious: None, normal });
        if found.len() == MAX_SERVICES {
            break;
        }
    }
    found
}

/// The value in the middle; with an even number of values, the lower of the two in the middle.
fn median(values: &mut [f32]) -> f32 {
    values.sort_by(f32::total_cmp);
    values[(values.len() - 1) / 2]
}

/// The most alarms that may have been seen while there is little doubt that no more than `budget` are to be expected. With
/// `budget` as the mean of a Poisson distribution, so few come with a probability of at most [`DOUBT`]. None if not even
/// zero alarms are so few.
fn surely_within(budget: f64) -> Option<u64> {
    // Logarithms, since the first terms of a large mean are too small for a number.
    let (mut term, mut sum, mut most) = (-budget, 0.0, None);
    for k in 0_u64.. {
        sum += f64::exp(term);
        if sum > DOUBT {
            break;
        }
        most = Some(k);
        term += budget.ln() - ((k + 1) as f64).ln();
    }
    most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Thresholds = Thresholds { malicious: 0.9, benign: 0.1 };
    const WEB: Service = Service { protocol: 6, port: 443 };
    const POLL: Service = Service { protocol: 6, port: 502 };
    const SSH: Service = Service { protocol: 6, port: 22 };

    /// Flows in order of time, each with one input: its score times a hundred, unless said.
    fn found(flows: &[(Service, f64, f32)], rate: f64) -> Estimate {
        let inputs: Vec<f32> = flows.iter().map(|flow| flow.2).collect();
        let flows: Vec<ScoredFlow> = flows
            .iter()
            .enumerate()
            .map(|(i, &(service, score, _))| ScoredFlow { time: i as i64, service, score: Some(score) })
            .collect();
        estimate(&flows, &inputs, OWN, rate)
    }

    /// 2,000 flows of a quiet service; each tenth is of one that the model takes for malicious, if `noisy`.
    fn site(noisy: bool) -> Vec<(Service, f64, f32)> {
        (0..2000)
            .map(|i| match i % 10 {
                0 if noisy => (POLL, 0.95, (i % 7) as f32),
                _ => (WEB, 0.2 + f64::from(i % 97) / 400.0, (i % 13) as f32),
            })
            .collect()
    }

    #[test]
    fn what_a_service_does_all_the_time_is_usual() {
        let found = found(&site(true), 0.001);
        assert_eq!(found.alarms, Alarms { before: 200, after: 0 });
        assert!(found.services[&POLL].holds(&[3.0]) && !found.services[&POLL].holds(&[7.0]));
        assert_eq!(found.services[&POLL].malicious, None);
    }

    #[test]
    fn a_quiet_site_gets_a_lower_threshold_but_not_below_the_floor() {
        assert_eq!(found(&site(false), 0.01).thresholds.malicious, 0.5);
        // With a budget that so few flows cannot show, nothing changes.
        assert_eq!(found(&site(false), 0.001).thresholds.malicious, OWN.malicious);
    }

    #[test]
    fn a_service_without_habits_gets_a_higher_threshold_and_no_other() {
        // A new value of the input each time, so that most lie outside of the ranges of other parts.
        let mut flows = site(true);
        for (i, flow) in flows.iter_mut().enumerate().filter(|(_, flow)| flow.0 == POLL) {
            flow.2 = i as f32;
        }
        let found = found(&flows, 0.001);
        assert!(found.services[&POLL].malicious.is_some_and(|threshold| threshold > 0.95));
        assert_eq!(found.services[&WEB].malicious, None);
        assert_eq!(found.thresholds.malicious, OWN.malicious);
    }

    #[test]
    fn an_attack_within_a_fifth_of_the_time_changes_nothing() {
        let clean = found(&site(true), 0.01);
        for start in [0, 700, 1700] {
            let mut flows = site(true);
            // A tenth of all flows, on a service of its own and on one that is in use.
            for (i, service) in [SSH, WEB].into_iter().cycle().take(200).enumerate() {
                flows.insert(start + i, (service, 0.99, 50.0));
            }
            let found = found(&flows, 0.01);
            assert_eq!(found.thresholds, clean.thresholds, "at {start}");
            assert_eq!(found.services.get(&SSH), None, "at {start}");
            assert_eq!(found.services[&WEB], clean.services[&WEB], "at {start}");
            assert!(found.set_aside.contains(&(start * PARTS / flows.len())), "at {start}");
        }
    }

    #[test]
    fn so_few_are_surely_within() {
        // From tables of Poisson's distribution: P(0; 2.3) = 0.1003, P(0; 2.31) = 0.0993, P(1; 3.9) = 0.0992.
        assert_eq!(surely_within(2.3), None);
        assert_eq!(surely_within(2.31), Some(0));
        assert_eq!(surely_within(3.9), Some(1));
        // By the normal distribution: 10,000 - 1.28 times 100.
        assert!(surely_within(10_000.0).is_some_and(|most| (9_868..=9_875).contains(&most)));
    }

    proptest! {
        #[test]
        fn thresholds_fall_only_within_the_budget_and_more_budget_is_never_stricter(
            rows in prop::collection::vec((0_u16..4, 0.0_f64..1.0, 0_u8..9), 1..1500), rate in 0.001_f64..0.2
        ) {
            let flows: Vec<_> =
                rows.iter().map(|&(port, score, input)| (Service { protocol: 6, port }, score, f32::from(input))).collect();
            let one = found(&flows, rate);
            // Alarms become more only where the budget has room for them.
            prop_assert!(one.alarms.after <= one.alarms.before || one.counted.1 <= rate * flows.len() as f64);
            prop_assert!(one.thresholds.malicious >= 0.5 && one.thresholds.malicious <= OWN.malicious);
            prop_assert!(one.services.values().all(|usual| usual.malicious.is_none_or(|t| t >= OWN.malicious)));
            prop_assert!(found(&flows, rate * 2.0).thresholds.malicious <= one.thresholds.malicious);
        }
    }
}
