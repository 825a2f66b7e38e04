//! The report as one page that needs nothing else: plots are SVG, colours follow the reader's light or dark setting.

use std::fmt::Write as _;

use super::curves;
use super::plot::{Axis, PlotLine, PlotMark, escape, plot};
use super::report::{BARS, EvaluationReport, GroupReport};
use super::text::{Share, percent};

const STYLE: &str = include_str!("report.css");
/// Least false positive rate on the logarithmic axis.
const LEAST: f64 = 1e-4;

/// The page.
pub fn page(report: &EvaluationReport) -> String {
    let mut page = String::new();
    let model = report.model.as_deref().unwrap_or("an unnamed model");
    let malicious: usize = report.groups.iter().filter(|g| g.malicious).map(|g| g.flows).sum();
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Verdicts of {model}</title><style>{STYLE}</style><main><h1>Verdicts of {model}</h1>\
         <p class=\"soft\">{} labelled flows, {malicious} of them malicious, in {} groups. Figures are means over groups (source and \
         category), so that no flood of one tool decides them.</p>",
        report.flows,
        report.groups.len(),
        model = escape(model),
    );
    figures(&mut page, report);
    page.push_str("<div class=\"plots\">");
    curves_of(&mut page, report);
    limits(&mut page, report);
    page.push_str("</div>");
    groups(&mut page, &report.groups);
    left_out(&mut page, report);
    page.push_str("</main></html>\n");
    page
}

fn figures(page: &mut String, report: &EvaluationReport) {
    let base = format!("precision, if {} of flows are malicious", percent(report.base_rate));
    let mut shown: Vec<(&str, Option<f64>)> = vec![
        ("malicious flows called malicious (TPR)", report.macro_means.tpr),
        ("benign flows called malicious (FPR)", report.macro_means.fpr),
        (&base, report.macro_means.precision),
        ("area under the ROC curve", report.roc_auc),
        ("malicious flows called benign", report.macro_means.missed),
    ];
    if let Some(spared) = &report.spared {
        shown.push(("benign bytes that need no deeper look", Some(spared.as_judged.bytes)));
    }
    page.push_str("<div class=\"figures\">");
    for (name, share) in shown {
        let _ = write!(page, "<div><b>{}</b><span>{}</span></div>", Share(share), escape(name));
    }
    page.push_str("</div>");
}

fn card(page: &mut String, title: &str, what: &str, plot: &str) {
    let _ = write!(
        page,
        "<div class=\"card\"><h2>{}</h2><p class=\"soft\">{}</p>{plot}</div>",
        escape(title),
        escape(what)
    );
}

fn curves_of(page: &mut String, report: &EvaluationReport) {
    if !report.roc.is_empty() {
        roc(page, report);
        precision_and_recall(page, report);
    }
    traffic_reduction(page, report);
    histograms(page, report);
}

fn line(name: &str, class: char, points: Vec<(f64, f64, String)>, steps: bool) -> PlotLine {
    PlotLine { name: name.to_owned(), class, points, steps }
}

/// A point of a curve, in words.
fn said(p: &curves::Operating) -> String {
    let from =
        if p.threshold.is_finite() { format!("from score {:.4}", p.threshold) } else { "none".to_owned() };
    format!("{from}: TPR {:.4}, FPR {:.5}", p.tpr, p.fpr)
}

/// The verdicts as given, where `of` puts their TPR and FPR.
fn as_given(report: &EvaluationReport, of: impl Fn(f64, f64) -> Option<(f64, f64)>) -> Vec<PlotMark> {
    let mark = report.macro_means.tpr.zip(report.macro_means.fpr).and_then(|(tpr, fpr)| {
        Some(PlotMark { at: of(tpr, fpr)?, title: format!("verdicts as given: TPR {tpr:.3}, FPR {fpr:.4}") })
    });
    mark.into_iter().collect()
}

