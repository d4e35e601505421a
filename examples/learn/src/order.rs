//! What is random, by seed: the order of samples, the held-out part, and a generator for each step.
//!
//! Nothing carries a state from step to step: the order of an epoch and the generator of a step follow from the seed and their number.
//! So a training that resumes at step n needs to know n, and no more.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// What a generator is for: the same seed and number give another one for each.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Which samples are held out.
    HeldOut = 1,
    /// The order of samples in an epoch.
    Epoch,
    /// What an example draws in a step, such as augmentation.
    Step,
    /// What the backend draws in a step, such as dropout.
    Backend,
    /// The first weights.
    Weights,
    /// What an example draws to try a trained model.
    Trial,
}

/// A generator that follows from seed, purpose and number.
pub fn generator(seed: u64, purpose: Purpose, number: u64) -> StdRng {
    StdRng::seed_from_u64(mixed(seed, purpose, number))
}

/// A seed that follows from seed, purpose and number (the finaliser of SplitMix64, twice).
pub fn mixed(seed: u64, purpose: Purpose, number: u64) -> u64 {
    let mix = |mut x: u64| {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    mix(mix(seed ^ ((purpose as u64) << 56)) ^ number)
}

/// Sample indices in batches: every epoch a new permutation of all, its last batch the rest.
#[derive(Debug)]
pub struct Order {
    samples: usize,
    batch: usize,
    seed: u64,
    /// The permutation in hand, and its epoch.
    current: Option<(usize, Vec<usize>)>,
}

impl Order {
    /// An order of `samples` in batches of `batch`; neither is 0.
    pub fn new(samples: usize, batch: usize, seed: u64) -> Self {
        Self { samples: samples.max(1), batch: batch.max(1), seed, current: None }
    }

    /// Batches of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.samples.div_ceil(self.batch)
    }

    /// The epoch of a step, from 0, and its samples.
    pub fn batch(&mut self, step: usize) -> (usize, &[usize]) {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        if self.current.as_ref().is_none_or(|(current, _)| *current != epoch) {
            let mut permutation: Vec<usize> = (0..self.samples).collect();
            permutation.shuffle(&mut generator(self.seed, Purpose::Epoch, epoch as u64));
            self.current = Some((epoch, permutation));
        }
        let permutation = self.current.as_ref().map_or(&[][..], |(_, permutation)| permutation);
        let start = within * self.batch;
        (epoch, &permutation[start..(start + self.batch).min(self.samples)])
    }
}

/// Sample indices for learning and held-out ones: of every class the same share is held out, drawn by seed.
///
/// Classes are `0..`; of a class with `n` samples `n / every` are held out. Both lists are in the samples' order.
pub fn held_out(labels: &[usize], every: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let classes = labels.iter().max().map_or(0, |most| most + 1);
    let mut is_held_out = vec![false; labels.len()];
    for class in 0..classes {
        let mut members: Vec<usize> = (0..labels.len()).filter(|&at| labels[at] == class).collect();
        members.shuffle(&mut generator(seed, Purpose::HeldOut, class as u64));
        members[..members.len() / every.max(1)].iter().for_each(|&at| is_held_out[at] = true);
    }
    (0..labels.len()).partition(|&at| !is_held_out[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_sample_once_in_an_order_of_its_own() {
        let mut order = Order::new(10, 4, 7);
        assert_eq!(order.steps_per_epoch(), 3);
        let mut epochs = Vec::new();
        for epoch in 0..4 {
            let mut seen = Vec::new();
            for within in 0..3 {
                let (found, batch) = order.batch(epoch * 3 + within);
                assert_eq!((found, batch.len()), (epoch, [4, 4, 2][within]));
                seen.extend_from_slice(batch);
            }
            epochs.push(seen.clone());
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert!((1..4).all(|epoch| epochs[epoch] != epochs[0]));
        // The same whatever was asked before, another for another seed.
        assert_eq!(Order::new(10, 4, 7).batch(7).1, &epochs[2][4..8]);
        assert_ne!(Order::new(10, 4, 8).batch(0).1, &epochs[0][..4]);
    }

    #[test]
    fn the_held_out_part_has_its_share_of_every_class() {
        let labels: Vec<usize> = (0..103).map(|at| at * at % 3).collect();
        let (learned, held) = held_out(&labels, 5, 1);
        let count = |of: &[usize], class| of.iter().filter(|&&at| labels[at] == class).count();
        for class in 0..3 {
            assert_eq!(count(&held, class), (count(&learned, class) + count(&held, class)) / 5);
        }
        let mut all = [learned.clone(), held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
        assert_eq!(held_out(&labels, 5, 1).1, held);
        assert_ne!(held_out(&labels, 5, 2).1, held);
        assert_eq!(held_out(&[], 5, 1), (vec![], vec![]));
    }

    #[test]
    fn purposes_and_numbers_do_not_share_generators() {
        let mut seeds = Vec::new();
        use Purpose::{Backend, Epoch, HeldOut, Step, Trial, Weights};
        for purpose in [HeldOut, Epoch, Step, Backend, Weights, Trial] {
            seeds.extend((0..100).flat_map(|number| [1, 2].map(|seed| mixed(seed, purpose, number))));
        }
        let count = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), count);
    }
}
