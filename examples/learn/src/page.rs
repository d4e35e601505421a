//! A page of results: one HTML file that asks nothing of a network, light or dark as its reader's screen is.

use std::fmt::Write;

pub use crate::curve::escape;

const STYLE: &str = include_str!("page/page.css");

/// A page that grows from top to bottom.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
}

/// Appends formatted text; writing to a string can't fail.
macro_rules! put {
    ($page:expr, $($format:tt)*) => {{
        let _ = write!($page, $($format)*);
    }};
}

impl Page {
    /// A page with a title and what it is about.
    pub fn new(title: &str, lead: &str) -> Self {
        let body = format!("<h1>{}</h1>\n<p class=\"lead\">{}</p>\n", escape(title), escape(lead));
        Self { title: title.to_string(), body }
    }

    /// A row of numbers: name, number, note. The first is the page's own.
    pub fn facts(&mut self, facts: &[(&str, String, String)]) {
        put!(self.body, "<dl class=\"facts\">");
        for (at, (name, value, note)) in facts.iter().enumerate() {
            let class = if at == 0 { " class=\"first\"" } else { "" };
            let (name, value, note) = (escape(name), escape(value), escape(note));
            put!(self.body, "<div{class}><dt>{name}</dt><dd>{value}</dd><small>{note}</small></div>");
        }
        put!(self.body, "</dl>\n");
    }

    /// A heading with a word on what follows.
    pub fn section(&mut self, heading: &str, hint: &str) {
        put!(self.body, "<h2>{}</h2>\n<p class=\"hint\">{}</p>\n", escape(heading), escape(hint));
    }

    /// HTML as it is: a chart, [`heat_image`], [`lit_text`].
    pub fn html(&mut self, html: &str) {
        self.body.push_str(html);
        self.body.push('\n');
    }

    /// Pictures side by side, as many as fit: each its HTML, the text below it, which is HTML too, and whether to mark it as wrong.
    pub fn tiles(&mut self, tiles: &[(String, String, bool)]) {
        self.figures("tiles", tiles);
    }

    /// The same for texts, which take more room.
    pub fn texts(&mut self, texts: &[(String, String, bool)]) {
        self.figures("tiles texts", texts);
    }

    fn figures(&mut self, class: &str, tiles: &[(String, String, bool)]) {
        put!(self.body, "<div class=\"{class}\">");
        for (picture, caption, is_wrong) in tiles {
            let class = if *is_wrong { " class=\"wrong\"" } else { "" };
            put!(self.body, "<figure{class}>{picture}<figcaption>{caption}</figcaption></figure>\n");
        }
        put!(self.body, "</div>\n");
    }

    /// Pieces of HTML side by side where there is room.
    pub fn beside(&mut self, pieces: &[String]) {
        put!(self.body, "<div class=\"beside\">");
        pieces.iter().for_each(|piece| put!(self.body, "<div>{piece}</div>"));
        put!(self.body, "</div>\n");
    }

    /// Pieces of HTML of one width side by side, as many as fit.
    pub fn side_by_side(&mut self, pieces: &[String]) {
        put!(self.body, "<div class=\"even\">");
        pieces.iter().for_each(|piece| put!(self.body, "<div>{piece}</div>"));
        put!(self.body, "</div>\n");
    }

    /// The file.
    pub fn finish(self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }
}

/// A table of texts; the first of each row names it.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table><tr>");
    head.iter().for_each(|name| put!(html, "<th>{}</th>", escape(name)));
    for row in rows {
        put!(html, "</tr><tr>");
        for (at, cell) in row.iter().enumerate() {
            let kind = if at == 0 { "th" } else { "td" };
            put!(html, "<{kind}>{}</{kind}>", escape(cell));
        }
    }
    html + "</tr></table>"
}

/// A table of counts, a row an actual class, a column a predicted one, off-diagonal cells shaded by their share of the row.
pub fn confusion(classes: &[String], counts: &[Vec<usize>]) -> String {
    // Long names stand upright.
    let kind = if classes.iter().any(|class| class.chars().count() > 3) { " class=\"upright\"" } else { "" };
    let mut html = format!("<table{kind}><tr><th>is \\ read as</th>");
    classes.iter().for_each(|class| put!(html, "<th>{}</th>", escape(class)));
    put!(html, "</tr>");
    for (at, (class, row)) in classes.iter().zip(counts).enumerate() {
        put!(html, "<tr><th>{}</th>", escape(class));
        let sum = row.iter().sum::<usize>().max(1) as f64;
        for (column, count) in row.iter().enumerate() {
            match (*count, column == at) {
                (0, _) => put!(html, "<td></td>"),
                (count, true) => put!(html, "<td>{count}</td>"),
                (count, false) => {
                    let weight = 0.2 + 0.8 * count as f64 / sum;
                    put!(html, "<td class=\"shade\" style=\"--w:{weight:.2}\">{count}</td>");
                }
            }
        }
        put!(html, "</tr>");
    }
    html + "</table>"
}

