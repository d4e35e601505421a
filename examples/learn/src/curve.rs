//! Lines over steps or time as one SVG, by itself or in a page; light or dark as its reader's screen is.

use std::fmt::Write;

/// Pixels of the picture.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// What is left around the lines.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 42.0;

const STYLE: &str = ".chart{--ink:#22201c;--soft:#6d675d;--line:#e4dfd4;--back:#fffefb;--s0:#c2480c;--s1:#3b6ea5;--s2:#4d8a3d;--s3:#8a6fb0}\
@media(prefers-color-scheme:dark){.chart{--ink:#e8e6e1;--soft:#9b9a96;--line:#2b2f37;--back:#191c22;--s0:#ff9a52;--s1:#6ea3dc;--s2:#82bf70;--s3:#b79de0}}\
.chart{font:12px system-ui,sans-serif;max-width:100%;height:auto}.chart text{fill:var(--soft)}.chart .title{fill:var(--ink);font-weight:600;font-size:13px}\
.chart .back{fill:var(--back)}.chart .grid{stroke:var(--line);fill:none}.chart .series{fill:none;stroke-width:1.8;stroke-linejoin:round}\
.chart .faint{stroke-width:1;stroke-opacity:.35}.chart .s0{stroke:var(--s0)}.chart .s1{stroke:var(--s1)}.chart .s2{stroke:var(--s2)}.chart .s3{stroke:var(--s3)}";

/// A line: points `(x, y)` in the order in which they are joined.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is, for the legend; none for an empty name.
    pub name: String,
    /// Its points. Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Which colour, from 0 to 3.
    pub colour: usize,
    /// Thin and pale: what another line is the mean of.
    pub is_faint: bool,
}

/// The most points of a line that is drawn for each step: more than there are pixels would be a band.
const POINTS: usize = 1500;

/// The loss of every step, or of as many as there is room for, and its mean over a fortieth of them.
pub fn of_losses(losses: &[f32]) -> String {
    let window = losses.len().div_ceil(40).max(1);
    let mean_at = |at: usize| {
        let part = &losses[at.saturating_sub(window / 2)..(at + window.div_ceil(2)).min(losses.len())];
        f64::from(part.iter().sum::<f32>()) / part.len() as f64
    };
    let every = losses.len().div_ceil(POINTS).max(1);
    let points = |value: &dyn Fn(usize) -> f64| {
        let drawn = (0..losses.len()).filter(|at| at.is_multiple_of(every) || at + 1 == losses.len());
        drawn.map(|at| ((at + 1) as f64, value(at))).collect::<Vec<_>>()
    };
    let name = if every == 1 { "each step".into() } else { format!("one step in {every}") };
    let each = Series { name, points: points(&|at| losses[at].into()), colour: 0, is_faint: true };
    let mean = Series { name: format!("mean of {window}"), points: points(&mean_at), colour: 0, is_faint: false };
    svg("The loss while learning", "step", &[each, mean], Some(0.0))
}

/// A chart of some lines. `least`: a value that the y axis shows in any case.
pub fn svg(title: &str, x_name: &str, series: &[Series], least: Option<f64>) -> String {
    let all = || series.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let (x_from, x_to) = range(all().map(|(x, _)| *x));
    let (y_from, y_to) = range(all().map(|(_, y)| *y).chain(least));
    let across = |x: f64| LEFT + (x - x_from) / (x_to - x_from) * (WIDTH - LEFT - RIGHT);
    let up = |y: f64| HEIGHT - BOTTOM - (y - y_from) / (y_to - y_from) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" \
         aria-label=\"{0}\"><style>{STYLE}</style><rect class=\"back\" width=\"100%\" height=\"100%\" rx=\"10\"/>\
         <text class=\"title\" x=\"{LEFT}\" y=\"22\">{0}</text>",
        escape(title)
    );
    // Writing to a string cannot fail.
    for tick in ticks(y_from, y_to) {
        let (y, right) = (up(tick), WIDTH - RIGHT);
        let _ = write!(out, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
        let _ =
            write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, y + 4.0, shown(tick));
    }
    for tick in ticks(x_from, x_to) {
        let (x, y) = (across(tick), HEIGHT - BOTTOM + 18.0);
        // A long number at the right end would be cut.
        let anchor = if x > WIDTH - RIGHT - 10.0 { "end" } else { "middle" };
        let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>", shown(tick));
    }
    let (x, y) = (WIDTH - RIGHT, HEIGHT - 7.0);
    let _ = write!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{}</text>", escape(x_name));
    for line in series {
        let _ = write!(out, "<path class=\"{}\" d=\"{}\"/>", class(line), path(&line.points, across, up));
    }
    legend(&mut out, series);
    out + "</svg>"
}

