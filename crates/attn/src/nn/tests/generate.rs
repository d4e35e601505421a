//! Tests of greedy and beam search: a model small enough to enumerate, and the decoders of this library.

use std::cell::RefCell;

use attn_core::{AttentionError, Mask};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{assert_agreement, assert_close, bools, elements, noise, reference_device, shaken};
use crate::nn::generate::{
    BeamSearch, GreedySearch, Hypothesis, LengthPenalty, RecurrentSteps, StepModel, TransformerSteps,
};
use crate::nn::seq2seq::{AlignmentScore, AttendingDecoder, AttendingDecoderConfig, AttentionStyle, Memory};
use crate::nn::{TransformerDecoder, TransformerDecoderConfig, TransformerDecoderLayerConfig};

const END: usize = 0;

/// A model whose next token depends on all that went before, pseudo-randomly, and on which of the rows it began as.
struct Tiny {
    rows: Vec<usize>,
    vocabulary: usize,
    device: Device,
    /// Histories that went through a step, ends included.
    seen: RefCell<Vec<Vec<usize>>>,
}

impl Tiny {
    fn new(rows: &[usize], vocabulary: usize) -> Self {
        Self { rows: rows.to_vec(), vocabulary, device: reference_device(), seen: RefCell::default() }
    }

    fn log_probs(&self, row: usize, history: &[usize]) -> Vec<f64> {
        let seed = history.iter().fold(row + 3, |seed, &token| (seed * 31 + token * 7 + 11) % 1009);
        let logit = |token: usize| 2.0 * ((seed * 13 + token * 101) as f64 * 0.77).sin();
        let logits: Vec<f64> = (0..self.vocabulary).map(logit).collect();
        let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        logits.into_iter().map(|logit| logit - total).collect()
    }

    /// Every sequence of at most `max_length` tokens, by its score.
    fn all(&self, row: usize, max_length: usize, score: impl Fn(f64, usize) -> f64) -> Vec<Hypothesis> {
        let (mut live, mut made) = (vec![(vec![], 0.0)], vec![]);
        for length in 1..=max_length {
            let mut next = vec![];
            for (tokens, log_prob) in live {
                for (token, more) in self.log_probs(row, &tokens).into_iter().enumerate() {
                    let (mut tokens, log_prob) = (tokens.clone(), log_prob + more);
                    tokens.push(token);
                    if token == END || length == max_length {
                        let score = score(log_prob, length);
                        made.push(Hypothesis { tokens, log_prob, score, ended: token == END });
                    } else {
                        next.push((tokens, log_prob));
                    }
                }
            }
            live = next;
        }
        made.sort_by(|a, b| b.score.total_cmp(&a.score));
        made
    }
}

impl StepModel for Tiny {
    type State = Vec<(usize, Option<Vec<usize>>)>;

    fn start(&self) -> Result<(Vec<usize>, Self::State), AttentionError> {
        // The first token is not part of the history.
        Ok((vec![9; self.rows.len()], self.rows.iter().map(|&row| (row, None)).collect()))
    }

    fn step(&self, tokens: &[usize], mut state: Self::State) -> Result<(Tensor<2>, Self::State), AttentionError> {
        let mut made = vec![];
        assert_eq!(tokens.len(), state.len());
        for (&token, (row, history)) in tokens.iter().zip(&mut state) {
            *history = Some(history.take().map_or(vec![], |history| [history, vec![token]].concat()));
            let history = history.as_ref().unwrap();
            self.seen.borrow_mut().push(history.clone());
            made.extend(self.log_probs(*row, history));
        }
        let options = (&self.device, burn::tensor::DType::F64);
        Ok((Tensor::from_data(TensorData::new(made, [tokens.len(), self.vocabulary]), options), state))
    }

    fn reorder(&self, state: Self::State, rows: &[usize]) -> Result<Self::State, AttentionError> {
        Ok(rows.iter().map(|&row| state[row].clone()).collect())
    }
}

#[track_caller]
fn assert_same(found: &[Hypothesis], wanted: &[Hypothesis]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!((&found.tokens, found.ended), (&wanted.tokens, wanted.ended));
        assert!((found.log_prob - wanted.log_prob).abs() <= 1e-9, "{found:?} in place of {wanted:?}");
        assert!((found.score - wanted.score).abs() <= 1e-9, "{found:?} in place of {wanted:?}");
    }
}

