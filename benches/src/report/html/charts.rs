//! The charts: for each suite and type, bars of ours and the peers for every shape.

use super::{escape, is_home, percent, put, scatter, significant, unit_for};
use crate::report::{Report, Row};
use crate::shapes::Suite;
use std::fmt::Write as _;

/// A bar.
struct Bar {
    name: String,
    /// The colour's name in the style sheet.
    class: String,
    speed: f64,
    /// A peer that is faster than ours.
    slow: bool,
    /// What stands behind the bar.
    note: String,
}

/// All charts, suite by suite.
pub fn charts(page: &mut String, report: &Report) {
    for suite in Suite::ALL {
        let rows: Vec<&Row> = report.rows.iter().filter(|r| r.suite == suite.name()).collect();
        if rows.is_empty() {
            continue;
        }
        put!(page, "<section>\n<h2>{}</h2>", title(suite));
        if suite == Suite::Sweep {
            scatter::scatter(page, report);
            put!(page, "</section>");
            continue;
        }
        for dtype in ["f32", "bf16", "f16"] {
            let rows: Vec<&Row> = rows.iter().copied().filter(|r| r.dtype == dtype).collect();
            if !rows.is_empty() {
                chart(page, report, suite, dtype, &rows);
            }
        }
        put!(page, "</section>");
    }
}

fn title(suite: Suite) -> &'static str {
    match suite {
        Suite::Prefill => "Prefill: many queries at once",
        Suite::Decode => "Decode: one token against a cache",
        Suite::Train => "Train: forward and backward",
        Suite::Sweep => "Sweep: random shapes with all options",
    }
}

fn chart(page: &mut String, report: &Report, suite: Suite, dtype: &str, rows: &[&Row]) {
    let peak = common_peak(report, rows);
    let groups = by_shape(rows);
    let bars: Vec<Vec<Bar>> = groups.iter().map(|g| bars(report, g)).collect();
    let fastest = bars.iter().flatten().map(|b| b.speed).fold(peak.unwrap_or(0.0), f64::max);
    let (unit, divisor) = unit_for(suite.unit(), fastest);
    let line = peak.map_or(String::new(), |peak| {
        let peak = significant(peak / divisor);
        format!("<span><i class=\"line\"></i>the machine's peak, {peak} {unit}</span>")
    });
    put!(
        page,
        "<figure>\n<figcaption><b>{dtype}</b> {} <span class=\"legend\">{}{line}</span></figcaption>",
        unit,
        legend(&bars),
    );
    let (lined, at) = peak.map_or(("", 0.0), |peak| (" lined", 100.0 * peak / fastest));
    for (group, bars) in groups.iter().zip(&bars) {
        let row = group[0];
        put!(
            page,
            "<div class=\"shape\"><div class=\"name\">{} <em>{}</em></div><div class=\"bars{lined}\" style=\"--peak:{at:.2}%\">",
            escape(&row.sizes),
            escape(&row.options)
        );
        for bar in bars {
            put!(
                page,
                "<div class=\"bar {}{}\" title=\"{}\"><i style=\"width:{:.2}%\"></i><span><b>{}</b> {}</span></div>",
                bar.class,
                if bar.slow { " slow" } else { "" },
                escape(&bar.name),
                100.0 * bar.speed / fastest,
                significant(bar.speed / divisor),
                escape(&bar.note)
            );
        }
        put!(page, "</div></div>");
    }
    put!(page, "</figure>");
}

/// The peak of all rows; none where they have several, as on a CPU and a card, or none.
fn common_peak(report: &Report, rows: &[&Row]) -> Option<f64> {
    let first = report.machine.peak(rows.first()?)?;
    rows.iter().all(|row| report.machine.peak(row) == Some(first)).then_some(first)
}

/// Rows of the same shape together: ours on several backends.
fn by_shape<'a>(rows: &[&'a Row]) -> Vec<Vec<&'a Row>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for &row in rows {
        match groups.iter_mut().find(|g| g[0].sizes == row.sizes && g[0].options == row.options) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// Ours on each backend, then the peers.
fn bars(report: &Report, group: &[&Row]) -> Vec<Bar> {
    let mut bars: Vec<Bar> = group
        .iter()
        .map(|row| Bar {
            name: format!("ours on {}", row.backend),
            class: format!("ours ours-{}", escape(&row.backend)),
            speed: row.speed(),
            slow: false,
            note: row.peak_share.map_or(String::new(), |share| format!("{} of peak", percent(share))),
        })
        .collect();
    for peer in report.peers() {
        let home = group.iter().find(|row| is_home(report, row, &peer)).unwrap_or(&group[0]);
        if let Some(ratio) = home.ratio(&peer) {
            bars.push(Bar {
                class: format!("peer {}", escape(&peer)),
                speed: home.speed() / ratio,
                slow: ratio < 1.0,
                note: format!("ours {}×", significant(ratio)),
                name: peer,
            });
        }
    }
    bars
}

/// One mark for each name that some bar has, in order of appearance.
fn legend(bars: &[Vec<Bar>]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    let mut marks = String::new();
    for bar in bars.iter().flatten() {
        if !seen.contains(&bar.name.as_str()) {
            seen.push(&bar.name);
            let _ = write!(marks, "<span><i class=\"mark {}\"></i>{}</span>", bar.class, escape(&bar.name));
        }
    }
    marks
}
