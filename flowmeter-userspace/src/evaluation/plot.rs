//! Line plots as SVG: axes, lines, marked points, and a title under the pointer for each point.

use std::fmt::Write as _;

/// Width and height of a plot, and its margins: left, right, top, bottom; in the SVG's own units.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 340.0;
const MARGINS: [f64; 4] = [56.0, 16.0, 14.0, 46.0];
/// Points of a line that say something under the pointer, at least this far from each other.
const HOVER_APART: f64 = 5.0;

/// An axis.
#[derive(Clone, Copy)]
pub struct Axis {
    /// What it is of.
    pub label: &'static str,
    /// Least and greatest value.
    pub from: f64,
    /// See `from`.
    pub to: f64,
    /// Steps of factors of ten; `from` must be above 0.
    pub logarithmic: bool,
}

impl Axis {
    /// 0 to 1, as per cent.
    pub const fn share(label: &'static str) -> Self {
        Self { label, from: 0.0, to: 1.0, logarithmic: false }
    }

    /// Where a value lies, from 0 to 1.
    fn place(self, value: f64) -> f64 {
        let value = value.clamp(self.from, self.to);
        if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        }
    }

    fn ticks(self) -> Vec<f64> {
        if !self.logarithmic {
            return (0..=5).map(|i| self.from + (self.to - self.from) * f64::from(i) / 5.0).collect();
        }
        let mut ticks = vec![self.from];
        while let Some(last) = ticks.last().filter(|last| **last * 9.99 < self.to) {
            ticks.push(last * 10.0);
        }
        ticks
    }
}

/// A line.
pub struct PlotLine {
    /// Name in the legend.
    pub name: String,
    /// Class of its colour: a, b, c or d.
    pub class: char,
    /// Points, with what they say under the pointer.
    pub points: Vec<(f64, f64, String)>,
    /// Drawn in steps: a value holds up to the next.
    pub steps: bool,
}

/// A point that stands out.
pub struct PlotMark {
    /// Where.
    pub at: (f64, f64),
    /// What it says.
    pub title: String,
}

/// Where values lie in a plot's own units.
#[derive(Clone, Copy)]
struct Canvas {
    x: Axis,
    y: Axis,
}

impl Canvas {
    const LEFT: f64 = MARGINS[0];
    const TOP: f64 = MARGINS[2];
    const INNER_WIDTH: f64 = WIDTH - MARGINS[0] - MARGINS[1];
    const INNER_HEIGHT: f64 = HEIGHT - MARGINS[2] - MARGINS[3];

    fn px(self, value: f64) -> f64 {
        Self::LEFT + self.x.place(value) * Self::INNER_WIDTH
    }

    fn py(self, value: f64) -> f64 {
        Self::TOP + (1.0 - self.y.place(value)) * Self::INNER_HEIGHT
    }

    fn axes(self, svg: &mut String) {
        let (left, top) = (Self::LEFT, Self::TOP);
        for tick in self.x.ticks() {
            let at = self.px(tick);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{at:.1} {top}V{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                top + Self::INNER_HEIGHT,
                top + Self::INNER_HEIGHT + 17.0,
                percent(tick)
            );
        }
        for tick in self.y.ticks() {
            let at = self.py(tick);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{left} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left + Self::INNER_WIDTH,
                left - 7.0,
                at + 4.0,
                percent(tick)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"label\" transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            left + Self::INNER_WIDTH / 2.0,
            HEIGHT - 8.0,
            escape(self.x.label),
            top + Self::INNER_HEIGHT / 2.0,
            escape(self.y.label)
        );
    }

    fn line(self, svg: &mut String, line: &PlotLine) {
        let mut path = String::new();
        for (i, (vx, vy, _)) in line.points.iter().enumerate() {
            let (at_x, at_y) = (self.px(*vx), self.py(*vy));
            let _ = match (i, line.steps) {
                (0, _) => write!(path, "M{at_x:.1} {at_y:.1}"),
                (_, true) => write!(path, "H{at_x:.1}V{at_y:.1}"),
                (_, false) => write!(path, "L{at_x:.1} {at_y:.1}"),
            };
        }
        let _ = write!(svg, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
    }

    /// Circles without colour over a line's points, which say something under the pointer.
    fn hover(self, svg: &mut String, line: &PlotLine) {
        let mut last = (f64::NEG_INFINITY, 0.0);
        for (vx, vy, title) in &line.points {
            let at = (self.px(*vx), self.py(*vy));
            // Not f64::hypot: its symbol in the C library is one of glibc 2.35, and all else needs 2.34 at most.
            let (apart_x, apart_y) = (at.0 - last.0, at.1 - last.1);
            if (apart_x * apart_x + apart_y * apart_y).sqrt() >= HOVER_APART {
                last = at;
                let _ = write!(
                    svg,
                    "<circle class=\"hover {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"7\"><title>{}</title></circle>",
                    line.class,
                    at.0,
                    at.1,
                    escape(title)
                );
            }
        }
    }
}

/// A plot as SVG, with its legend.
pub fn plot(title: &str, x: Axis, y: Axis, lines: &[PlotLine], marks: &[PlotMark]) -> String {
    let canvas = Canvas { x, y };
    let mut svg = String::new();
    // Writing to a String cannot fail, here and above.
    let _ =
        write!(svg, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(title));
    canvas.axes(&mut svg);
    for line in lines {
        canvas.line(&mut svg, line);
    }
    // After all lines, so that none lies over what answers to the pointer.
    for line in lines {
        canvas.hover(&mut svg, line);
    }
    for PlotMark { at, title } in marks {
        let _ = write!(
            svg,
            "<circle class=\"mark\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5.5\"><title>{}</title></circle>",
            canvas.px(at.0),
            canvas.py(at.1),
            escape(title)
        );
    }
    svg.push_str("</svg><p class=\"legend\">");
    for line in lines {
        let _ = write!(svg, "<span><i class=\"{}\"></i>{}</span> ", line.class, escape(&line.name));
    }
    if !marks.is_empty() {
        svg.push_str("<span><i class=\"mark\"></i>verdicts as given</span>");
    }
    svg.push_str("</p>");
    svg
}

/// A share as per cent, short.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value >= 1.0 || value == 0.0 { format!("{value:.0}%") } else { format!("{value}%") }
}

/// Text for HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}
