//! What a score separates at every threshold: the curves, and the figures read from them.

use serde::Serialize;

/// Change of either axis below which a further point of a curve is not worth its place.
const STEP: f64 = 0.002;
/// And relative change of the false positive rate, for plots by its logarithm.
const RATIO: f64 = 1.05;

/// A flow's score, what it is, and how much it counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Probability of malicious.
    pub score: f64,
    /// What it is.
    pub malicious: bool,
    /// How much it counts.
    pub weight: f64,
}

/// What calling flows malicious from a threshold on gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Operating {
    /// Score from which a flow is called malicious; infinite (null in JSON) where none is.
    pub threshold: f64,
    /// Share of benign flows called malicious.
    pub fpr: f64,
    /// Share of malicious flows called malicious.
    pub tpr: f64,
}

/// Every threshold from the highest down, with none called malicious first. Empty unless there are flows of both kinds.
pub fn roc(points: &mut [Point]) -> Vec<Operating> {
    points.sort_by(|a, b| b.score.total_cmp(&a.score));
    let sum = |kind| points.iter().filter(|p| p.malicious == kind).map(|p| p.weight).sum::<f64>();
    let (positives, negatives) = (sum(true), sum(false));
    if positives == 0.0 || negatives == 0.0 {
        return Vec::new();
    }
    let mut curve = vec![Operating { threshold: f64::INFINITY, fpr: 0.0, tpr: 0.0 }];
    let (mut true_positive, mut false_positive) = (0.0, 0.0);
    for tie in points.chunk_by(|a, b| a.score == b.score) {
        for point in tie {
            *(if point.malicious { &mut true_positive } else { &mut false_positive }) += point.weight;
        }
        let (fpr, tpr) = (false_positive / negatives, true_positive / positives);
        curve.push(Operating { threshold: tie[0].score, fpr, tpr });
    }
    curve
}

/// Area under the ROC curve; equal scores count half.
pub fn area(curve: &[Operating]) -> Option<f64> {
    (!curve.is_empty())
        .then(|| curve.windows(2).map(|w| (w[1].fpr - w[0].fpr) * (w[1].tpr + w[0].tpr) / 2.0).sum())
}

/// The last point whose false positive rate stays at or below `limit`.
pub fn at_fpr(curve: &[Operating], limit: f64) -> Option<Operating> {
    curve.iter().take_while(|point| point.fpr <= limit).last().copied()
}

/// Precision where a share `base` of all flows is malicious; None if nothing is called so.
pub fn precision(tpr: f64, fpr: f64, base: f64) -> Option<f64> {
    let (hits, false_alarms) = (tpr * base, fpr * (1.0 - base));
    (hits + false_alarms > 0.0).then(|| hits / (hits + false_alarms))
}

/// Area under the precision-recall curve as a step function (average precision).
pub fn average_precision(curve: &[Operating], base: f64) -> Option<f64> {
    (!curve.is_empty()).then(|| {
        curve
            .windows(2)
            .map(|w| (w[1].tpr - w[0].tpr) * precision(w[1].tpr, w[1].fpr, base).unwrap_or(0.0))
            .sum()
    })
}

/// A curve with points left out that no eye would miss; the first and the last stay.
pub fn thinned(curve: &[Operating]) -> Vec<Operating> {
    let mut kept: Vec<Operating> = Vec::new();
    for (i, point) in curve.iter().enumerate() {
        let far = kept.last().is_none_or(|last| {
            point.tpr - last.tpr >= STEP || point.fpr - last.fpr >= STEP || point.fpr > last.fpr * RATIO
        });
        if far || i + 1 == curve.len() {
            kept.push(*point);
        }
    }
    kept
}

/// What one flow takes of the traffic, and whether it was cleared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Probability of malicious.
    pub score: f64,
    /// Its part of the malicious flows; 0 if it is benign.
    pub missed: f64,
    /// Its parts of the benign bytes, packets and flows; 0 if it is malicious.
    pub spared: [f64; 3],
}

/// What clearing flows below a threshold gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Reduction {
    /// Score below which a flow is called benign.
    pub threshold: f64,
    /// Share of malicious flows missed.
    pub missed: f64,
    /// Share of benign bytes that need no deeper look.
    pub bytes: f64,
    /// Share of benign packets.
    pub packets: f64,
    /// Share of benign flows.
    pub flows: f64,
}

/// Every threshold from 0, below which nothing is cleared, up to one above all.
pub fn reduction(loads: &mut [Load]) -> Vec<Reduction> {
    loads.sort_by(|a, b| a.score.total_cmp(&b.score));
    let mut sum = Reduction::default();
    let mut curve = vec![sum];
    let ties: Vec<&[Load]> = loads.chunk_by(|a, b| a.score == b.score).collect();
    for (i, tie) in ties.iter().enumerate() {
        for load in *tie {
            sum.missed += load.missed;
            sum.bytes += load.spared[0];
            sum.packets += load.spared[1];
            sum.flows += load.spared[2];
        }
        // The next score is not below itself.
        sum.threshold = ties.get(i + 1).map_or(tie[0].score.next_up(), |next| next[0].score);
        curve.push(sum);
    }
    curve
}

/// The last point that misses at most `limit` of the malicious flows.
pub fn at_missed(curve: &[Reduction], limit: f64) -> Option<Reduction> {
    curve.iter().take_while(|point| point.missed <= limit).last().copied()
}