fn roc(page: &mut String, report: &EvaluationReport) {
    let points: Vec<_> = report.roc.iter().map(|p| (p.fpr, p.tpr, said(p))).collect();
    let marks = as_given(report, |tpr, fpr| Some((fpr, tpr)));
    let chance = vec![(0.0, 0.0, "no better than chance".to_owned()), (1.0, 1.0, String::new())];
    let lines = [line("chance", 'e', chance, false), line("by score", 'a', points.clone(), false)];
    let x = Axis::share("benign flows called malicious (FPR)");
    let y = Axis::share("malicious flows found (TPR)");
    let area = Share(report.roc_auc);
    card(
        page,
        "ROC curve",
        &format!(
            "Each threshold of the score; the area below is {area}. Flows unlike the training are unknown whatever their score, so that the verdicts may lie below the curve."
        ),
        &plot("ROC curve", x, y, &lines, &marks),
    );
    let x = Axis { from: LEAST, logarithmic: true, ..x };
    card(
        page,
        "The left edge, which decides",
        "The same by factors of ten: at a million flows a day, an FPR of 0.1% is a thousand false alarms.",
        &plot("ROC curve, logarithmic", x, y, &[line("by score", 'a', points, false)], &marks),
    );
}

fn precision_and_recall(page: &mut String, report: &EvaluationReport) {
    let precision = |tpr, fpr| curves::precision(tpr, fpr, report.base_rate);
    let points = report.roc.iter().filter_map(|p| {
        let precision = precision(p.tpr, p.fpr)?;
        Some((p.tpr, precision, format!("{}, precision {precision:.4}", said(p))))
    });
    let least = 10_f64.powf(report.base_rate.log10().floor());
    card(
        page,
        "Precision and recall",
        &format!(
            "Of what is called malicious, how much is, where {} of flows are malicious, by factors of ten; the area is {}.",
            percent(report.base_rate),
            Share(report.average_precision)
        ),
        &plot(
            "Precision and recall",
            Axis::share("malicious flows found (recall, TPR)"),
            Axis { from: least, logarithmic: true, ..Axis::share("precision") },
            &[line("by score", 'a', points.collect(), false)],
            &as_given(report, |tpr, fpr| Some((tpr, precision(tpr, fpr)?))),
        ),
    );
}

fn traffic_reduction(page: &mut String, report: &EvaluationReport) {
    let Some(spared) = &report.spared else { return };
    let of = |name: &str, class, value: fn(&curves::Reduction) -> f64| {
        let points = spared.curve.iter().map(|r| {
            let said = format!(
                "below score {:.4}: {:.3} of benign {name} spared, {:.4} of malicious flows missed",
                r.threshold,
                value(r),
                r.missed
            );
            (r.missed, value(r), said)
        });
        line(name, class, points.collect(), true)
    };
    let lines =
        [of("flows", 'd', |r| r.flows), of("packets", 'a', |r| r.packets), of("bytes", 'b', |r| r.bytes)];
    let judged = spared.as_judged;
    let marks = [PlotMark {
        at: (judged.missed, judged.bytes),
        title: format!(
            "verdicts as given: {:.3} of benign bytes spared, {:.4} of malicious flows missed",
            judged.bytes, judged.missed
        ),
    }];
    let counted = match spared.by_checkpoints {
        true => {
            "Of each flow counts what came after a verdict while it lived; it is missed as soon as one of its packets is spared."
        }
        false => "Flows count whole.",
    };
    card(
        page,
        "Traffic reduction",
        &format!(
            "What benign traffic need not go on to a deeper look, against the malicious flows that it would not see, over the \
             benign threshold. {counted}"
        ),
        &plot(
            "Traffic reduction",
            Axis::share("malicious flows missed"),
            Axis::share("benign traffic spared"),
            &lines,
            &marks,
        ),
    );
}

