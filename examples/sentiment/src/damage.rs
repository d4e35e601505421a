//! What happens to text on its way: letters slip, words go missing.

use rand::Rng;
use rand::rngs::StdRng;

/// Letters of the shortest word that gets a typo.
const SHORTEST: usize = 4;

/// The words, of those of four letters and more the share `share` with one typo: two neighbours swapped, a letter left out, or a letter
/// doubled. The first letter stays.
pub fn typos(words: &[&str], share: f64, rng: &mut StdRng) -> Vec<String> {
    let mut damaged = Vec::with_capacity(words.len());
    for word in words {
        let mut letters: Vec<char> = word.chars().collect();
        let places: Vec<usize> = (0..letters.len()).filter(|&at| letters[at].is_alphabetic()).collect();
        if places.len() >= SHORTEST && rng.random_bool(share) {
            // Neither the first nor, so that it has a neighbour, the last.
            let at = places[rng.random_range(1..places.len() - 1)];
            match rng.random_range(0..3) {
                0 => letters.swap(at, at + 1),
                1 => drop(letters.remove(at)),
                _ => letters.insert(at, letters[at]),
            }
        }
        damaged.push(letters.into_iter().collect());
    }
    damaged
}

/// Indices of the words that are left where each goes missing with the probability `share`; one stays in any case.
pub fn left(count: usize, share: f64, rng: &mut StdRng) -> Vec<usize> {
    let left: Vec<usize> = (0..count).filter(|_| !rng.random_bool(share)).collect();
    if left.is_empty() && count > 0 { vec![rng.random_range(0..count)] } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_typo_swaps_drops_or_doubles_and_spares_short_words() {
        let mut rng = StdRng::seed_from_u64(1);
        let words = ["the", "\"word\"", "3.50", "it's"];
        let mut found = Vec::new();
        for _ in 0..300 {
            let damaged = typos(&words, 1.0, &mut rng);
            assert_eq!((&*damaged[0], &*damaged[2], &*damaged[3]), ("the", "3.50", "it's"));
            found.push(damaged[1].clone());
        }
        found.sort();
        found.dedup();
        assert_eq!(found, ["wod", "wodr", "woord", "worrd", "wrd", "wrod"].map(|word| format!("\"{word}\"")));
        assert_eq!(typos(&words, 0.0, &mut rng), words);
    }

    #[test]
    fn about_the_share_of_words_goes_and_never_all() {
        let mut rng = StdRng::seed_from_u64(1);
        let count = left(10_000, 0.2, &mut rng).len();
        assert!((7_800..8_200).contains(&count), "{count}");
        assert_eq!(left(3, 1.0, &mut rng).len(), 1);
        assert_eq!(left(0, 0.5, &mut rng), Vec::<usize>::new());
    }
}