#[test]
fn greedy_takes_the_most_probable_token_until_the_end() {
    let model = Tiny::new(&[0, 1, 2, 3, 4], 4);
    let found = GreedySearch::new(END, 6).run(&model).unwrap();
    let mut lengths = vec![];
    for (row, found) in found.iter().enumerate() {
        let (mut tokens, mut log_prob) = (vec![], 0.0);
        while tokens.len() < 6 && tokens.last() != Some(&END) {
            let next = model.log_probs(row, &tokens);
            let token = (0..4).max_by(|&a, &b| next[a].total_cmp(&next[b])).unwrap();
            log_prob += next[token];
            tokens.push(token);
        }
        let ended = tokens.last() == Some(&END);
        lengths.push((tokens.len(), ended));
        assert_same(std::slice::from_ref(found), &[Hypothesis { tokens, log_prob, score: log_prob, ended }]);
    }
    assert!(lengths.iter().any(|(_, ended)| *ended) && lengths.iter().any(|(_, ended)| !*ended), "{lengths:?}");
}

#[test]
fn one_beam_is_greedy() {
    let model = Tiny::new(&[0, 1, 2, 3, 4], 4);
    let greedy = GreedySearch::new(END, 6).run(&model).unwrap();
    let beams = BeamSearch::new(END, 6, 1).run(&model).unwrap();
    assert_same(&beams.concat(), &greedy);
}

#[test]
fn enough_beams_find_the_best_of_all_sequences_under_every_penalty() {
    let (vocabulary, max_length) = (3, 4);
    let model = Tiny::new(&[0, 1, 2], vocabulary);
    let wu = |log_prob: f64, length: usize| log_prob / ((5.0 + length as f64) / 6.0).powf(0.7);
    type Score<'a> = &'a dyn Fn(f64, usize) -> f64;
    let penalties: [(LengthPenalty, Score); 4] = [
        (LengthPenalty::None, &|log_prob, _| log_prob),
        (LengthPenalty::Power { alpha: 1.0 }, &|log_prob, length| log_prob / length as f64),
        (LengthPenalty::Power { alpha: 2.0 }, &|log_prob, length| log_prob / (length * length) as f64),
        (LengthPenalty::Wu { alpha: 0.7 }, &wu),
    ];
    let mut firsts = vec![];
    for (penalty, score) in penalties {
        let beams = vocabulary.pow(max_length as u32);
        for early in [true, false] {
            let search = BeamSearch::new(END, max_length, beams).with_penalty(penalty).with_early_stopping(early);
            let found = search.with_hypotheses(beams).run(&model).unwrap();
            for (row, found) in found.iter().enumerate() {
                assert_same(found, &model.all(row, max_length, score));
            }
            firsts.push(found.iter().map(|found| found[0].tokens.len()).sum::<usize>());
        }
    }
    // Normalisation matters here, and lengthens.
    assert!(firsts[0] < firsts[4], "{firsts:?}");
}

#[test]
fn few_beams_keep_the_best_candidates_of_each_step() {
    // The algorithm of the documentation again, on whole histories.
    let (vocabulary, max_length, beams) = (5, 6, 3);
    let model = Tiny::new(&[0, 1, 2, 3], vocabulary);
    let found = BeamSearch::new(END, max_length, beams).with_hypotheses(beams).run(&model).unwrap();
    for (row, found) in found.iter().enumerate() {
        let (mut live, mut finished) = (vec![(vec![], 0.0)], vec![]);
        for _ in 0..max_length {
            let mut candidates = vec![];
            for (tokens, log_prob) in &live {
                for (token, more) in model.log_probs(row, tokens).into_iter().enumerate() {
                    candidates.push(([tokens.clone(), vec![token]].concat(), log_prob + more));
                }
            }
            candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
            let ends = |tokens: &Vec<usize>| tokens.last() == Some(&END);
            finished
                .extend(candidates[..beams.min(candidates.len())].iter().filter(|(tokens, _)| ends(tokens)).cloned());
            live = candidates.into_iter().filter(|(tokens, _)| !ends(tokens)).take(beams).collect();
            if finished.len() >= beams {
                live.clear();
                break;
            }
        }
        finished.extend(live);
        finished.sort_by(|a: &(Vec<usize>, f64), b| b.1.total_cmp(&a.1));
        finished.truncate(beams);
        let wanted: Vec<_> = finished
            .into_iter()
            .map(|(tokens, log_prob)| {
                let ended = tokens.last() == Some(&END);
                Hypothesis { tokens, log_prob, score: log_prob, ended }
            })
            .collect();
        assert_same(found, &wanted);
    }
}

