//! What the terminal says.

use std::fmt::Write;
use std::time::Duration;

use crate::embed::Planned;

/// Cells of a similarity's bar.
const BAR: usize = 20;

/// The ranking, the nearest first.
pub fn ranking(query: &str, sentences: &[String], similarities: &[f32], order: &[usize], width: usize) -> String {
    let mut text = format!("Nearest to: {query}\n\n");
    for (rank, &index) in order.iter().enumerate() {
        let similarity = similarities[index];
        let sentence = shortened(&sentences[index], width.saturating_sub(BAR + 16).max(24));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>4}  {similarity:>6.3}  {}  {sentence}", rank + 1, bar(similarity));
    }
    text
}

/// The plan of one layer's attention.
pub fn plan(planned: &Planned, layers: usize, heads: usize, head_dim: usize) -> String {
    let [sentences, tokens] = planned.dims;
    let forward = &planned.plan.forward;
    format!(
        "Attention: kernel {} ({})\n  one layer of the largest batch, [{sentences}, {heads}, {tokens}, {head_dim}]: {}, {} workspace; {layers} layers",
        forward.kernel,
        forward.reason,
        operations(forward.flops),
        bytes(forward.workspace_bytes),
    )
}

/// A time of a few digits.
pub fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.9995 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// A number of bytes of a few digits.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, ["B", "KiB", "MiB", "GiB"])
}

fn operations(flops: u64) -> String {
    scaled(flops as f64, 1000.0, ["FLOP", "kFLOP", "MFLOP", "GFLOP"])
}

fn scaled(mut value: f64, step: f64, units: [&str; 4]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} {}", units[0]) } else { format!("{value:.1} {}", units[unit]) }
}

fn bar(similarity: f32) -> String {
    let cells = (similarity.clamp(0.0, 1.0) * BAR as f32).round() as usize;
    format!("{}{}", "█".repeat(cells), "·".repeat(BAR - cells))
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ranking_has_a_line_a_sentence_none_wider_than_asked() {
        let sentences = ["short".to_string(), "é".repeat(300)];
        let text = ranking("q", &sentences, &[-0.5, 1.0], &[1, 0], 80);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("   1   1.000  ████████████████████  é") && lines[0].ends_with('…'),
            "{}",
            lines[0]
        );
        assert!(lines[1].starts_with("   2  -0.500  ····················  short"), "{}", lines[1]);
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn numbers_have_units_that_fit() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(3 << 30)], ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]);
        assert_eq!(operations(11_090_000), "11.1 MFLOP");
        assert_eq!(time(Duration::from_micros(1234)), "1.2 ms");
        assert_eq!(time(Duration::from_millis(1234)), "1.23 s");
    }
}
