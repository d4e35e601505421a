//! The page: bits a byte, the loss, what the model writes, what surprises it, and what its heads read.

use std::path::{Path, PathBuf};

use anyhow::Result;
use learn::curve::{escape, of_losses};
use learn::page::{Page, lit_text};
use learn::{Evaluation, Plan, files, heat_map};

use crate::model::{Head, LanguageModel};
use crate::report::Report;
use crate::surprise::mean;

/// Bytes of the held-out text that are lit by how they surprise, about.
const LIT: usize = 700;
/// Bits a byte at which a word is lit wholly.
const MOST: f64 = 6.0;
/// Bytes of the text whose attention is drawn.
const DRAWN: usize = 24;

/// What a run has to show.
pub struct Results<'a> {
    /// The numbers of the training.
    pub plan: &'a Plan,
    /// Bytes that the model sees at once.
    pub context: usize,
    /// Its cost.
    pub report: &'a Report,
    /// Bits a byte beside those of counting.
    pub evaluation: &'a Evaluation,
    /// The loss of every step.
    pub losses: &'a [f32],
    /// The held-out text.
    pub held: &'a [u8],
    /// The bits of each of its bytes but the first.
    pub bits: &'a [f64],
    /// What the model wrote.
    pub written: &'a str,
}

/// Writes the page, the curve of the loss and the text; gives the page's path.
///
/// # Errors
/// If they cannot be written, or the model fails.
pub fn write(folder: &Path, model: &LanguageModel, results: &Results<'_>) -> Result<PathBuf> {
    let curve = of_losses(results.losses);
    files::write_atomically(&folder.join("loss.svg"), curve.as_bytes())?;
    files::write_atomically(&folder.join("written.txt"), results.written.as_bytes())?;
    let drawn = excerpt(results.held, DRAWN);
    let weights = model.weights(drawn)?;
    let path = folder.join("lm.html");
    files::write_atomically(&path, page(results, &curve, drawn, &weights).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn page(results: &Results<'_>, curve: &str, drawn: &[u8], blocks: &[Vec<Head>]) -> String {
    let lead = "A small language model has read nine tenths of Moby Dick, byte by byte. How many bits it needs to say a byte is measured \
                on the last tenth, which it never saw.";
    let mut page = Page::new("A model that writes on", lead);
    facts(&mut page, results);
    page.section("The loss", "The surprise at the next byte in the text that is learned, −ln of its probability.");
    page.html(curve);
    page.section("What it writes", "All but the first few words are its own, drawn byte by byte.");
    page.html(&format!("<div class=\"panel\">{}</div>", escape(results.written).replace('\n', "<br>")));
    let hint = format!("The held-out text, each word lit by the bits of its bytes: wholly at {MOST} bits a byte.");
    page.section("What surprises it", &hint);
    page.html(&lit_text(words(results.held, results.bits).iter().map(|(word, bits)| (&**word, bits / MOST))));
    if !blocks.is_empty() {
        let hint = "What each head reads of the beginning of a held-out sentence: a row for each byte that reads, a column for each that is \
                    read.";
        page.section("Where attention looks", hint);
        page.texts(&heads(drawn, blocks));
    }
    page.finish()
}

fn facts(page: &mut Page, results: &Results<'_>) {
    let Results { plan, context, report, evaluation, .. } = results;
    let of = format!("{}; {} parameters", evaluation.metric, report.parameters);
    let mut facts = vec![(&*evaluation.name, evaluation.shown(evaluation.value), of)];
    for baseline in &evaluation.baselines {
        let note = if evaluation.is_better_than(baseline) { "beaten" } else { "not beaten" };
        facts.push((&baseline.name, evaluation.shown(baseline.value), note.to_string()));
    }
    let of = format!("of {} × {context} bytes each, seed {}, on {}", plan.batch, plan.seed, plan.backend);
    facts.push(("steps", plan.steps.to_string(), of));
    let memory =
        report.memory.map_or_else(|| "the median".into(), |_| format!("memory {}; medians", report.shown_memory()));
    facts.push(("time of a step", report.shown_time(), memory));
    page.facts(&facts);
}

/// Each head's picture, and which one it is.
fn heads(drawn: &[u8], blocks: &[Vec<Head>]) -> Vec<(String, String, bool)> {
    let labels: Vec<String> = drawn.iter().map(|byte| char::from(*byte).to_string()).collect();
    let each =
        blocks.iter().enumerate().flat_map(|(block, heads)| heads.iter().enumerate().map(move |head| (block, head)));
    each.map(|(block, (head, rows))| {
        let name = format!("block {}, head {}", block + 1, head + 1);
        (heat_map(&name, &labels, &labels, rows), name, false)
    })
    .collect()
}

/// The first whole words of the text, about [`LIT`] bytes of them, and the bits a byte of each with the space before it.
fn words(text: &[u8], bits: &[f64]) -> Vec<(String, f64)> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace();
    // It may begin in the midst of one, and its first byte has no bits.
    let mut start = text.iter().skip(1).position(is_space).map_or(text.len(), |at| at + 1);
    let mut words = Vec::new();
    while start < text.len() && start < LIT {
        // The word's end is the first space after its first letter.
        let first = start + text[start..].iter().position(|byte| !is_space(byte)).unwrap_or(0);
        let end = text[first..].iter().position(is_space).map_or(text.len(), |length| first + length);
        let end = end.max(start + 1);
        let word = String::from_utf8_lossy(&text[first..end]).trim().to_owned();
        words.push((word, mean(&bits[start - 1..end - 1])));
        start = end;
    }
    words
}

/// The first `length` bytes of a sentence, all of them printable ASCII, where there are so many.
fn excerpt(text: &[u8], length: usize) -> &[u8] {
    let begins = |at: &usize| text[..*at].ends_with(b". ");
    let is_plain = |at: &usize| text[*at..*at + length].iter().all(|byte| (32..127).contains(byte));
    let starts = 0..=text.len().saturating_sub(length);
    match starts.filter(|_| text.len() >= length).filter(begins).find(is_plain) {
        Some(at) => &text[at..at + length],
        None => &text[..text.len().min(length)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_with_the_bits_of_their_bytes() {
        let found = words(b" x ab  cd\n", &[9.0, 0.0, 1.0, 5.0, 0.0, 0.0, 4.0, 4.0, 9.0]);
        let expected = [("ab", 2.0), ("cd", 2.0), ("", 9.0)];
        assert_eq!(found.iter().map(|(word, bits)| (&**word, *bits)).collect::<Vec<_>>(), expected);
        assert!(words(b"", &[]).is_empty() && words(b"a", &[]).is_empty());
        let long = [b"a ", &[b'a'; 5000][..]].concat();
        assert_eq!(words(&long, &vec![1.0; long.len() - 1]).len(), 1);
    }

    #[test]
    fn an_excerpt_is_the_beginning_of_a_plain_sentence() {
        assert_eq!(excerpt("—so. Thus, “he”. And then on. ".as_bytes(), 9), b"And then ");
        assert_eq!(excerpt(b"ain text", 5), b"ain t");
        assert_eq!(excerpt(b"", 5), b"");
        assert_eq!(excerpt(b"ab", 5), b"ab");
    }

    #[test]
    fn the_page_holds_what_there_is() {
        let plan = Plan::new("a test", "any", 1, 10, 2, 5);
        let report = Report::new(&plan, 9, 2.5, crate::cost::Cost::default(), Path::new("no/such/folder")).unwrap();
        let evaluation = Evaluation::new("bits a byte", learn::Goal::Low, "language model", 2.5).beats("counting", 3.0);
        let (held, bits) = (&b"A man. A plan."[..], vec![3.0; 13]);
        let losses = &[3.0, 2.0][..];
        let written = "a <whale>\nblows";
        let results = Results {
            plan: &plan,
            context: 256,
            report: &report,
            evaluation: &evaluation,
            losses,
            held,
            bits: &bits,
            written,
        };
        let html = page(&results, "<svg></svg>", b"ab", &[vec![vec![vec![1.0, 0.0], vec![0.5, 0.5]]; 2]]);
        for wanted in ["2.5000", "beaten", "a &lt;whale&gt;<br>blows", "--w:0.500", "block 1, head 2"] {
            assert!(html.contains(wanted), "{wanted}: {html}");
        }
        // Burn's attention does not tell what it read.
        assert!(!page(&results, "", b"ab", &[]).contains("Where attention looks"));
    }
}
