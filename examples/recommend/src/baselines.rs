//! How a list of recommendations is judged, and what recommends without attention.

use crate::rule::{ITEMS, Session};

/// Recommendations in a list.
pub const LIST: usize = 5;

/// How good some lists are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// The share of next items that stand among the first [`LIST`].
    pub hit_rate: f64,
    /// The mean of 1 / rank.
    pub reciprocal_rank: f64,
}

impl Quality {
    /// Of what gives each item a score, for every next item of the sessions: `scores` is asked with a session's number and how many
    /// of its items are past.
    pub fn of(sessions: &[Session], mut scores: impl FnMut(usize, usize) -> Vec<f64>) -> Self {
        let (mut hits, mut reciprocals, mut count) = (0.0, 0.0, 0.0);
        for (number, session) in sessions.iter().enumerate() {
            for past in 1..session.items.len() {
                let rank = rank(&scores(number, past), session.items[past]);
                hits += f64::from(u8::from(rank <= LIST));
                reciprocals += 1.0 / rank as f64;
                count += 1.0;
            }
        }
        let count = f64::max(count, 1.0);
        Self { hit_rate: hits / count, reciprocal_rank: reciprocals / count }
    }
}

/// The place of an item in the list, from 1; those of the same score stand before it.
pub fn rank(scores: &[f64], item: usize) -> usize {
    scores.iter().filter(|score| **score >= scores[item]).count().max(1)
}

/// The share that each item has of all looks.
pub fn popularity(learned: &[Session]) -> Vec<f64> {
    let mut counts = vec![0.0; ITEMS];
    learned.iter().flat_map(|session| &session.items).for_each(|&item| counts[item] += 1.0);
    let sum = counts.iter().sum::<f64>().max(1.0);
    counts.into_iter().map(|count| count / sum).collect()
}

/// How often each item came right after each other one, and its popularity where that is the same: a Markov chain.
pub fn followers(learned: &[Session]) -> Vec<Vec<f64>> {
    let mut counts = vec![popularity(learned); ITEMS];
    for pair in learned.iter().flat_map(|session| session.items.windows(2)) {
        counts[pair[0]][pair[1]] += 1.0;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(items: &[usize]) -> Session {
        Session { items: items.to_vec(), causes: vec![None; items.len()] }
    }

    #[test]
    fn ranks_hits_and_reciprocals_are_those_of_the_list() {
        assert_eq!(rank(&[0.1, 0.5, 0.3, 0.1], 1), 1);
        assert_eq!(rank(&[0.1, 0.5, 0.3, 0.1], 0), 4, "one that says the same of many knows nothing");
        // Ranks 1, 2 and 8.
        let scores: Vec<f64> = (0..ITEMS).map(|item| -(item as f64)).collect();
        let found = Quality::of(&[session(&[3, 0, 1, 7])], |_, _| scores.clone());
        assert!((found.hit_rate - 2.0 / 3.0).abs() < 1e-12);
        assert!((found.reciprocal_rank - (1.0 + 0.5 + 0.125) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_chain_names_what_came_next_and_else_what_is_popular() {
        let learned = [session(&[1, 2, 1, 2, 1, 3]), session(&[3, 3])];
        let chain = followers(&learned);
        assert_eq!((rank(&chain[1], 2), rank(&chain[1], 3), rank(&chain[1], 1)), (1, 2, 3));
        assert_eq!(rank(&chain[9], 1), 2, "1 and 3 are as popular");
        assert!((popularity(&learned)[1] - 3.0 / 8.0).abs() < 1e-12);
    }
}
