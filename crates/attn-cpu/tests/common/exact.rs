//! Sums that can judge sums.

/// A sum with its rounding errors added back (Neumaier 1974), so that f64 can judge f64: those of a thousand equal terms all lie on one side.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExactSum {
    sum: f64,
    lost: f64,
}

impl ExactSum {
    pub fn add(&mut self, x: f64) {
        let next = self.sum + x;
        self.lost += if self.sum.abs() >= x.abs() { (self.sum - next) + x } else { (x - next) + self.sum };
        self.sum = next;
    }

    pub fn total(self) -> f64 {
        if self.sum.is_finite() { self.sum + self.lost } else { self.sum }
    }
}

/// The sum of all of these.
pub fn exact_sum(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sum = ExactSum::default();
    numbers.for_each(|x| sum.add(x));
    sum.total()
}
