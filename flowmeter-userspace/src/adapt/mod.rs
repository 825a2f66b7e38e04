//! What makes a sensor learn its network: the network's own flows and the library to one model with its thresholds.
//!
//! The network's flows ([`sample`]) are learned as benign, beside the [`library`]'s labelled flows of many networks. They are cut
//! by time into five parts, and each part is scored by a model that learned from the other four: what looks like an attack
//! even so is set [`aside`] and not learned, unless the operator's [`words`] say more. Then one model is fitted on the rest
//! (`trees`), its threshold is taken from the same scores, and `onnx` writes it. What is there all the time is taken for
//! normal.
//!
//! A network that has shown few flows has not shown what is rare there. So each of the five models also leaves out the benign
//! flows of a fifth of the library's networks, and scores them: what strangers look like. The threshold keeps the budget on the
//! network's own scores and on those together; the more flows a network has shown, the less do strangers count.

pub mod aside;
mod contract;
pub mod library;
mod onnx;
pub mod sample;
mod trees;
pub mod words;

use anyhow::{Result, ensure};

pub use self::contract::model_file;
use self::library::Library;
use self::sample::Own;
use self::trees::{Ensemble, Rows};
use self::words::OperatorWord;

/// Parts by time.
pub const PARTS: usize = 5;
/// Score from which a flow is set aside.
const ASIDE: f64 = 0.5;
/// Share of the benign weight that a large network's own flows have.
const OWN_SHARE: f64 = 0.5;
/// Flows of a network whose own flows have half of that share, and whose strangers count half.
const HALF_TAUGHT: f64 = 200.0;
/// Least flows to learn anything from.
pub const LEAST_FLOWS: usize = 20;
/// Flows whose weight is that of one group of attacks, for what the operator calls one.
const NAMED_SHARE: f64 = 0.1;
/// Largest share of the flows that can be set aside before the network is no place to learn from.
const MOST_ASIDE: f64 = 0.5;
/// Least threshold, however quiet the network is: what comes next is never quite like what was.
const LEAST_THRESHOLD: f64 = 0.2;
/// Flows that the scores of strangers count as, for a network that has shown nothing: one false alarm at a budget of 1 %.
/// They fade as its own flows are taught, see [`HALF_TAUGHT`].
const STRANGERS: f64 = 100.0;

/// What was learned.
pub struct Learned {
    trees: Ensemble,
    /// What they were fitted on.
    rows: Rows,
    /// Score from which a flow is malicious.
    pub malicious: f64,
    /// Score below which it is benign.
    pub benign: f64,
    /// For each flow, its score by a model that learned from the other parts.
    pub scores: Vec<f64>,
    /// For each flow, whether it was set aside.
    pub aside: Vec<bool>,
    /// Share of the flows, by what they stand for, that would have been called malicious at that threshold.
    pub expected: f64,
}

/// Learns the network whose flows are `own`, in the order of time; `rate` is the share of its flows that may be called
/// malicious.
///
/// # Errors
/// There are too few flows, most look like attacks, or the learner fails.
pub fn learn(own: &[Own], library: &Library, rate: f64) -> Result<Learned> {
    ensure!(
        own.len() >= LEAST_FLOWS,
        "the network shows {} flows with all inputs; {LEAST_FLOWS} are the least to learn from, and some thousand of a day are \
         better",
        own.len()
    );
    let (scores, strangers) = unseen(own, library)?;
    let aside: Vec<bool> = own
        .iter()
        .zip(&scores)
        .map(|(own, &score)| match own.seen.word {
            Some(word) => word == OperatorWord::Attack,
            None => score >= ASIDE,
        })
        .collect();
    let all: f64 = own.iter().map(|own| own.stands_for).sum();
    let left: f64 = own.iter().zip(&aside).filter(|(_, aside)| **aside).map(|(own, _)| own.stands_for).sum();
    if left / all > MOST_ASIDE {
        log::warn!(
            "{:.0} % of the flows look like attacks and were set aside; what is left may not be what the network is like",
            100.0 * left / all
        );
    }
    ensure!(
        aside.contains(&false),
        "all flows were set aside as attacks; nothing is left to learn as normal: name what is fine by --was-fine, or let it \
         see another day"
    );
    let rows = rows(own, library, |i| !aside[i], |_| true);
    let trees = Ensemble::fit(&rows)?;
    let kept: Vec<(f64, f64)> = own
        .iter()
        .zip(&scores)
        .zip(&aside)
        .filter(|(_, aside)| !**aside)
        .map(|((own, s), _)| (*s, own.stands_for))
        .collect();
    let malicious = threshold(&kept, &strangers, rate);
    let above: f64 = kept.iter().filter(|(score, _)| *score >= malicious).map(|(_, weight)| weight).sum();
    let expected = above / kept.iter().map(|(_, weight)| weight).sum::<f64>();
    let benign = LEAST_THRESHOLD.min(malicious);
    Ok(Learned { trees, rows, malicious, benign, scores, aside, expected })
}

