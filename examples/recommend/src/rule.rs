//! The made data: shopping sessions by a rule that is known, so that it can be said what was recovered of it.

use std::collections::HashSet;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};

const COLOURS: [&str; 10] = ["red", "blue", "green", "black", "white", "grey", "pink", "gold", "teal", "plum"];
const THINGS: [&str; 6] = ["kettle", "lamp", "chair", "clock", "vase", "rug"];

/// Items of the shop.
pub const ITEMS: usize = COLOURS.len() * THINGS.len();
/// Items of a session.
pub const LENGTH: usize = 20;

/// A reason to look at something next.
#[derive(Debug, Clone)]
pub struct Habit {
    /// How often it is the reason.
    pub share: f64,
    /// How fast an item is forgotten, for each look since.
    pub rate: f64,
    /// Which item goes with each.
    pub follower: Vec<usize>,
}

/// How a visitor of the shop goes on.
///
/// ```text
/// pull of the past item i at age a under habit h      softmax over i of (loudness[i] − rate_h · a)
/// P(next = j) = noise · popularity[j] + (1 − noise) · Σ_h share_h · Σ_i pull_h(i) · [j goes with i under h]
/// ```
/// The age of the item that was looked at last is 0.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The reasons, that which forgets fastest first.
    pub habits: [Habit; 2],
    /// How strongly each item stays in mind.
    pub loudness: Vec<f64>,
    /// How much each item is looked at for no reason; sums to 1.
    pub popularity: Vec<f64>,
    /// How often there is no reason.
    pub noise: f64,
}

/// A visit.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The items, [`LENGTH`] of them.
    pub items: Vec<usize>,
    /// Why each was looked at: habit and place of the past item, or nothing.
    pub causes: Vec<Option<(usize, usize)>>,
}

impl Rule {
    /// The rule of a seed: the rates are always the same, what goes with what is not.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut habit = |share, rate| Habit { share, rate, follower: cycle(&mut rng) };
        let habits = [habit(0.5, 0.8), habit(0.5, 0.15)];
        let mut order: Vec<usize> = (0..ITEMS).collect();
        order.shuffle(&mut rng);
        // By Zipf's law, and a quarter of the items loud.
        let sum: f64 = (1..=ITEMS).map(|rank| 1.0 / rank as f64).sum();
        let popularity = order.iter().map(|&rank| 1.0 / (rank + 1) as f64 / sum).collect();
        let loudness = (0..ITEMS).map(|_| if rng.random_bool(0.25) { 1.0 } else { 0.0 }).collect();
        Self { habits, loudness, popularity, noise: 0.15 }
    }

    /// How much each past item pulls under a habit; sums to 1.
    pub fn pulls(&self, habit: &Habit, past: &[usize]) -> Vec<f64> {
        let ages = (0..past.len()).rev();
        let pulls = past.iter().zip(ages).map(|(&item, age)| (self.loudness[item] - habit.rate * age as f64).exp());
        let pulls: Vec<f64> = pulls.collect();
        let sum: f64 = pulls.iter().sum();
        pulls.into_iter().map(|pull| pull / sum).collect()
    }

    /// The probability of each item to be next: nobody can know more.
    pub fn probabilities(&self, past: &[usize]) -> Vec<f64> {
        let mut all: Vec<f64> = self.popularity.iter().map(|popular| self.noise * popular).collect();
        for habit in &self.habits {
            for (&item, pull) in past.iter().zip(self.pulls(habit, past)) {
                all[habit.follower[item]] += (1.0 - self.noise) * habit.share * pull;
            }
        }
        all
    }

    /// Sessions that are all different.
    pub fn sessions(&self, count: usize, rng: &mut StdRng) -> Vec<Session> {
        let (mut sessions, mut seen) = (Vec::with_capacity(count), HashSet::new());
        while sessions.len() < count {
            let session = self.session(rng);
            if seen.insert(session.items.clone()) {
                sessions.push(session);
            }
        }
        sessions
    }

    fn session(&self, rng: &mut StdRng) -> Session {
        let mut session = Session { items: vec![rng.random_range(0..ITEMS)], causes: vec![None] };
        while session.items.len() < LENGTH {
            let (item, cause) = self.next(&session.items, rng);
            session.items.push(item);
            session.causes.push(cause);
        }
        session
    }

    fn next(&self, past: &[usize], rng: &mut StdRng) -> (usize, Option<(usize, usize)>) {
        if rng.random_bool(self.noise) {
            return (draw(&self.popularity, rng), None);
        }
        let habit = draw(&self.habits.each_ref().map(|habit| habit.share), rng);
        let at = draw(&self.pulls(&self.habits[habit], past), rng);
        (self.habits[habit].follower[past[at]], Some((habit, at)))
    }
}

