//! The page of attention: one HTML file that holds its data, its style and its script, and asks nothing of a network.
//!
//! Weights are kept as 24-bit fixed point, four base64 characters each: an error below 6e-8, and any weight can be found by its
//! index. The page decodes a sentence when it is picked.

use serde::{Deserialize, Serialize};

/// Characters of weights beyond which a page takes no more sentences: about ten seconds to open on a slow machine.
const BUDGET: usize = 24 << 20;

const TEMPLATE: &str = include_str!("../page/page.html");
const STYLE: &str = include_str!("../page/page.css");
const SCRIPT: &str = include_str!("../page/page.js");

/// Everything that the page shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageData {
    /// Name of the model.
    pub model: String,
    /// Backend and kernel that computed it.
    pub computed_by: String,
    /// Number of layers.
    pub layers: usize,
    /// Number of heads of a layer.
    pub heads: usize,
    /// What the sentences were ranked against.
    pub query: String,
    /// In the order of the file; the query comes last.
    pub sentences: Vec<PageSentence>,
    /// Sentences of the file that did not fit on the page.
    pub left_out: usize,
}

/// One sentence on the page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageSentence {
    /// As in the file.
    pub text: String,
    /// As the model reads it.
    pub tokens: Vec<String>,
    /// Cosine similarity with the query; absent for the query itself.
    pub similarity: Option<f32>,
    /// 1 for the nearest to the query; absent for the query itself.
    pub rank: Option<usize>,
    /// `[layer][head][i][j]`, token i reads token j; see [`encode`].
    pub weights: String,
}

/// Whether a page that holds `so_far` characters of weights has room for a sentence of `tokens` tokens.
pub fn has_room(so_far: usize, maps: usize, tokens: usize) -> bool {
    so_far == 0 || so_far + 4 * maps * tokens * tokens <= BUDGET
}

/// The page as HTML.
///
/// # Errors
/// If the data cannot be said in JSON.
pub fn render(data: &PageData) -> serde_json::Result<String> {
    // Inside a script element only `<` could end the data early.
    let json = serde_json::to_string(data)?.replace('<', "\\u003c");
    let (before, rest) = TEMPLATE.split_once("/* STYLE */").unwrap_or((TEMPLATE, ""));
    let (between, rest) = rest.split_once("/* DATA */").unwrap_or((rest, ""));
    let (middle, after) = rest.split_once("/* SCRIPT */").unwrap_or((rest, ""));
    Ok([before, STYLE, between, &json, middle, SCRIPT, after].concat())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Weights in `[0, 1]` as base64 of big-endian 24-bit integers `round(w · (2²⁴ − 1))`.
pub fn encode(weights: &[f32]) -> String {
    let mut text = String::with_capacity(4 * weights.len());
    for &weight in weights {
        let value = (f64::from(weight).clamp(0.0, 1.0) * f64::from(0xff_ffff)).round() as u32;
        text.extend([18, 12, 6, 0].map(|shift| char::from(ALPHABET[(value >> shift) as usize & 63])));
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The data of a page, as a browser finds them.
    pub fn parse(html: &str) -> PageData {
        let start = html.find("id=\"attention-data\"").expect("the data's element");
        let json = &html[start..][html[start..].find('>').unwrap() + 1..];
        serde_json::from_str(&json[..json.find("</script>").unwrap()]).unwrap()
    }

    /// Weights from their text.
    pub fn decode(text: &str) -> Vec<f64> {
        let digit = |byte: &u8| ALPHABET.iter().position(|letter| letter == byte).unwrap() as u32;
        let value = |chars: &[u8]| chars.iter().fold(0, |value, byte| value << 6 | digit(byte));
        text.as_bytes().chunks_exact(4).map(|chars| f64::from(value(chars)) / f64::from(0xff_ffff)).collect()
    }

    fn data(text: &str) -> PageData {
        PageData {
            model: "m".into(),
            computed_by: "b".into(),
            layers: 1,
            heads: 1,
            query: text.into(),
            sentences: vec![PageSentence {
                text: text.into(),
                tokens: vec![text.into()],
                similarity: Some(0.5),
                rank: Some(1),
                weights: encode(&[1.0]),
            }],
            left_out: 0,
        }
    }

    #[test]
    fn weights_survive_the_page_to_seven_digits() {
        let weights: Vec<f32> = (0..=1000).map(|i| i as f32 / 1000.0).chain([1e-7, 0.1234567, 0.999_999_9]).collect();
        for (found, expected) in decode(&encode(&weights)).iter().zip(&weights) {
            assert!((found - f64::from(*expected)).abs() < 6e-8, "{found} {expected}");
        }
    }

    #[test]
    fn a_sentence_cannot_break_out_of_the_data() {
        let wicked = data("</script><script>alert(1)</script><!-- \u{2028} /* SCRIPT */ \"'&");
        let html = render(&wicked).unwrap();
        assert_eq!(parse(&html), wicked);
        assert_eq!(html.matches("</script>").count(), 2, "the data's element and the script");
    }

    #[test]
    fn the_page_is_whole_and_asks_nothing_of_a_network() {
        let html = render(&data("a")).unwrap();
        for part in [STYLE, SCRIPT] {
            assert!(html.contains(part));
        }
        for slot in ["/* STYLE */", "/* DATA */", "/* SCRIPT */"] {
            assert_eq!((TEMPLATE.matches(slot).count(), html.contains(slot)), (1, false), "{slot}");
        }
        // The one address is the name of SVG's namespace, which nothing fetches.
        let addresses = html.replace("http://www.w3.org/2000/svg", "");
        for word in ["http:", "https:", "src=", "@import", "url(", "fetch("] {
            assert!(!addresses.contains(word), "{word}");
        }
    }

    #[test]
    fn the_first_sentence_is_always_shown_and_the_rest_while_there_is_room() {
        assert!(has_room(0, 72, 4096));
        assert!(has_room(1 << 20, 72, 64));
        assert!(!has_room(BUDGET, 72, 3));
    }
}
