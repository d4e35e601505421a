//! A heat map of what attention reads: a row for each token that reads, a column for each that is read, the more read the stronger.

use std::fmt::Write;

use crate::page::escape;

/// Pixels of a cell's side.
const CELL: f64 = 17.0;
/// About as wide as a character of 12 pixels runs.
const CHARACTER: f64 = 7.2;

/// A heat map as one SVG; `weights` has a row for each of `readers` and in it a number in `[0, 1]` for each of `read`. `what` is said to
/// those who do not see it.
pub fn heat_map(what: &str, read: &[String], readers: &[String], weights: &[Vec<f64>]) -> String {
    let longest = |labels: &[String]| labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(1);
    // Pieces longer than a character stand upright above their columns.
    let is_upright = longest(read) > 1;
    let left = 10.0 + CHARACTER * longest(readers) as f64;
    let top = if is_upright { 10.0 + CHARACTER * longest(read) as f64 } else { 22.0 };
    let (width, height) = (left + CELL * read.len() as f64 + 1.0, top + CELL * readers.len() as f64 + 1.0);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" style=\"max-width:100%;height:auto;display:block;\
         font:12px ui-monospace,monospace\" fill=\"var(--ink)\" role=\"img\" aria-label=\"{}\">",
        escape(what)
    );
    // Writing to a string cannot fail.
    for (at, label) in read.iter().enumerate() {
        let (x, y) = (left + CELL * (at as f64 + 0.5), top - 6.0);
        let _ = match is_upright && label.chars().count() > 1 {
            true => {
                write!(svg, "<text transform=\"translate({:.1} {y}) rotate(-90)\">{}</text>", x + 4.0, escape(label))
            }
            false => write!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(label)),
        };
    }
    for (row, (label, weights)) in readers.iter().zip(weights).enumerate() {
        let y = top + CELL * row as f64;
        let (x, middle) = (left - 6.0, y + CELL / 2.0 + 4.0);
        let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>", escape(label));
        for (column, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight >= 0.005) {
            let (x, weight) = (left + CELL * column as f64, weight.clamp(0.0, 1.0));
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"var(--accent)\" \
                 fill-opacity=\"{weight:.2}\"><title>{weight:.2}</title></rect>"
            );
        }
    }
    let (right, bottom) = (width - 1.0, height - 1.0);
    let _ = write!(
        svg,
        "<path d=\"M{left:.1} {top:.1}H{right:.1}V{bottom:.1}H{left:.1}Z\" fill=\"none\" stroke=\"var(--line)\"/>"
    );
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_where_row_and_column_meet() {
        let labels = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let svg = heat_map("<x>", &labels("ab<"), &labels("xy"), &[vec![0.0, 1.0, 0.0], vec![0.25, 0.0, 0.75]]);
        assert_eq!((svg.matches("<rect").count(), svg.matches("<text").count()), (3, 5));
        assert!(svg.contains("aria-label=\"&lt;x&gt;\"") && svg.contains(">&lt;</text>"));
        // 10 + a character to the left, 22 above.
        assert!(svg.contains("<rect x=\"34.2\" y=\"22.0\"") && svg.contains("<rect x=\"17.2\" y=\"39.0\""), "{svg}");
        let upright = heat_map("x", &["pass".into(), "word".into()], &labels("x"), &[vec![0.5, 0.5]]);
        assert_eq!(upright.matches("rotate(-90)").count(), 2);
    }
}