fn class(line: &Series) -> String {
    format!("series s{}{}", line.colour % 4, if line.is_faint { " faint" } else { "" })
}

/// Points as a path; a gap where a point is not finite.
fn path(points: &[(f64, f64)], across: impl Fn(f64) -> f64, up: impl Fn(f64) -> f64) -> String {
    let (mut path, mut is_drawn) = (String::new(), false);
    for (x, y) in points {
        let is_finite = x.is_finite() && y.is_finite();
        if is_finite {
            let _ = write!(path, "{}{:.1} {:.1}", if is_drawn { 'L' } else { 'M' }, across(*x), up(*y));
        }
        is_drawn = is_finite;
    }
    path
}

/// Marks and names at the top right, the last series outermost.
fn legend(out: &mut String, series: &[Series]) {
    let mut right = WIDTH - RIGHT;
    for line in series.iter().rev().filter(|line| !line.name.is_empty()) {
        let _ = write!(out, "<text x=\"{right}\" y=\"22\" text-anchor=\"end\">{}</text>", escape(&line.name));
        // About as wide as a sans-serif of 12 pixels runs.
        right -= line.name.chars().count() as f64 * 6.6 + 6.0;
        let _ = write!(out, "<path class=\"{}\" d=\"M{:.1} 18H{right:.1}\"/>", class(line), right - 18.0);
        right -= 32.0;
    }
}

/// Least and greatest; a unit apart where they would be one.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (from, to) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), x| (from.min(x), to.max(x)));
    match (from.is_finite(), from < to) {
        (false, _) => (0.0, 1.0),
        (true, false) => (from - 0.5, from + 0.5),
        (true, true) => (from, to),
    }
}

/// About five round numbers of the range: multiples of 1, 2 or 5 times a power of ten.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let power = 10f64.powf(((to - from) / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| (to - from) / step <= 6.0);
    let step = step.unwrap_or(to - from);
    let first = (from / step).ceil() as i64;
    (first..).map(|number| number as f64 * step).take_while(|tick| *tick <= to + step * 1e-9).take(20).collect()
}

/// A number without the digits that come of computing it.
fn shown(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Text safe inside an element or a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(0.0, 2.31), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(ticks(1.0, 900.0), [200.0, 400.0, 600.0, 800.0]);
        assert_eq!(ticks(-0.5, 0.5).into_iter().map(shown).collect::<Vec<_>>(), ["-0.4", "-0.2", "0", "0.2", "0.4"]);
    }

    #[test]
    fn a_chart_has_a_path_for_each_line_and_stays_in_its_frame() {
        let losses: Vec<f32> = (0..100).map(|step| 2.0 / (1.0 + step as f32)).collect();
        let svg = of_losses(&losses);
        assert_eq!(svg.matches("<path class=\"series s0").count(), 4, "two lines and their marks");
        let line = svg.split("<path class=\"series s0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        let points: Vec<f64> = line.split(['M', 'L', ' ']).filter_map(|number| number.parse().ok()).collect();
        assert_eq!(points.len(), 200);
        for point in points.chunks(2) {
            assert!(
                (LEFT..=WIDTH - RIGHT).contains(&point[0]) && (TOP..=HEIGHT - BOTTOM).contains(&point[1]),
                "{point:?}"
            );
        }
    }

    #[test]
    fn many_steps_are_thinned_and_their_last_number_is_whole() {
        let svg = of_losses(&vec![1.0; 12000]);
        assert!(svg.contains("one step in 8") && svg.contains("text-anchor=\"end\">12000</text>"));
        assert!(svg.split("<path class=\"series").all(|path| path.matches('L').count() <= POINTS));
    }

    #[test]
    fn odd_data_still_make_a_chart() {
        for losses in [&[][..], &[1.0], &[f32::NAN, 1.0, f32::INFINITY, 2.0]] {
            let svg = of_losses(losses);
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(super::svg("<&>", "\"", &[], None).contains("&lt;&amp;&gt;"));
    }
}