fn histograms(page: &mut String, report: &EvaluationReport) {
    let bars = |name: &str, class, bars: &[f64]| {
        let step = |i: usize| i as f64 / BARS as f64;
        let mut points: Vec<_> = (0..bars.len())
            .map(|i| {
                let (share, from, to) = (bars[i] * 100.0, step(i), step(i + 1));
                (from, bars[i], format!("{share:.1} % of {name} flows score {from:.3} to {to:.3}"))
            })
            .collect();
        points.push((1.0, bars.last().copied().unwrap_or(0.0), String::new()));
        line(name, class, points, true)
    };
    let histogram = &report.histogram;
    let lines = [bars("benign", 'b', &histogram.benign), bars("malicious", 'c', &histogram.malicious)];
    let most = histogram.benign.iter().chain(&histogram.malicious).fold(0.05_f64, |a, b| a.max(*b));
    let y = Axis { to: (most * 20.0).ceil() / 20.0, ..Axis::share("share of flows") };
    card(
        page,
        "Scores",
        "How the scores of both kinds are spread.",
        &plot("Scores", Axis::share("score: probability of malicious"), y, &lines, &[]),
    );
}

fn limits(page: &mut String, report: &EvaluationReport) {
    if report.at_fpr.is_empty() {
        return;
    }
    page.push_str(
        "<div class=\"card\"><h2>What thresholds could do</h2><p class=\"soft\">Chosen on these very scores: an upper bound, for \
         reading only.</p><table><tr><th>false positives at most<th class=\"n\">TPR<th class=\"n\">from score<th class=\"n\">precision</tr>",
    );
    for at in &report.at_fpr {
        let _ = write!(
            page,
            "<tr><td>{}<td class=\"n\">{:.3}<td class=\"n\">{:.4}<td class=\"n\">{}</tr>",
            percent(at.fpr),
            at.tpr,
            at.threshold,
            Share(at.precision)
        );
    }
    page.push_str("</table></div>");
}

fn groups(page: &mut String, groups: &[GroupReport]) {
    page.push_str(
        "<section class=\"card\"><h2>By source and category</h2><p class=\"legend\"><span><i class=\"c\"></i>called malicious</span>\
         <span><i class=\"e\"></i>unknown</span><span><i class=\"b\"></i>called benign</span></p><table><tr><th>source<th>category<th>truth\
         <th class=\"n\">flows<th class=\"n\">malicious<th class=\"n\">benign<th></tr>",
    );
    for g in groups {
        let (class, truth) = if g.malicious { ("is-m", "malicious") } else { ("is-b", "benign") };
        let (low, high) = g.flagged_interval;
        let _ = write!(
            page,
            "<tr title=\"called malicious {:.3} (95 %: {low:.3} to {high:.3}), unknown {:.3}, benign {:.3}; benign bytes {:.3}\"><td>{}<td>{}\
             <td class=\"{class}\">{truth}<td class=\"n\">{}<td class=\"n\">{:.3}<td class=\"n\">{:.3}<td><span class=\"bar\">\
             <i class=\"m\" style=\"width:{:.1}%\"></i><i class=\"u\" style=\"width:{:.1}%\"></i><i class=\"b\" style=\"width:{:.1}%\"></i></span></tr>",
            g.flagged,
            g.unknown,
            g.cleared,
            g.cleared_bytes,
            escape(&g.source),
            escape(&g.category),
            g.flows,
            g.flagged,
            g.cleared,
            g.flagged * 100.0,
            g.unknown * 100.0,
            g.cleared * 100.0
        );
    }
    page.push_str("</table></section>");
}

fn left_out(page: &mut String, report: &EvaluationReport) {
    let list: Vec<String> =
        report.left_out.list().iter().map(|(reason, number)| format!("{number} {reason}")).collect();
    if !list.is_empty() {
        let _ = write!(page, "<p class=\"soft\">Left out: {}.</p>", escape(&list.join("; ")));
    }
}