#[test]
fn going_on_never_lowers_the_score_and_stops_only_when_nothing_can_win() {
    for row in 0..12 {
        let model = Tiny::new(&[row], 4);
        let search = BeamSearch::new(END, 8, 3).with_penalty(LengthPenalty::Wu { alpha: 1.0 });
        let early = search.clone().run(&model).unwrap().concat();
        let late = search.with_early_stopping(false).run(&model).unwrap().concat();
        assert!(late[0].score >= early[0].score, "{late:?} after {early:?}");
    }
}

#[test]
fn rows_know_nothing_of_each_other_and_what_has_ended_takes_no_further_step() {
    let rows = [4, 0, 2, 1, 3];
    let search = BeamSearch::new(END, 6, 3).with_hypotheses(3).with_penalty(LengthPenalty::Power { alpha: 0.5 });
    let model = Tiny::new(&rows, 4);
    let together = search.run(&model).unwrap();
    let greedy = GreedySearch::new(END, 6).run(&model).unwrap();
    for (at, row) in rows.into_iter().enumerate() {
        let alone = Tiny::new(&[row], 4);
        assert_same(&search.run(&alone).unwrap()[0], &together[at]);
        assert_same(&GreedySearch::new(END, 6).run(&alone).unwrap(), std::slice::from_ref(&greedy[at]));
    }
    assert!(model.seen.borrow().iter().all(|history| !history.contains(&END)));
    assert!(together.iter().flatten().all(|made| made.tokens.iter().filter(|&&token| token == END).count() <= 1));
}

/// Log-probabilities that are the same at every step.
struct Fixed(Vec<f32>);

impl StepModel for Fixed {
    type State = ();

    fn start(&self) -> Result<(Vec<usize>, ()), AttentionError> {
        Ok((vec![1, 1], ()))
    }

    fn step(&self, tokens: &[usize], (): ()) -> Result<(Tensor<2>, ()), AttentionError> {
        let (rows, vocabulary) = (self.0.repeat(tokens.len()), self.0.len());
        Ok((Tensor::from_data(TensorData::new(rows, [tokens.len(), vocabulary]), &reference_device()), ()))
    }

    fn reorder(&self, (): (), _rows: &[usize]) -> Result<(), AttentionError> {
        Ok(())
    }
}

/// Log-probabilities by the token before, of which the first is 9; counts its steps.
struct Markov<F>(F, RefCell<usize>);

impl<F: Fn(usize) -> [f32; 3]> StepModel for Markov<F> {
    type State = ();

    fn start(&self) -> Result<(Vec<usize>, ()), AttentionError> {
        Ok((vec![9], ()))
    }

    fn step(&self, tokens: &[usize], (): ()) -> Result<(Tensor<2>, ()), AttentionError> {
        *self.1.borrow_mut() += 1;
        let made: Vec<f32> = tokens.iter().flat_map(|&token| (self.0)(token)).collect();
        Ok((Tensor::from_data(TensorData::new(made, [tokens.len(), 3]), &reference_device()), ()))
    }

    fn reorder(&self, (): (), _rows: &[usize]) -> Result<(), AttentionError> {
        Ok(())
    }
}

#[test]
fn an_end_among_the_best_takes_no_beam_from_the_others() {
    // After the first step 1 and 2 live beside the end; 2 is the third candidate, and it ends well.
    let next = |token| match token {
        9 => [-0.5, -1.5, -2.0],
        2 => [-0.01, -6.0, -6.0],
        _ => [-10.0, -0.7, -0.7],
    };
    let model = Markov(next, RefCell::new(0));
    let found = BeamSearch::new(END, 5, 2).with_hypotheses(2).run(&model).unwrap().concat();
    let tokens: Vec<_> = found.into_iter().map(|made| made.tokens).collect();
    assert_eq!(tokens, [vec![END], vec![2, END]]);
}