/// As [`thinned`], of a reduction.
pub fn thinned_reduction(curve: &[Reduction]) -> Vec<Reduction> {
    let mut kept: Vec<Reduction> = Vec::new();
    for (i, point) in curve.iter().enumerate() {
        let far = kept.last().is_none_or(|last| {
            point.missed - last.missed >= STEP
                || point.bytes - last.bytes >= STEP
                || point.packets - last.packets >= STEP
                || point.flows - last.flows >= STEP
        });
        if far || i + 1 == curve.len() {
            kept.push(*point);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn points(rows: &[(f64, bool, f64)]) -> Vec<Point> {
        rows.iter().map(|&(score, malicious, weight)| Point { score, malicious, weight }).collect()
    }

    /// The share of pairs of a malicious and a benign flow in which the malicious one scores higher.
    fn pairs_in_order(points: &[Point]) -> f64 {
        let (mut right, mut all) = (0.0, 0.0);
        for one in points.iter().filter(|p| p.malicious) {
            for other in points.iter().filter(|p| !p.malicious) {
                let weight = one.weight * other.weight;
                all += weight;
                right += weight
                    * match one.score.total_cmp(&other.score) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
            }
        }
        right / all
    }

    #[test]
    fn a_small_case_by_hand() {
        // Two malicious, four benign; one benign above the lower malicious, one equal to it.
        let mut points = points(&[
            (0.9, true, 1.0),
            (0.8, false, 1.0),
            (0.5, true, 1.0),
            (0.5, false, 1.0),
            (0.2, false, 1.0),
            (0.1, false, 1.0),
        ]);
        let curve = roc(&mut points);
        let at = |threshold, fpr, tpr| Operating { threshold, fpr, tpr };
        assert_eq!(
            curve,
            [
                at(f64::INFINITY, 0.0, 0.0),
                at(0.9, 0.0, 0.5),
                at(0.8, 0.25, 0.5),
                at(0.5, 0.5, 1.0),
                at(0.2, 0.75, 1.0),
                at(0.1, 1.0, 1.0)
            ]
        );
        // Six of the eight pairs (4 + 2) are in order and one is even.
        assert_eq!(area(&curve), Some(6.5 / 8.0));
        assert_eq!(at_fpr(&curve, 0.0), Some(curve[1]));
        assert_eq!(at_fpr(&curve, 0.49), Some(curve[2]));
        // One flow in eleven malicious: at 0.5, 1/11 found against 5/11 false alarms.
        let found = precision(1.0, 0.5, 1.0 / 11.0).unwrap();
        assert!((found - 1.0 / 6.0).abs() < 1e-12, "{found}");
        // At even odds: half of the recall at precision 1, the other half at 1/(1 + 0.5).
        let average = average_precision(&curve, 0.5).unwrap();
        assert!((average - (0.5 + 0.5 / 1.5)).abs() < 1e-12, "{average}");
    }

    #[test]
    fn without_both_kinds_there_is_no_curve() {
        assert!(roc(&mut points(&[(0.5, true, 1.0)])).is_empty());
        assert_eq!(area(&roc(&mut points(&[(0.5, false, 1.0)]))), None);
        assert_eq!(precision(0.0, 0.0, 0.1), None);
    }

    #[test]
    fn a_small_reduction_by_hand() {
        let load = |score, missed, bytes| Load { score, missed, spared: [bytes, 0.0, 0.0] };
        let mut loads =
            [load(0.3, 0.5, 0.0), load(0.1, 0.0, 0.75), load(0.3, 0.0, 0.25), load(0.7, 0.5, 0.0)];
        let curve = reduction(&mut loads);
        let found: Vec<_> = curve.iter().map(|r| (r.threshold, r.missed, r.bytes)).collect();
        assert_eq!(
            found,
            [(0.0, 0.0, 0.0), (0.3, 0.0, 0.75), (0.7, 0.5, 1.0), (0.7_f64.next_up(), 1.0, 1.0)]
        );
        assert_eq!(at_missed(&curve, 0.4).unwrap().bytes, 0.75);
    }

    proptest! {
        #[test]
        fn the_area_is_the_share_of_pairs_in_order_and_no_rising_map_changes_it(
            rows in prop::collection::vec((0_u8..20, any::<bool>(), 1_u8..9), 2..60)
        ) {
            let mut points: Vec<Point> = rows
                .iter()
                .map(|&(score, malicious, weight)| Point { score: f64::from(score) / 20.0, malicious, weight: weight.into() })
                .collect();
            let curve = roc(&mut points);
            prop_assume!(!curve.is_empty());
            let found = area(&curve).unwrap();
            prop_assert!((found - pairs_in_order(&points)).abs() < 1e-9);
            for point in &mut points {
                point.score = (3.0 * point.score).exp() - 7.0;
            }
            prop_assert!((area(&roc(&mut points)).unwrap() - found).abs() < 1e-12);
            // Turned round, what was above is below.
            for point in &mut points {
                point.score = -point.score;
            }
            prop_assert!((area(&roc(&mut points)).unwrap() - (1.0 - found)).abs() < 1e-9);
        }

        #[test]
        fn curves_rise_to_one_and_thinning_keeps_close(
            rows in prop::collection::vec((0.0_f64..1.0, any::<bool>()), 2..800)
        ) {
            let mut points: Vec<Point> =
                rows.iter().map(|&(score, malicious)| Point { score, malicious, weight: 1.0 }).collect();
            let curve = roc(&mut points);
            prop_assume!(!curve.is_empty());
            prop_assert!(curve.is_sorted_by(|a, b| a.fpr <= b.fpr && a.tpr <= b.tpr && a.threshold > b.threshold));
            let last = curve.last().unwrap();
            prop_assert!((last.fpr - 1.0).abs() < 1e-9 && (last.tpr - 1.0).abs() < 1e-9);
            let thin = thinned(&curve);
            prop_assert!(thin.first() == curve.first() && thin.last() == curve.last());
            prop_assert!((area(&thin).unwrap() - area(&curve).unwrap()).abs() < 2.0 * STEP);
        }
    }
}
