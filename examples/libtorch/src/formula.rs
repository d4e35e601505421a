//! Attention by its formula, in f64, a pair at a time.

/// What the queries see.
#[derive(Clone, Copy)]
pub enum Seen {
    /// Every query the first so many keys.
    FirstKeys(usize),
    /// Query `i` the keys up to `i + keys − queries`: the last query stands at the last key.
    Causal,
}

/// One head of attention.
pub struct Problem {
    /// How many queries.
    pub queries: usize,
    /// How many keys.
    pub keys: usize,
    /// Their dimension, and that of the values.
    pub dim: usize,
    /// What they see.
    pub seen: Seen,
}

impl Problem {
    /// Whether query `i` sees key `j`.
    pub fn sees(&self, i: usize, j: usize) -> bool {
        match self.seen {
            Seen::FirstKeys(count) => j < count,
            Seen::Causal => j + self.queries <= i + self.keys,
        }
    }

    /// Query, key and value: waves, so that every run has the same.
    pub fn inputs(&self) -> [Vec<f64>; 3] {
        let wave = |rows: usize, step: f64| (0..rows * self.dim).map(|n| (n as f64 * step).sin()).collect();
        [wave(self.queries, 0.37), wave(self.keys, 0.53), wave(self.keys, 0.71)]
    }

    /// `softmax(q·k / √dim) · v` over what is seen, `[queries, dim]`.
    pub fn answer(&self) -> Vec<f64> {
        // The inputs as f32 has them.
        let [query, key, value] =
            self.inputs().map(|data| data.into_iter().map(|x| f64::from(x as f32)).collect::<Vec<_>>());
        let row = |data: &[f64], at: usize| data[at * self.dim..][..self.dim].to_vec();
        let mut out = Vec::new();
        for i in 0..self.queries {
            let seen: Vec<usize> = (0..self.keys).filter(|&j| self.sees(i, j)).collect();
            let q = row(&query, i);
            let score =
                |j: usize| q.iter().zip(row(&key, j)).map(|(a, b)| a * b).sum::<f64>() / (self.dim as f64).sqrt();
            let weights: Vec<f64> = seen.iter().map(|&j| score(j).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for e in 0..self.dim {
                let weighted = seen.iter().zip(&weights).map(|(&j, weight)| weight * value[j * self.dim + e]);
                out.push(weighted.sum::<f64>() / sum);
            }
        }
        out
    }
}
