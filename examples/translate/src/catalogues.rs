//! Messages in English and French, of the catalogues that Django carries (gettext's `.po` files).

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use learn::order::{Purpose, generator};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::measures::{chrf, nearest};
use crate::po;
use crate::task::{Pair, Recipe, Task};
use crate::text::Vocabulary;
use crate::words;

/// One message in so many is held out.
const EVERY: usize = 10;
/// Characters of the longest text in either language.
const LONGEST: usize = 80;
/// How often French is to be copied.
const COPIED: f64 = 0.2;
/// How often a word that stands in both languages is made strange.
const STRANGE: f64 = 0.5;

/// To learn English to French from the catalogues of a folder.
///
/// # Errors
/// If a file cannot be read or is no catalogue; if there are too few messages.
pub fn task(folder: &Path, seed: u64) -> Result<Task> {
    let mut messages = read(folder)?;
    if messages.len() < 10 * EVERY {
        bail!("{}: expected hundreds of translated messages, found {}", folder.display(), messages.len());
    }
    messages.shuffle(&mut generator(seed, Purpose::HeldOut, 0));
    let learned = messages.split_off(messages.len() / EVERY).concat();
    let held = messages.concat();
    let texts = || learned.iter().flat_map(|pair| [&*pair.source, &*pair.target]);
    let vocabulary = Vocabulary::words(texts());
    let longest = texts().map(|text| vocabulary.read(text).0.len()).max().unwrap_or(1);
    let copied: Vec<_> = held.iter().map(|pair| (&*pair.source, &*pair.target)).collect();
    let near: Vec<_> = held.iter().map(|pair| (nearest(&pair.source, &learned), &*pair.target)).collect();
    let (copied, near) = (chrf(&copied), chrf(&near));
    Ok(Task {
        name: "catalogues",
        about: format!("{} messages to learn from, {} words and signs", learned.len(), vocabulary.size()),
        title: "How it reads a message",
        lead: "A recurrent network reads messages of Django in English and writes them in French, word by word; what it does not know \
               it can point at and copy. It never saw these while learning, and it learned from some hundreds alone.",
        marks: "↵ is the end; ↑ has the next word begin with a capital; ▁ is a blank beside a sign.",
        source: vocabulary.clone(),
        target: vocabulary,
        longest: (longest, longest),
        samples: learned.len(),
        metric: format!("chrF on {} messages held out", held.len()),
        measure: chrf,
        promise: None,
        baselines: vec![
            ("copying the English".into(), copied, true),
            ("the French of the nearest English learned from".into(), near, false),
        ],
        shortest_drawn: 4,
        held,
        kind: Vec::new(),
        kinds: Vec::new(),
        pair: Box::new(move |at, rng| varied(&learned[at], rng)),
        recipe: Recipe { batch: 16, epochs: (40, 20), rate: 8e-3, d_hidden: 96, dropout: 0.3, copies: true, beams: 4 },
    })
}

/// A message, or its French to be copied (Currey et al. 2017). Some words that stand in both are made strange: what to do with strange
/// words is learned so.
fn varied(pair: &Pair, rng: &mut StdRng) -> Pair {
    let source = if rng.random_bool(COPIED) { &pair.target } else { &pair.source };
    let (mut source, mut target) = (words::split(source), words::split(&pair.target));
    let mut shared: Vec<String> =
        source.iter().filter(|word| words::is_word(word) && target.contains(word)).cloned().collect();
    shared.sort_unstable();
    shared.dedup();
    shared.retain(|_| rng.random_bool(STRANGE));
    for (at, word) in shared.iter().enumerate() {
        let strange = format!("_{at}");
        source
            .iter_mut()
            .chain(&mut target)
            .filter(|other| *other == word)
            .for_each(|other| other.clone_from(&strange));
    }
    let joined = |pieces: &[String]| words::join(pieces.iter().map(String::as_str));
    Pair { source: joined(&source), target: joined(&target) }
}

/// The messages of all catalogues of a folder, in the order of files and lines, each with its plural if it has one. Of those that say
/// the same in English but for case and signs the first is kept, so that none is learned from and held out.
fn read(folder: &Path) -> Result<Vec<Vec<Pair>>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "po"));
    paths.sort();
    if paths.is_empty() {
        bail!("{}: no .po files", folder.display());
    }
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        all.extend(po::messages(&text).with_context(|| path.display().to_string())?);
    }
    Ok(kept(all))
}

/// Messages in plain form, neither too long nor said before.
fn kept(messages: Vec<Vec<Pair>>) -> Vec<Vec<Pair>> {
    let mut seen = HashSet::new();
    let plain = |text: &str| text.replace('’', "'").split_whitespace().collect::<Vec<_>>().join(" ");
    let key = |text: &str| text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    let mut kept = Vec::new();
    for message in messages {
        let pairs = message.iter().map(|pair| Pair { source: plain(&pair.source), target: plain(&pair.target) });
        let is_short = |pair: &Pair| [&pair.source, &pair.target].iter().all(|text| text.chars().count() <= LONGEST);
        let pairs: Vec<Pair> = pairs
            .filter(|pair| is_short(pair) && !key(&pair.source).is_empty())
            .filter(|pair| seen.insert(key(&pair.source)))
            .collect();
        if !pairs.is_empty() {
            kept.push(pairs);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(source: &str, target: &str) -> Pair {
        Pair { source: source.into(), target: target.into() }
    }

    #[test]
    fn what_says_the_same_is_kept_once() {
        let long = "x".repeat(LONGEST + 1);
        let messages = vec![
            vec![pair("Log in", "Connexion")],
            vec![pair("log in:", "connexion :"), pair("users’\n names", "noms")],
            vec![pair(&long, "x"), pair("x", &long)],
            vec![pair("…", "…")],
        ];
        assert_eq!(kept(messages), [[pair("Log in", "Connexion")], [pair("users' names", "noms")]]);
    }
    #[test]
    fn strange_words_are_strange_on_both_sides() {
        let mut rng = generator(1, Purpose::Step, 0);
        let message = pair("Change %(name)s: Type", "Modifier %(name)s : Type");
        let all: HashSet<_> =
            (0..200).map(|_| varied(&message, &mut rng)).map(|pair| (pair.source, pair.target)).collect();
        let expected = [
            ("Change %(name)s: Type", "Modifier %(name)s : Type"),
            ("Change _0: Type", "Modifier _0 : Type"),
            ("Change %(name)s: _0", "Modifier %(name)s : _0"),
            ("Change _0: _1", "Modifier _0 : _1"),
        ];
        for (source, target) in expected {
            assert!(all.contains(&(source.into(), target.into())), "{source}: {all:?}");
        }
        let copied = |(source, target): &(String, String)| source == target;
        assert!(all.iter().any(copied) && all.iter().all(|pair| pair.0.starts_with("Change ") || copied(pair)));
    }
}