/// What an item is called.
pub fn name(item: usize) -> String {
    format!("{} {}", COLOURS[item % COLOURS.len()], THINGS[item / COLOURS.len() % THINGS.len()])
}

/// For each item another; from any of them all others are reached.
fn cycle(rng: &mut StdRng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ITEMS).collect();
    order.shuffle(rng);
    let mut follower = vec![0; ITEMS];
    (0..ITEMS).for_each(|at| follower[order[at]] = order[(at + 1) % ITEMS]);
    follower
}

/// A place, with the probability that stands there; they sum to 1.
fn draw(probabilities: &[f64], rng: &mut StdRng) -> usize {
    let mut left: f64 = rng.random();
    let found = probabilities.iter().position(|probability| {
        left -= probability;
        left < 0.0
    });
    found.unwrap_or(probabilities.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_as_probable_as_the_rule_says() {
        let rule = Rule::new(3);
        let (past, mut rng) = ([5, 9, 5, 31, 40, 2, 17], StdRng::seed_from_u64(1));
        let probabilities = rule.probabilities(&past);
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let (draws, mut counts) = (100_000, vec![0; ITEMS]);
        (0..draws).for_each(|_| counts[rule.next(&past, &mut rng).0] += 1);
        for (count, probability) in counts.iter().zip(&probabilities) {
            // Five standard deviations.
            let most = 5.0 * (f64::from(draws) * probability * (1.0 - probability)).sqrt();
            assert!((f64::from(*count) - f64::from(draws) * probability).abs() < most, "{count} for {probability}");
        }
    }

    #[test]
    fn pulls_fall_by_the_rate_and_loud_items_pull_more() {
        let mut rule = Rule::new(3);
        rule.loudness = vec![0.0; ITEMS];
        rule.loudness[7] = 2.0;
        let pulls = rule.pulls(&rule.habits[1], &[7, 1, 2]);
        assert!((pulls[2] / pulls[1] - 0.15f64.exp()).abs() < 1e-12);
        assert!((pulls[0] / pulls[2] - (2.0f64 - 0.3).exp()).abs() < 1e-12);
    }

    #[test]
    fn sessions_differ_follow_their_causes_and_repeat_by_seed() {
        let rule = Rule::new(3);
        let sessions = rule.sessions(300, &mut StdRng::seed_from_u64(4));
        assert_eq!(sessions, rule.sessions(300, &mut StdRng::seed_from_u64(4)));
        assert_eq!(sessions.iter().map(|session| &session.items).collect::<HashSet<_>>().len(), 300);
        for session in &sessions {
            assert_eq!((session.items.len(), session.causes[0]), (LENGTH, None));
            for (at, cause) in session.causes.iter().enumerate() {
                let Some((habit, from)) = *cause else { continue };
                assert!(from < at && session.items[at] == rule.habits[habit].follower[session.items[from]]);
            }
        }
        let names: HashSet<String> = (0..ITEMS).map(name).collect();
        assert_eq!(names.len(), ITEMS);
    }
}
