//! The questions: those that open the conversations of the `chatterbot-corpus`, and the topic that each file is about.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use learn::words::{bare, words};
use saphyr::{LoadableYamlNode, Yaml};

/// A topic with fewer questions is left out: of a fifth of them little could be said.
pub const FEWEST: usize = 10;

/// Questions and their topics.
#[derive(Clone, Debug, PartialEq)]
pub struct Questions {
    /// The topics' names.
    pub topics: Vec<String>,
    /// The questions.
    pub texts: Vec<String>,
    /// Which topic each is of.
    pub labels: Vec<usize>,
}

impl Questions {
    /// Reads `english/*.yml`, in the order of the names. See [`sorted`](Self::sorted) for what is left out.
    ///
    /// # Errors
    /// If a file is not there or not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        let folder = folder.join("english");
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.with_context(|| folder.display().to_string())?;
        let is_yaml = |path: &Path| path.extension().is_some_and(|extension| extension == "yml");
        let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).filter(|path| is_yaml(path)).collect();
        ensure!(!paths.is_empty(), "{}: expected files of conversations, *.yml, found none", folder.display());
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let topic = path.file_stem().unwrap_or_default().to_string_lossy().replace('_', " ");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            files.push((topic, opening_lines(&text).with_context(|| path.display().to_string())?));
        }
        Ok(Self::sorted(&files))
    }

    /// Each question once: what differs in nothing but case and marks is one. Left out are questions that stand under two topics, which
    /// so have none, and topics with fewer than [`FEWEST`].
    fn sorted(files: &[(String, Vec<String>)]) -> Self {
        let mut topics_of: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (topic, (_, lines)) in files.iter().enumerate() {
            for line in lines {
                let topics = topics_of.entry(key(line)).or_default();
                if !topics.contains(&topic) {
                    topics.push(topic);
                }
            }
        }
        let mut questions = Self { topics: Vec::new(), texts: Vec::new(), labels: Vec::new() };
        for (topic, lines) in files {
            let mut own: Vec<&String> = Vec::new();
            for line in lines {
                // Taken out, so that the next of its like is no more in the map.
                if topics_of.get(&key(line)).is_some_and(|topics| topics.len() == 1) && !key(line).is_empty() {
                    topics_of.remove(&key(line));
                    own.push(line);
                }
            }
            if own.len() >= FEWEST {
                questions.labels.extend(std::iter::repeat_n(questions.topics.len(), own.len()));
                questions.topics.push(topic.clone());
                questions.texts.extend(own.into_iter().cloned());
            }
        }
        questions
    }

    /// Those at `indices`.
    pub fn some(&self, indices: &[usize]) -> Self {
        Self {
            topics: self.topics.clone(),
            texts: indices.iter().map(|&at| self.texts[at].clone()).collect(),
            labels: indices.iter().map(|&at| self.labels[at]).collect(),
        }
    }
}

/// A question as the bare words in it.
fn key(line: &str) -> String {
    let is_word = |word: &String| word.contains(char::is_alphanumeric);
    words(line).into_iter().map(bare).filter(is_word).collect::<Vec<_>>().join(" ")
}

/// The first line of each conversation, if it is text.
fn opening_lines(text: &str) -> Result<Vec<String>> {
    // Its errors say "at byte 3 line 1 column 4" by themselves.
    let documents = Yaml::load_from_str(text).map_err(|error| anyhow!("{error}"))?;
    let list = documents.first().and_then(|document| document.as_mapping_get("conversations")).and_then(Yaml::as_vec);
    let list = list.context("expected a list named conversations")?;
    let first = |conversation: &Yaml| Some(conversation.as_vec()?.first()?.as_str()?.to_string());
    Ok(list.iter().filter_map(first).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_conversations_are_read() {
        let text = "categories:\n- x\nconversations:\n- - What is\n    it?\n  - This.\n  - That.\n- - 'Who: me?'\n  - Yes\n- - 7: 8\n";
        assert_eq!(opening_lines(text).unwrap(), ["What is it?", "Who: me?"]);
        assert!(opening_lines("conversations: 3").unwrap_err().to_string().contains("conversations"));
        assert!(opening_lines("").is_err() && opening_lines("a: [b").is_err());
    }

    #[test]
    fn doubles_and_what_has_two_topics_and_small_topics_go() {
        let lines = |name: &str, count: usize| (0..count).map(|at| format!("{name} {at}?")).collect::<Vec<_>>();
        let mut food = lines("What food", 12);
        food.extend(["what FOOD 3!".into(), "Hello".into(), "?!".into()]);
        let mut greetings = lines("Hello there", 10);
        greetings.push("hello!".into());
        let files = [("food".into(), food), ("tiny".into(), lines("Small", 9)), ("greetings".into(), greetings)];
        let questions = Questions::sorted(&files);
        assert_eq!(questions.topics, ["food", "greetings"]);
        assert_eq!(questions.labels, [vec![0; 12], vec![1; 10]].concat());
        assert!(questions.texts.iter().all(|text| !text.eq_ignore_ascii_case("hello") && !text.contains("FOOD")));
        assert_eq!(questions.some(&[12]).texts, ["Hello there 0?"]);
    }

    #[test]
    fn a_folder_without_questions_is_named() {
        let error = Questions::read(Path::new("no/such")).unwrap_err();
        assert!(format!("{error:#}").starts_with("no/such/english"), "{error:#}");
    }
}