/// Text in pieces, each lit by its weight in `[0, 1]`.
pub fn lit_text<'a>(pieces: impl IntoIterator<Item = (&'a str, f64)>) -> String {
    let mut html = String::from("<p class=\"lit\">");
    for (piece, weight) in pieces {
        let (weight, piece) = (unit(weight), escape(piece));
        put!(html, "<span style=\"--w:{weight:.3}\" title=\"{weight:.3}\">{piece}</span> ");
    }
    html + "</p>"
}

/// A square image, `side` × `side` pixels in `[0, 1]` row by row, 1 is ink; behind it, if given, a square grid of weights in
/// `[0, 1]` row by row.
pub fn heat_image(pixels: &[f32], side: usize, heat: Option<&[f64]>) -> String {
    let mut svg = format!("<svg class=\"picture\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\">");
    // On a lit image the ink is paler, so that the light shines through.
    let strength = if heat.is_some() { 0.72 } else { 1.0 };
    let heat = heat.unwrap_or_default();
    let cells = heat.len().isqrt().max(1);
    let size = side as f64 / cells as f64;
    for (at, weight) in heat.iter().map(|weight| unit(*weight)).enumerate().filter(|(_, weight)| *weight > 0.0) {
        let (x, y) = ((at % cells) as f64 * size, (at / cells) as f64 * size);
        put!(
            svg,
            "<rect class=\"heat\" x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" fill-opacity=\"{weight:.3}\"/>"
        );
    }
    for (at, &pixel) in pixels.iter().enumerate().filter(|(_, pixel)| **pixel > 0.02) {
        let (x, y, opacity) = (at % side.max(1), at / side.max(1), strength * unit(pixel.into()));
        put!(svg, "<rect class=\"ink\" x=\"{x}\" y=\"{y}\" width=\"1\" height=\"1\" fill-opacity=\"{opacity:.2}\"/>");
    }
    svg + "</svg>"
}

/// Between 0 and 1; 0 for what is no number.
fn unit(weight: f64) -> f64 {
    if weight.is_nan() { 0.0 } else { weight.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_everything_itself_and_nothing_unescaped() {
        let mut page = Page::new("A <title>", "about & about");
        page.facts(&[("accuracy", "98 %".into(), "of <359>".into())]);
        page.section("Part", "a \"hint\"");
        page.html(&lit_text([("<b>", 0.5), ("c", f64::NAN)]));
        page.tiles(&[(heat_image(&[0.0, 1.0, 0.5, 0.0], 2, Some(&[1.0])), "a <b>1</b>".into(), true)]);
        page.beside(&[confusion(&["a".into(), "b".into()], &[vec![3, 1], vec![0, 2]])]);
        page.texts(&[(lit_text([("word", 1.0)]), "read".into(), false)]);
        page.html(&table(&["of", "<n>"], &[vec!["x".into(), "1".into()], vec!["y".into(), "2 & 3".into()]]));
        page.side_by_side(&["left".into(), "right".into()]);
        let html = page.finish();
        assert!(html.contains("<div class=\"even\"><div>left</div><div>right</div></div>"), "{html}");
        assert!(html.contains("<tr><th>of</th><th>&lt;n&gt;</th></tr><tr><th>x</th><td>1</td></tr>"));
        assert!(
            html.contains("<td>2 &amp; 3</td></tr></table>") && html.contains("<div class=\"tiles texts\"><figure>")
        );
        for wanted in ["A &lt;title&gt;", "about &amp; about", "of &lt;359&gt;", "&lt;b&gt;", "--w:0.500", "--w:0.000"]
        {
            assert!(html.contains(wanted), "{wanted}: {html}");
        }
        assert_eq!(html.matches("class=\"ink\"").count(), 2);
        assert!(html.contains("style=\"--w:0.40\">1</td>"), "a quarter of the row");
        assert!(
            !html.contains("<table class") && confusion(&["long".into()], &[vec![1]]).contains("class=\"upright\"")
        );
        let body = &html[html.find("<body>").unwrap()..];
        assert!(!html.contains("http") && !html.contains("url(") && !body.contains("<script"), "it asks for nothing");
    }
}