#[test]
fn without_early_stopping_a_longer_one_may_win_and_what_cannot_win_is_not_tried() {
    let next = |token| if token == 9 { [-1.0, -1.1, -9.0] } else { [-0.01, -6.0, -6.0] };
    let search = BeamSearch::new(END, 5, 1).with_penalty(LengthPenalty::Power { alpha: 1.0 });
    let run = |search: BeamSearch| {
        let model = Markov(next, RefCell::new(0));
        let found = search.run(&model).unwrap().concat().remove(0);
        (found.tokens, model.1.into_inner())
    };
    assert_eq!(run(search.clone()), (vec![END], 1));
    let late = search.with_early_stopping(false);
    assert_eq!(run(late.clone()).0, [1, END]);
    // Unnormalised, a longer one only loses.
    assert_eq!(run(late.with_penalty(LengthPenalty::None)), (vec![END], 1));
}

#[test]
fn what_is_impossible_is_never_generated() {
    let none = f32::NEG_INFINITY;
    let found = BeamSearch::new(END, 3, 4).with_hypotheses(4).run(&Fixed(vec![none, -0.1, none])).unwrap();
    let only = Hypothesis { tokens: vec![1, 1, 1], log_prob: -0.3, score: -0.3, ended: false };
    for found in found {
        assert_eq!((found.len(), &found[0].tokens), (1, &only.tokens));
    }
    let nothing = Fixed(vec![none, none]);
    assert!(BeamSearch::new(END, 3, 2).run(&nothing).unwrap().iter().all(Vec::is_empty));
    let greedy = GreedySearch::new(END, 3).run(&nothing).unwrap();
    assert!(greedy.iter().all(|made| made.tokens.is_empty() && !made.ended));
}

#[test]
fn wrong_options_and_wrong_models_name_the_argument() {
    let model = Tiny::new(&[0], 3);
    let name = |search: BeamSearch| search.run(&model).unwrap_err().argument().unwrap();
    assert_eq!(name(BeamSearch::new(END, 0, 2)), "max_length");
    assert_eq!(name(BeamSearch::new(END, 3, 0)), "beams");
    assert_eq!(name(BeamSearch::new(END, 3, 2).with_hypotheses(0)), "hypotheses");
    assert_eq!(name(BeamSearch::new(END, 3, 2).with_hypotheses(3)), "hypotheses");
    assert_eq!(name(BeamSearch::new(3, 3, 2)), "end_token");
    assert_eq!(name(BeamSearch::new(END, 3, 2).with_penalty(LengthPenalty::Wu { alpha: -1.0 })), "penalty");
    assert_eq!(name(BeamSearch::new(END, 3, 2).with_penalty(LengthPenalty::Power { alpha: f64::NAN })), "penalty");
    assert_eq!(GreedySearch::new(END, 0).run(&model).unwrap_err().argument(), Some("max_length"));
    let poisoned = Fixed(vec![-1.0, f32::NAN, -2.0]);
    assert_eq!(BeamSearch::new(END, 3, 2).run(&poisoned).unwrap_err().argument(), Some("log_probs"));
    assert_eq!(GreedySearch::new(END, 3).run(&poisoned).unwrap_err().argument(), Some("log_probs"));
    assert_eq!(BeamSearch::new(END, 3, 2).run(&Fixed(vec![])).unwrap_err().argument(), Some("log_probs"));
    assert!(BeamSearch::new(END, 3, 2).run(&Tiny::new(&[], 3)).unwrap().is_empty());
}

/// Embeds with a sinusoid-like table and projects with a matrix; 7 tokens.
struct Vocabulary {
    table: Tensor<2>,
    projection: Tensor<2>,
}

impl Vocabulary {
    fn new(width: usize, out: usize, device: &Device) -> Self {
        Self { table: noise([7, width], 21, device), projection: noise([out, 7], 22, device).mul_scalar(2.0) }
    }

    fn embed(&self, tokens: Tensor<2, Int>, position: usize) -> Tensor<3> {
        let [rows, steps] = tokens.dims();
        let width = self.table.dims()[1];
        let rows = self.table.clone().select(0, tokens.reshape([rows * steps])).reshape([rows, steps, width]);
        rows.add_scalar(0.1 * position as f64)
    }

    fn project(&self, hidden: Tensor<3>) -> Tensor<3> {
        hidden.matmul(self.projection.clone().unsqueeze())
    }
}

fn transformer(device: &Device) -> TransformerDecoder {
    let layer = TransformerDecoderLayerConfig::new(8, 4, 12).with_kv_heads(Some(2));
    shaken(TransformerDecoderConfig::new(layer, 2).init(device).unwrap())
}

