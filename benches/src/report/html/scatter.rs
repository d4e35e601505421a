//! The chart of a sweep: a dot a shape, work against lead over the faster peer, both on logarithmic axes.

use std::fmt::Write as _;

use super::{escape, put, significant};
use crate::report::sweep::{LOST, Sweep};
use crate::report::{Report, Row};

const WIDTH: f64 = 1040.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 54.0;
const BOTTOM: f64 = 40.0;
const MARGIN: f64 = 12.0;
/// Right of the axes, for half of the last label.
const RIGHT: f64 = 36.0;

/// Logarithmic axes over what the rows need.
struct Axes {
    /// From and to, decimal logarithms of GFLOP.
    work: [f64; 2],
    /// From and to, binary logarithms of the lead.
    lead: [f64; 2],
}

impl Axes {
    fn over(rows: &[&Row]) -> Self {
        let span = |numbers: &mut dyn Iterator<Item = f64>| {
            numbers.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], x| [low.min(x), high.max(x)])
        };
        let [low, high] = span(&mut rows.iter().map(|row| row.gflop.log10()));
        let [least, most] = span(&mut rows.iter().filter_map(|row| Some(row.lead()?.log2())));
        Self {
            work: [low.floor(), high.ceil().max(low.floor() + 1.0)],
            lead: [least.floor().min(-1.0), most.ceil().max(1.0)],
        }
    }

    fn x(&self, gflop: f64) -> f64 {
        let [from, to] = self.work;
        LEFT + (gflop.log10() - from) / (to - from) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, lead: f64) -> f64 {
        let [from, to] = self.lead;
        HEIGHT - BOTTOM - (lead.log2() - from) / (to - from) * (HEIGHT - BOTTOM - MARGIN)
    }
}

/// The chart and a sentence on what it shows.
pub fn scatter(page: &mut String, report: &Report) {
    let Some(sweep) = Sweep::of(report).filter(|sweep| !sweep.rows.is_empty()) else { return };
    let axes = Axes::over(&sweep.rows);
    put!(
        page,
        "<figure>\n<figcaption><b>times as fast as the faster peer</b> <span class=\"legend\">{}</span></figcaption>",
        ["f32", "bf16", "f16"].map(|name| format!("<span><i class=\"mark dot-{name}\"></i>{name}</span>")).concat()
    );
    put!(page, "<svg class=\"scatter\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"a dot a shape\">");
    grid(page, &axes);
    // The worst last, so that none hides behind another.
    for row in sweep.rows.iter().rev() {
        dot(page, &axes, row);
    }
    put!(page, "</svg>\n</figure>");
    let text = sweep.text();
    let said = text.lines().filter(|line| !line.starts_with("The worst")).collect::<Vec<_>>().join(". ");
    put!(page, "<p class=\"hint\">{}. Point at a dot for its shape.</p>", escape(&said));
}

fn grid(page: &mut String, axes: &Axes) {
    let [from, to] = axes.work;
    for power in from as i32..=to as i32 {
        let x = axes.x(10f64.powi(power));
        put!(page, "<line class=\"rule\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{MARGIN}\" y2=\"{:.1}\"/>", HEIGHT - BOTTOM);
        let (y, label) = (HEIGHT - BOTTOM + 18.0, work(power));
        put!(page, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>");
    }
    put!(
        page,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">useful work of a call</text>",
        WIDTH - RIGHT,
        HEIGHT - 4.0
    );
    let [from, to] = axes.lead;
    for power in from as i32..=to as i32 {
        let y = axes.y(2f64.powi(power));
        let class = if power == 0 { "rule even" } else { "rule" };
        put!(page, "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>", WIDTH - RIGHT);
        let label = if power < 0 { format!("1/{}", 1 << -power) } else { format!("{}", 1 << power) };
        put!(page, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}×</text>", LEFT - 8.0, y + 4.0);
    }
}

/// 10^`power` GFLOP in the unit that keeps the number short.
fn work(power: i32) -> String {
    let (unit, below) = match power {
        ..-6 => ("FLOP", 9),
        -6..-3 => ("kFLOP", 6),
        -3..0 => ("MFLOP", 3),
        _ => ("GFLOP", 0),
    };
    format!("{} {unit}", 10f64.powi(power + below))
}

fn dot(page: &mut String, axes: &Axes, row: &Row) {
    let Some(lead) = row.lead() else { return };
    let lost = if lead < LOST { " lost" } else { "" };
    put!(
        page,
        "<circle class=\"dot-{}{lost}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4.5\"><title>{} {} {}: {}× {}, {} ms</title></circle>",
        escape(&row.dtype),
        axes.x(row.gflop),
        axes.y(lead),
        escape(&row.sizes),
        escape(&row.dtype),
        escape(&row.options),
        significant(lead),
        escape(row.rival().unwrap_or("")),
        significant(row.ours_ms),
    );
}
