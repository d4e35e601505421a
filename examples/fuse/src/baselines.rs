//! What answers without learning to look: the most frequent answer to a question, and rules on digits read one by one.

use std::collections::HashMap;

use learn::digits::{ClassMeans, Images};

use crate::question::{ANSWERS, Asked, Kind};
use crate::scene::Sample;

/// Knows of each question, whatever its words, which answer is the most frequent. It never sees a row.
#[derive(Debug, Clone)]
pub struct QuestionOnly {
    of_question: HashMap<Asked, [usize; ANSWERS.len()]>,
    of_kind: HashMap<Kind, [usize; ANSWERS.len()]>,
}

impl QuestionOnly {
    /// From samples that may be learned from.
    pub fn of(samples: &[Sample]) -> Self {
        let (mut of_question, mut of_kind) = (HashMap::new(), HashMap::new());
        for sample in samples {
            of_question.entry(sample.asked).or_insert([0; ANSWERS.len()])[sample.answer] += 1;
            of_kind.entry(sample.asked.kind()).or_insert([0; ANSWERS.len()])[sample.answer] += 1;
        }
        Self { of_question, of_kind }
    }

    /// The first of the most frequent answers; of a question that was never asked, those to its kind.
    pub fn answer(&self, asked: Asked) -> usize {
        let counts = self.of_question.get(&asked).or_else(|| self.of_kind.get(&asked.kind()));
        let most = counts.and_then(|counts| (0..counts.len()).rev().max_by_key(|&at| counts[at]));
        most.unwrap_or_default()
    }
}

/// Takes each digit for that of the nearest class mean, and answers by the rules; where they have no answer, as the question alone
/// says.
pub fn by_rules(sample: &Sample, images: &Images, means: &ClassMeans, otherwise: &QuestionOnly) -> usize {
    let read: Vec<usize> = sample.images.iter().filter_map(|&at| means.nearest(images.image(at))).collect();
    sample.asked.answer(&read).unwrap_or_else(|| otherwise.answer(sample.asked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::Place;
    use learn::digits::Digits;

    fn sample(asked: Asked, digits: &[usize]) -> Sample {
        let answer = asked.answer(digits).unwrap();
        Sample { images: digits.to_vec(), digits: digits.to_vec(), asked, wording: 0, answer }
    }

    #[test]
    fn the_most_frequent_answer_is_that_to_the_question() {
        let (first, last) = (Asked::At(Place::At(0)), Asked::At(Place::Last));
        let rows: [&[usize]; 3] = [&[1, 5], &[1, 6], &[2, 5]];
        let samples: Vec<Sample> = [first, last].iter().flat_map(|&asked| rows.map(|row| sample(asked, row))).collect();
        let only = QuestionOnly::of(&samples);
        assert_eq!((only.answer(first), only.answer(last)), (1, 5));
        // Never asked: 1 and 5 are as frequent, the first of them is taken.
        assert_eq!(only.answer(Asked::At(Place::At(1))), 1);
        assert_eq!(only.answer(Asked::Count { even: true }), 0);
    }

    #[test]
    fn rules_answer_from_what_is_read_be_it_wrong() {
        // Images of one pixel; digit d is d tenths dark. The image 3 looks like a four.
        let pixels = vec![0.0, 0.1, 0.2, 0.4, 0.4, 0.5];
        let learned =
            Digits { images: Images { side: 1, pixels: vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5] }, labels: (0..6).collect() };
        let images = Images { side: 1, pixels };
        let samples = [
            sample(Asked::At(Place::At(1)), &[5, 2]),
            sample(Asked::At(Place::At(1)), &[5, 3]),
            sample(Asked::Beside { left: true, of: 3 }, &[5, 3]),
        ];
        let otherwise = QuestionOnly::of(&samples);
        let means = ClassMeans::of(&learned);
        assert_eq!([0, 1, 2].map(|at| by_rules(&samples[at], &images, &means, &otherwise)), [2, 4, 5]);
        let blank = ClassMeans::of(&Digits { images: Images { side: 1, pixels: vec![] }, labels: vec![] });
        assert_eq!(by_rules(&samples[0], &images, &blank, &otherwise), 2, "of two and three the first");
    }
}