fn recurrent(device: &Device) -> AttendingDecoder {
    let config = AttendingDecoderConfig::new(5, 8, 8)
        .with_score(AlignmentScore::General)
        .with_style(AttentionStyle::Luong)
        .with_layers(2);
    shaken(config.init(device).unwrap())
}

fn padding(device: &Device) -> Option<Mask<Tensor<2, burn::tensor::Bool>>> {
    Some(Mask::keep(bools([2, 4], |i| i != 7, device)))
}

fn by_transformer(device: &Device, search: &BeamSearch) -> Vec<Vec<Hypothesis>> {
    let (decoder, words) = (transformer(device), Vocabulary::new(8, 8, device));
    let cache = decoder.cache_with_memory(noise([2, 4, 8], 1, device), padding(device)).unwrap();
    let (embed, project) = (|tokens, position| words.embed(tokens, position), |hidden| words.project(hidden));
    search.run(&TransformerSteps::new(&decoder, cache, vec![1, 2], embed, project).unwrap()).unwrap()
}

fn by_recurrence(device: &Device, search: &BeamSearch) -> Vec<Vec<Hypothesis>> {
    let (decoder, words) = (recurrent(device), Vocabulary::new(5, 8, device));
    let memory = Memory::new(noise([2, 4, 8], 1, device)).padding(padding(device));
    let state = decoder.start(&memory, None).unwrap();
    let (embed, project) = (|tokens| words.embed(tokens, 0), |out| words.project(out));
    search.run(&RecurrentSteps::new(&decoder, state, vec![1, 2], embed, project).unwrap()).unwrap()
}

/// The log-probability of a hypothesis of row `row`, by one pass over it without any cache.
fn scored(device: &Device, row: usize, tokens: &[usize], of_transformer: bool) -> f64 {
    let fed: Vec<i64> = std::iter::once(row + 1).chain(tokens.iter().copied()).map(|token| token as i64).collect();
    let ids = |tokens: &[i64]| Tensor::<2, Int>::from_data(TensorData::new(tokens.to_vec(), [1, tokens.len()]), device);
    let inputs = &fed[..tokens.len()];
    let memory = noise([2, 4, 8], 1, device).narrow(0, row, 1);
    // The padding of the second row ends its memory one early.
    let memory = if row == 1 { memory.narrow(1, 0, 3) } else { memory };
    let logits = if of_transformer {
        let words = Vocabulary::new(8, 8, device);
        let embedded = (0..inputs.len()).map(|at| words.embed(ids(&inputs[at..at + 1]), at)).collect();
        let options = crate::nn::DecoderOptions::new();
        let hidden = transformer(device).forward(Tensor::cat(embedded, 1), Some(memory), &options).unwrap().hidden;
        words.project(hidden)
    } else {
        let words = Vocabulary::new(5, 8, device);
        let decoder = recurrent(device);
        let mut state = decoder.start(&Memory::new(memory), None).unwrap();
        words.project(decoder.forward(words.embed(ids(inputs), 0), &mut state).unwrap().out)
    };
    let log_probs = elements(log_softmax(logits, 2));
    tokens.iter().enumerate().map(|(at, &token)| log_probs[at * 7 + token]).sum()
}

#[test]
fn searching_with_caches_scores_what_the_whole_pass_scores() {
    let device = reference_device();
    let search = BeamSearch::new(END, 6, 4).with_hypotheses(4);
    for of_transformer in [true, false] {
        let found = if of_transformer { by_transformer(&device, &search) } else { by_recurrence(&device, &search) };
        let mut orders = 0;
        for (row, found) in found.iter().enumerate() {
            assert_eq!(found.len(), 4);
            for made in found {
                let wanted = scored(&device, row, &made.tokens, of_transformer);
                // Up to six sums of f32 log-probabilities of a magnitude of some units.
                assert!((made.log_prob - wanted).abs() <= 1e-4, "{made:?}: {wanted}");
                orders += usize::from(made.tokens[0] != found[0].tokens[0]);
            }
        }
        assert!(orders > 0, "beams of different beginnings, so that rows have changed places");
    }
}

