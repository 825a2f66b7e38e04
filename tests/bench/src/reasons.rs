//! `bench reasons`: how far the reasons of a verdict agree with Shapley's values, which are slow and exact.
//!
//! Shapley's value of an input is what it adds to the score, in log-odds, in the mean over all orders in which a flow's values
//! can take the place of the median benign flow's. The mean over some orders and their reverses comes as near as one likes;
//! how near shows the difference between two halves of them.

use anyhow::{Result, ensure};
use clap::Args;
use flowmeter::model::{Model, Verdict, log_odds};

use flowmeter_bench::flows;

/// Arguments of `bench reasons`.
#[derive(Args)]
pub struct Options {
    /// Malicious flows that are explained both ways.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    flows: usize,
    /// Orders of the inputs for each, and as many reverses.
    #[arg(long, value_name = "N", default_value_t = 40)]
    orders: usize,
    #[command(flatten)]
    what: flows::Options,
}

/// Reasons that the log gives.
const REASONS: usize = 3;
/// Flows among which malicious ones are looked for, for each that is wanted.
const LOOKED_AT: usize = 20;

/// Compares, and prints.
///
/// # Errors
/// The model names no medians, it calls too few flows malicious, or fails.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.orders >= 2, "the error is the difference of two halves: --orders 2 or more");
    let mut scorer = options.what.scorer()?;
    let records = options.what.flows(options.flows * LOOKED_AT, scorer.feature_set())?;
    let rows = scorer.finish(&records, None).to_vec();
    let name = scorer.name().to_owned();
    let model = scorer.model();
    let width = model.inputs().len();
    ensure!(model.medians().is_some(), "{name} names no medians, so it gives no reasons");
    let malicious = malicious(model, &rows, options.flows)?;
    println!(
        "{name}: {} malicious flows, each with {} orders of its inputs",
        malicious.len(),
        options.orders * 2
    );

    let mut random = fastrand::Rng::with_seed(7);
    let [mut given, mut alone, mut exact, mut one_half, mut other_half] = [const { Vec::new() }; 5];
    let mut error = 0.0;
    for row in malicious {
        given.push(model.effects(row)?);
        alone.push(removals(model, row)?);
        let one = shapley(model, row, options.orders / 2, &mut random)?;
        let other = shapley(model, row, options.orders - options.orders / 2, &mut random)?;
        let mean: Vec<f64> = one.iter().zip(&other).map(|(a, b)| f64::midpoint(*a, *b)).collect();
        let largest = mean.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        error +=
            one.iter().zip(&other).map(|(a, b)| (a - b).abs() / 2.0).sum::<f64>() / width as f64 / largest;
        one_half.push(one);
        other_half.push(other);
        exact.push(mean);
    }
    let count = exact.len() as f64;
    println!("mean error of an exact value, as a share of the flow's largest: {:.4}\n", error / count);
    println!("{:<44} {:>10} {:>8} {:>10}", "agreement with the exact values", "three", "first", "Spearman");
    for (what, found, truth) in [
        ("the reasons of the log", &given, &exact),
        ("each input removed, and nothing else", &alone, &exact),
        ("one half of the orders with the other", &one_half, &other_half),
    ] {
        let mean = |measure: fn(&[f64], &[f64]) -> f64| {
            found.iter().zip(truth).map(|(a, b)| measure(a, b)).sum::<f64>() / count
        };
        println!("{what:<44} {:>10.3} {:>8.3} {:>10.3}", mean(overlap), mean(same_first), mean(spearman));
    }
    Ok(())
}

/// Up to `most` rows that are called malicious, no two alike.
fn malicious<'a>(model: &mut Model, rows: &'a [f32], most: usize) -> Result<Vec<&'a [f32]>> {
    let width = model.inputs().len();
    let mut scores = Vec::new();
    model.score(rows, &mut scores)?;
    let mut found: Vec<&[f32]> = rows
        .chunks_exact(width)
        .zip(&scores)
        .filter(|(row, score)| model.verdict(f64::from(**score), row) == Verdict::Malicious)
        .map(|(row, _)| row)
        .collect();
    // What equals one already there would count twice.
    let mut seen = std::collections::HashSet::new();
    found.retain(|row| seen.insert(row.iter().map(|value| value.to_bits()).collect::<Vec<_>>()));
    ensure!(
        found.len() >= most,
        "only {} different malicious flows of {most}: give more captures",
        found.len()
    );
    found.truncate(most);
    Ok(found)
}

/// Shapley's values of a row against the median benign flow, over so many orders and their reverses.
fn shapley(model: &mut Model, row: &[f32], orders: usize, random: &mut fastrand::Rng) -> Result<Vec<f64>> {
    let medians = model.medians().unwrap_or_default().to_vec();
    let mut inputs: Vec<usize> = (0..row.len()).filter(|&i| row[i] != medians[i]).collect();
    let mut values = vec![0.0; row.len()];
    let (mut rows, mut scores) = (Vec::new(), Vec::new());
    for _ in 0..orders {
        random.shuffle(&mut inputs);
        for _ in 0..2 {
            inputs.reverse();
            let mut mixed = medians.clone();
            rows.clear();
            rows.extend_from_slice(&mixed);
            for &input in &inputs {
                mixed[input] = row[input];
                rows.extend_from_slice(&mixed);
            }
            scores.clear();
            model.score(&rows, &mut scores)?;
            for (step, &input) in inputs.iter().enumerate() {
                values[input] += log_odds(scores[step + 1]) - log_odds(scores[step]);
            }
        }
    }
    values.iter_mut().for_each(|value| *value /= 2.0 * orders as f64);
    Ok(values)
}

/// What the score falls by when an input alone is given the median's value.
fn removals(model: &mut Model, row: &[f32]) -> Result<Vec<f64>> {
    let medians = model.medians().unwrap_or_default().to_vec();
    let mut rows = row.to_vec();
    for (input, median) in medians.iter().enumerate() {
        let start = rows.len();
        rows.extend_from_slice(row);
        rows[start + input] = *median;
    }
    let mut scores = Vec::new();
    model.score(&rows, &mut scores)?;
    Ok(scores[1..].iter().map(|score| log_odds(scores[0]) - log_odds(*score)).collect())
}

/// The inputs that moved the score up most.
fn first(values: &[f64], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).filter(|&i| values[i] > 0.0).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(most);
    order
}

/// Share of the three inputs that matter most that are among the three given.
fn overlap(given: &[f64], exact: &[f64]) -> f64 {
    let (given, exact) = (first(given, REASONS), first(exact, REASONS));
    given.iter().filter(|input| exact.contains(input)).count() as f64 / exact.len().max(1) as f64
}

/// 1 if the input that matters most is given first.
fn same_first(given: &[f64], exact: &[f64]) -> f64 {
    f64::from(u8::from(first(given, 1) == first(exact, 1)))
}

/// Rank correlation over the inputs that either knows of; equal values share their mean rank.
fn spearman(given: &[f64], exact: &[f64]) -> f64 {
    let known: Vec<usize> = (0..given.len()).filter(|&i| given[i] != 0.0 || exact[i] != 0.0).collect();
    let ranks = |values: &[f64]| -> Vec<f64> {
        let rank = |&i: &usize| {
            let below = known.iter().filter(|&&j| values[j] < values[i]).count();
            let equal = known.iter().filter(|&&j| values[j] == values[i]).count();
            below as f64 + (equal - 1) as f64 / 2.0
        };
        known.iter().map(rank).collect()
    };
    let (a, b) = (ranks(given), ranks(exact));
    let mean = (known.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    if scale == 0.0 { 1.0 } else { product(&a, &b) / scale }
}
