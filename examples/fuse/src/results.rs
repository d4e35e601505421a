//! What was answered about held-out rows, counted by kind of question.

use anyhow::Result;
use burn::tensor::Device;
use learn::digits::Images;
use learn::order::{Purpose, generator};
use learn::{Evaluation, Goal};

use crate::batch::Batch;
use crate::model::Fuse;
use crate::question::Kind;
use crate::scene::{KeptBack, Sample, Scenes, Wordings};
use crate::words::Vocabulary;

/// Questions that go through the model together.
const TOGETHER: usize = 250;

/// What one model says of some questions.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The most probable answer to each.
    pub given: Vec<usize>,
    /// Its probability.
    pub probabilities: Vec<f32>,
    /// What it comes from, words and then places; see [`crate::read::rollout`].
    pub sources: Vec<Vec<f64>>,
    /// What each word gave each place, word by word; see [`crate::read::looks`]. Empty for the blind.
    pub looks: Vec<Vec<f64>>,
}

/// Asks the model all questions.
///
/// # Errors
/// If it refuses them.
pub fn answers(
    model: &Fuse,
    samples: &[Sample],
    images: &Images,
    vocabulary: &Vocabulary,
    device: &Device,
) -> Result<Answers> {
    let mut answers = Answers::default();
    for samples in samples.chunks(TOGETHER) {
        let read = model.read(&Batch::of(samples, images, vocabulary, device))?;
        let ([_, classes], [_, sources]) = (read.probabilities.dims(), read.sources.dims());
        let probabilities: Vec<f32> = read.probabilities.try_into_data()?.iter::<f32>().collect();
        for row in probabilities.chunks(classes) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let (given, probability) = best.map_or((0, 0.0), |(given, probability)| (given, *probability));
            answers.given.push(given);
            answers.probabilities.push(probability);
        }
        let all: Vec<f64> = read.sources.try_into_data()?.iter::<f64>().collect();
        answers.sources.extend(all.chunks(sources).map(<[f64]>::to_vec));
        if let Some(looks) = read.looks {
            let [_, length, places] = looks.dims();
            let all: Vec<f64> = looks.try_into_data()?.iter::<f64>().collect();
            answers.looks.extend(all.chunks(length * places).map(<[f64]>::to_vec));
        }
    }
    Ok(answers)
}

/// The share of questions answered right, of those that `is_counted`; `None` where there are none.
pub fn accuracy(samples: &[Sample], given: &[usize], is_counted: impl Fn(&Sample) -> bool) -> Option<f64> {
    let counted = || samples.iter().zip(given).filter(|(sample, _)| is_counted(sample));
    let right = counted().filter(|(sample, given)| sample.answer == **given).count();
    (counted().count() > 0).then(|| right as f64 / counted().count() as f64)
}

/// Someone who answers.
#[derive(Debug, Clone)]
pub struct Answerer {
    /// Who.
    pub name: String,
    /// The answers to the held-out questions.
    pub given: Vec<usize>,
    /// The answers to those in new words.
    pub given_new: Vec<usize>,
}

/// Questions about held-out digits.
#[derive(Debug, Clone)]
pub struct Exam {
    /// In the words that are learned from, also of pairs that are not.
    pub held: Vec<Sample>,
    /// As many in new words.
    pub new: Vec<Sample>,
}

impl Exam {
    /// Draws the questions by seed.
    pub fn draw(scenes: &Scenes, questions: usize, seed: u64) -> Self {
        let mut rng = generator(seed, Purpose::HeldOut, 10);
        let mut drawn = |wordings| scenes.draw_all(questions, wordings, None, &mut rng);
        Self { held: drawn(Wordings::Learned), new: drawn(Wordings::New) }
    }

    /// The answers of a rule.
    pub fn by(&self, name: &str, answer: impl Fn(&Sample) -> usize) -> Answerer {
        let all = |samples: &[Sample]| samples.iter().map(&answer).collect();
        Answerer { name: name.into(), given: all(&self.held), given_new: all(&self.new) }
    }
}