/// A score, and the weight that it counts with.
type Weighted = (f64, f64);

/// The score of each of the network's flows by a model that learned from the other parts of the time, and that of the
/// library's benign rows, with their weight, by one that learned nothing of their network.
fn unseen(own: &[Own], library: &Library) -> Result<(Vec<f64>, Vec<Weighted>)> {
    let part = |i: usize| i * PARTS / own.len();
    let (mut scores, mut strangers) = (Vec::with_capacity(own.len()), Vec::new());
    for number in 0..PARTS {
        let stranger =
            |row: usize| !library.malicious[row] && library.networks[row] as usize % PARTS == number;
        let trees = Ensemble::fit(&rows(own, library, |i| part(i) != number, |row| !stranger(row)))?;
        let these = own.iter().enumerate().filter(|(i, _)| part(*i) == number);
        scores.extend(these.map(|(_, own)| trees.score(&own.row)));
        let left_out = library.rows().enumerate().filter(|(row, _)| stranger(*row));
        strangers.extend(left_out.map(|(row, values)| (trees.score(values), library.weights[row])));
        log::info!("part {} of {PARTS} is scored by what the others teach", number + 1);
    }
    Ok((scores, strangers))
}

/// The rows of the library that `keeps` names, those of the network's own flows that `learns` names, as benign, and all that
/// the operator called attacks.
fn rows(
    own: &[Own],
    library: &Library,
    learns: impl Fn(usize) -> bool,
    keeps: impl Fn(usize) -> bool,
) -> Rows {
    let mut rows = Rows::new(library.width());
    for (number, row) in library.rows().enumerate().filter(|(number, _)| keeps(*number)) {
        rows.push(row, library.malicious[number], library.weights[number]);
    }
    let is_attack = |own: &Own| own.seen.word == Some(OperatorWord::Attack);
    let learned = own.iter().enumerate().filter(|(i, own)| learns(*i) && !is_attack(own));
    let benign: Vec<&Own> = learned.map(|(_, own)| own).collect();
    let sum: f64 = benign.iter().map(|own| own.stands_for).sum();
    let share = OWN_SHARE * sum / (sum + HALF_TAUGHT);
    let weight = share / (1.0 - share) * library.weight(false) / sum;
    benign.iter().for_each(|own| rows.push(&own.row, false, weight * own.stands_for));
    let attacks: Vec<&Own> = own.iter().filter(|own| is_attack(own)).collect();
    let weight = NAMED_SHARE * library.weight(true) / attacks.len() as f64;
    attacks.iter().for_each(|own| rows.push(&own.row, true, weight));
    rows
}

/// The least threshold that keeps the budget on the network's own (score, weight) together with those of strangers.
fn threshold(own: &[Weighted], strangers: &[Weighted], rate: f64) -> f64 {
    let sum = |of: &[Weighted]| of.iter().map(|(_, weight)| weight).sum::<f64>();
    let count = STRANGERS * HALF_TAUGHT / (HALF_TAUGHT + sum(own));
    let scale = count / sum(strangers);
    let strange = strangers.iter().map(|&(score, weight)| (score, weight * scale));
    let mut all: Vec<Weighted> = own.iter().copied().chain(strange).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut above, room) = (0.0, rate * (sum(own) + count));
    for (score, weight) in all {
        above += weight;
        if above > room {
            return score.next_up().max(LEAST_THRESHOLD);
        }
    }
    LEAST_THRESHOLD
}

#[cfg(test)]
mod tests;
