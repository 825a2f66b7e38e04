//! Traffic that a pre-filter could spare, and the malicious flows that it would miss for that.

use serde::Serialize;

use super::curves::{Load, Reduction, at_missed, reduction, thinned_reduction};
use super::flow::{Groups, LabelledFlow, Part};
use crate::model::Verdict;

/// Shares of malicious flows missed at which the traffic spared is given.
const MISSES: [f64; 4] = [1e-3, 1e-2, 5e-2, 1e-1];

/// Traffic that needs no deeper look.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spared {
    /// True if the traffic after each verdict on a living flow counts, and a flow is missed if any of its packets would have
    /// been spared. Otherwise each flow counts whole, by its last verdict, although its first packets come before any.
    pub by_checkpoints: bool,
    /// By the verdicts as they were given.
    pub as_judged: Reduction,
    /// Among the malicious flows that are called malicious in the end, the share that lost packets before. None if verdicts on
    /// living flows were not written.
    pub seen_too_late: Option<f64>,
    /// For shares of malicious flows missed: the most that can be spared. Chosen on these very scores.
    pub at_missed: Vec<(f64, Reduction)>,
    /// Over the benign threshold. Flows that the model takes for unlike its training are never cleared.
    pub curve: Vec<Reduction>,
}

/// Traffic spared and flows missed, over groups or over flows alike; None unless there are flows of both kinds.
pub(super) fn spared(groups: &Groups, by_checkpoints: bool, clears: f64, by_group: bool) -> Option<Spared> {
    let mut loads = Vec::new();
    let mut judged = Reduction::default();
    let number = |kind: bool| groups.keys().filter(|(.., malicious)| *malicious == kind).count() as f64;
    let total = |kind: bool, of: fn(&LabelledFlow) -> f64| -> f64 {
        groups.iter().filter(|((.., m), _)| *m == kind).flat_map(|(_, flows)| flows).map(of).sum()
    };
    let quantities: [fn(&LabelledFlow) -> f64; 3] = [|f| f.end.bytes, |f| f.end.packets, |_| 1.0];
    let (all_malicious, all_benign) = (total(true, |_| 1.0), quantities.map(|of| total(false, of)));
    let (malicious_groups, benign_groups) = (number(true), number(false));
    if all_malicious == 0.0 || all_benign[2] == 0.0 {
        return None;
    }
    // For each group, or for all: flows called malicious in the end, and how many of these were cleared before.
    let mut seen: Vec<[f64; 2]> = Vec::new();
    for ((.., malicious), flows) in groups {
        if *malicious && (by_group || seen.is_empty()) {
            seen.push([0.0; 2]);
        }
        let sums = quantities.map(|of| flows.iter().map(of).sum::<f64>());
        let share = |i: usize| {
            let whole = if by_group { sums[i] * benign_groups } else { all_benign[i] };
            if whole == 0.0 { 0.0 } else { 1.0 / whole }
        };
        let shares = [share(0), share(1), share(2)];
        let missed = if by_group { 1.0 / (sums[2] * malicious_groups) } else { 1.0 / all_malicious };
        for flow in flows {
            let parts = flow.parts(by_checkpoints);
            let clearing = |part: &Part| {
                let foreign = part.verdict == Verdict::Unknown && part.score <= clears;
                if foreign { f64::INFINITY } else { part.score }
            };
            // A flow is missed, or spared, as soon as a part of it is.
            let (earliest, cleared) = parts.iter().fold((f64::INFINITY, false), |(least, any), part| {
                (least.min(clearing(part)), any || part.verdict == Verdict::Benign)
            });
            let whole = match malicious {
                true => Load { score: earliest, missed, spared: [0.0; 3] },
                false => Load { score: earliest, missed: 0.0, spared: [0.0, 0.0, shares[2]] },
            };
            if *malicious
                && flow.end.verdict == Verdict::Malicious
                && let Some([number, too_late]) = seen.last_mut()
            {
                *number += 1.0;
                *too_late += f64::from(u8::from(cleared));
            }
            if cleared {
                judged.missed += whole.missed;
                judged.flows += whole.spared[2];
            }
            loads.push(whole);
            for part in parts.iter().filter(|_| !malicious) {
                let spared = [part.load[0] * shares[0], part.load[1] * shares[1], 0.0];
                if part.verdict == Verdict::Benign {
                    judged.bytes += spared[0];
                    judged.packets += spared[1];
                }
                loads.push(Load { score: clearing(part), missed: 0.0, spared });
            }
        }
    }
    judged.threshold = if clears.is_finite() { clears.next_up() } else { 0.0 };
    let mut curve = reduction(&mut loads);
    curve.retain(|point| point.threshold.is_finite());
    let at_missed = MISSES.iter().filter_map(|&limit| Some((limit, at_missed(&curve, limit)?))).collect();
    let shares: Vec<f64> = seen.iter().filter(|[n, _]| *n > 0.0).map(|[n, late]| late / n).collect();
    let late = (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64);
    Some(Spared {
        by_checkpoints,
        seen_too_late: late.filter(|_| by_checkpoints),
        as_judged: judged,
        at_missed,
        curve: thinned_reduction(&curve),
    })
}