/// The figures of the models that look: all but the last three answerers, which are the blind model, the question alone, and the rules.
pub fn evaluations(exam: &Exam, answerers: &[Answerer]) -> Vec<Evaluation> {
    let reached = |answerer: &Answerer| accuracy(&exam.held, &answerer.given, |_| true).unwrap_or_default();
    let Some((looking, [blind, question, rules])) = answerers.split_last_chunk::<3>() else { return Vec::new() };
    let evaluate = |answerer: &Answerer| {
        let metric = format!("accuracy on the {} held-out questions", exam.held.len());
        Evaluation::new(metric, Goal::HighShare, &answerer.name, reached(answerer))
            .beats("most frequent answer to the question", reached(question))
            .beats("blind model", reached(blind))
            .beside("nearest class mean, then rules", reached(rules))
    };
    looking.iter().map(evaluate).collect()
}

/// Accuracies in percent, a row a kind of question and a column an answerer, the heading first.
pub fn table(exam: &Exam, kept_back: KeptBack, answerers: &[Answerer]) -> Vec<Vec<String>> {
    type Counted = Box<dyn Fn(&Sample) -> bool>;
    let of_kind = |kind: Kind| -> (String, Counted) {
        (format!("{} …", kind.name()), Box::new(move |sample| sample.asked.kind() == kind))
    };
    let mut rows: Vec<(String, Counted)> = Kind::ALL.into_iter().map(of_kind).collect();
    rows.push(("all of these".into(), Box::new(|_| true)));
    let joined = move |sample: &Sample| kept_back.is_asked(sample.asked, &sample.digits);
    rows.push(("of which: pairs never joined before".into(), Box::new(joined)));
    let shown = |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.1}", 100.0 * share));
    let heading = ["% right".to_string()].into_iter().chain(answerers.iter().map(|answerer| answerer.name.clone()));
    let mut table = vec![heading.collect::<Vec<_>>()];
    for (name, is_counted) in rows {
        let shares = answerers.iter().map(|answerer| shown(accuracy(&exam.held, &answerer.given, &is_counted)));
        table.push([name].into_iter().chain(shares).collect());
    }
    let shares = answerers.iter().map(|answerer| shown(accuracy(&exam.new, &answerer.given_new, |_| true)));
    table.push(["beside: in words never used before".to_string()].into_iter().chain(shares).collect());
    table
}

/// The table for a terminal.
pub fn text(table: &[Vec<String>]) -> String {
    let width = |column: usize| table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in table {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::Asked;

    #[test]
    fn right_answers_are_counted_by_kind_and_by_pair() {
        let sample = |asked: Asked, digits: &[usize]| Sample {
            images: vec![0; digits.len()],
            digits: digits.to_vec(),
            asked,
            wording: 0,
            answer: asked.answer(digits).unwrap(),
        };
        let held = vec![
            sample(Asked::Exists(1), &[1, 2]),
            sample(Asked::Exists(3), &[1, 2]),
            sample(Asked::Beside { left: true, of: 4 }, &[1, 4]),
            sample(Asked::Beside { left: true, of: 4 }, &[2, 4]),
        ];
        let exam = Exam { new: held[..1].to_vec(), held };
        let answerer = Answerer { name: "x".into(), given: vec![19, 19, 1, 3], given_new: vec![19] };
        let table = table(&exam, KeptBack::of(1), std::slice::from_ref(&answerer));
        let shown: Vec<&str> = table.iter().map(|row| row[1].as_str()).collect();
        // Three apart are 1 and 4, and this one is right.
        assert_eq!(shown, ["x", "–", "50.0", "50.0", "–", "–", "50.0", "100.0", "100.0"]);
        let text = text(&table);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.len() == 9 && widths.iter().all(|&width| width == widths[0]), "{text}");
        // One is right of four who always says yes, two are of the one asked.
        let yes = || exam.by("yes", |_| 19);
        let evaluations = evaluations(&exam, &[answerer, yes(), yes(), yes()]);
        assert_eq!((evaluations.len(), evaluations[0].value, evaluations[0].baselines[0].value), (1, 0.5, 0.25));
    }
}