#[test]
fn a_prompt_stands_in_the_cache_and_generation_goes_on_from_it() {
    let device = reference_device();
    let layer = TransformerDecoderLayerConfig::new(8, 2, 12).with_cross_attention(false);
    let decoder: TransformerDecoder = shaken(TransformerDecoderConfig::new(layer, 1).init(&device).unwrap());
    let words = Vocabulary::new(8, 8, &device);
    let (embed, project) = (|tokens, position| words.embed(tokens, position), |hidden| words.project(hidden));
    let prompt = [3usize, 5, 2];
    let mut cache = decoder.cache(1).unwrap().with_capacity(8);
    for (at, &token) in prompt[..2].iter().enumerate() {
        let ids = Tensor::<2, Int>::from_data([[token as i64]], &device);
        let options = crate::nn::DecoderOptions::new();
        decoder.forward_cached(words.embed(ids, at), &mut cache, &options).unwrap();
    }
    let model = TransformerSteps::new(&decoder, cache, vec![2], embed, project).unwrap();
    let found = GreedySearch::new(END, 4).run(&model).unwrap().remove(0);
    let mut tokens: Vec<usize> = prompt.to_vec();
    while tokens.len() < 7 && tokens.last() != Some(&END) {
        let embedded = tokens
            .iter()
            .enumerate()
            .map(|(at, &token)| words.embed(Tensor::<2, Int>::from_data([[token as i64]], &device), at));
        let embedded = Tensor::cat(embedded.collect(), 1);
        let hidden = decoder.forward(embedded, None, &crate::nn::DecoderOptions::new()).unwrap().hidden;
        let last = words.project(hidden.narrow(1, tokens.len() - 1, 1));
        tokens.push(last.argmax(2).into_data().iter::<i64>().next().unwrap() as usize);
    }
    assert_eq!(found.tokens, tokens[3..]);
}

#[test]
fn every_backend_generates_the_same_and_on_an_autodiff_device_too() {
    let search = BeamSearch::new(END, 5, 3).with_hypotheses(3).with_penalty(LengthPenalty::Wu { alpha: 0.6 });
    for by in [by_transformer, by_recurrence] {
        let first = by(&reference_device(), &search);
        let tokens = |made: &[Vec<Hypothesis>]| -> Vec<Vec<usize>> {
            made.iter().flatten().map(|made| made.tokens.clone()).collect()
        };
        assert_agreement(1e-4, |device| {
            let found = by(device, &search);
            assert_eq!(tokens(&found), tokens(&first));
            let scores: Vec<f32> = found.iter().flatten().map(|made| made.score as f32).collect();
            Tensor::<1>::from_data(scores.as_slice(), device)
        });
        assert_eq!(tokens(&by(&reference_device().autodiff(), &search)), tokens(&first));
    }
}

#[test]
fn adapters_name_what_does_not_fit() {
    let device = reference_device();
    let (decoder, words) = (transformer(&device), Vocabulary::new(8, 8, &device));
    let cache = || decoder.cache_with_memory(noise([2, 4, 8], 1, &device), None).unwrap();
    let embed = |tokens, position| words.embed(tokens, position);
    let project = |hidden| words.project(hidden);
    let few = TransformerSteps::new(&decoder, cache(), vec![1], embed, project).map(|_| ());
    assert_eq!(few.unwrap_err().argument(), Some("first"));
    let narrow = |tokens: Tensor<2, Int>, _| Tensor::<3>::zeros([tokens.dims()[0], 1, 7], &device);
    let double = |tokens: Tensor<2, Int>, _| Tensor::<3>::zeros([tokens.dims()[0], 2, 8], &device);
    let search = GreedySearch::new(END, 2);
    let model = TransformerSteps::new(&decoder, cache(), vec![1, 1], narrow, project).unwrap();
    assert_eq!(search.run(&model).unwrap_err().argument(), Some("target"));
    let model = TransformerSteps::new(&decoder, cache(), vec![1, 1], double, project).unwrap();
    assert_eq!(search.run(&model).unwrap_err().argument(), Some("embed"));
    let flat = |hidden: Tensor<3>| hidden.narrow(0, 0, 1);
    let model = TransformerSteps::new(&decoder, cache(), vec![1, 1], embed, flat).unwrap();
    assert_eq!(search.run(&model).unwrap_err().argument(), Some("project"));
    let model = TransformerSteps::new(&decoder, cache(), vec![1, 1], embed, project).unwrap();
    let (_, state) = model.start().unwrap();
    assert_eq!(model.reorder(state, &[2]).unwrap_err().argument(), Some("rows"));
    let hidden: Tensor<3> = noise([1, 1, 8], 1, &device);
    assert_close(words.project(hidden.clone()), project(hidden), 0.0);
}
