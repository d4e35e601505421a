//! The gradients in f64, written from the formulas alone, each with how far a kernel's may lie from it.

use attn_cpu::{Element, Gradients, Isa, Upstream, View, Wanted, backward};

use super::exact::{ExactSum, exact_sum};
use super::{Array, Dims, Lay, Oracle, Owned, Random, Real, affine_slope, indices};

/// A problem with what came from above.
#[derive(Debug, Clone)]
pub struct Above<T: Real> {
    pub owned: Owned<T>,
    pub grad_out: Option<Array<T>>,
    pub grad_lse: Option<Vec<f64>>,
    /// Shapes of the gradients by the bias and by the table, where there are these.
    pub bias: Option<[usize; 4]>,
    pub table: Option<[usize; 2]>,
}

/// What a forward pass gave.
#[derive(Debug, Clone)]
pub struct Given<T: Real> {
    out: Vec<T>,
    lse: Vec<T::Accum>,
}

/// A gradient and its error, number by number.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    right: Vec<ExactSum>,
    error: Vec<f64>,
}

impl Judged {
    fn zeros(count: usize) -> Self {
        Self { right: vec![ExactSum::default(); count], error: vec![0.0; count] }
    }

    fn add(&mut self, at: usize, term: f64, error: f64) {
        self.right[at].add(term);
        self.error[at] += error;
    }

    fn check<T: Real>(&self, what: &str, found: &Option<Vec<T>>) -> Result<(), String> {
        let found = found.as_ref().ok_or(format!("{what}: not there"))?;
        if found.len() != self.right.len() {
            return Err(format!("{what}: {} numbers for {}", found.len(), self.right.len()));
        }
        for (at, (x, (right, error))) in found.iter().zip(self.right.iter().zip(&self.error)).enumerate() {
            let right = right.total();
            let error = error + T::ROUND * right.abs() + if T::ROUND > 1e-4 { 1e-7 } else { T::SMALLEST };
            if (x.up() - right).abs() > error || x.up().is_nan() != right.is_nan() {
                return Err(format!("{what}: element {at} is {}, should be {right} ± {error:e}", x.up()));
            }
        }
        Ok(())
    }
}

/// All gradients.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    query: Judged,
    key: Judged,
    value: Judged,
    bias: Judged,
    slopes: Judged,
    table: Judged,
    sinks: Judged,
}

impl<T: Real> Above<T> {
    /// Random gradients from above of a problem's output, and of its LSE with a chance of one half.
    pub fn random(owned: Owned<T>, random: &mut Random) -> Self {
        let Dims { batch, heads, query_len, key_len, value_dim, .. } = owned.dims;
        let lay = [Lay::Plain, Lay::Plain, Lay::Swapped, Lay::Transposed, Lay::Padded][random.below(5)];
        let mut inner = Random(random.next());
        let shape = [batch, heads, query_len, value_dim];
        let by_lse = random.below(2) == 0;
        let by_out = !by_lse || random.below(8) > 0;
        let axes = |array: &Array<T>, full: [usize; 4]| {
            std::array::from_fn(|axis| if array.strides[axis] == 0 && full[axis] > 0 { 1 } else { full[axis] })
        };
        let bias = owned.bias.as_ref().map(|bias| axes(bias, [batch, heads, query_len, key_len]));
        let table = owned.relative_bias.as_ref().map(|table| {
            let heads = if table.strides[1] == 0 && heads > 0 { 1 } else { heads };
            [heads, table.shape[3]]
        });
        Self {
            grad_out: by_out.then(|| Array::new(shape, lay, T::of(f64::NAN), || T::of(inner.normal()))),
            grad_lse: by_lse.then(|| (0..batch * heads * query_len).map(|_| random.normal()).collect()),
            bias,
            table,
            owned,
        }
    }

    /// Everything that there is.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            query: true,
            key: true,
            value: true,
            bias: self.bias,
            alibi_slopes: self.owned.alibi_slopes.is_some(),
            relative_bias: self.table,
            sinks: self.owned.sinks.is_some(),
        }
    }

    /// Output and LSE of a forward pass.
    pub fn given(&self) -> Given<T> {
        Self::rounded(&self.owned.oracle())
    }

    fn rounded(oracle: &Oracle) -> Given<T> {
        Given {
            out: oracle.out.iter().map(|x| T::of(*x)).collect(),
            lse: oracle.lse.iter().map(|x| T::accum(*x)).collect(),
        }
    }

    /// Runs the kernel from what a forward pass gave.
    pub fn run(&self, Given { out, lse }: &Given<T>, isa: Isa, wanted: Wanted) -> Gradients<T> {
        let Dims { batch, heads, query_len, value_dim, .. } = self.owned.dims;
        let above: Option<Vec<T::Accum>> =
            self.grad_lse.as_ref().map(|grad| grad.iter().map(|x| T::accum(*x)).collect());
        let rows = [batch, heads, query_len];
        let upstream = Upstream {
            out: View::contiguous(out, [batch, heads, query_len, value_dim]).expect("its own length"),
            lse: View::contiguous(lse, rows).expect("its own length"),
            grad_out: self.grad_out.as_ref().map(Array::view),
            grad_lse: above.as_ref().map(|grad| View::contiguous(grad, rows).expect("its own length")),
        };
        backward(&self.owned.problem(), isa, &upstream, wanted).expect("a sound problem")
    }

    /// The right gradients. `pairs`: where weights and gradients by scores are rounded to elements as they are multiplied.
    pub fn oracle(&self, pairs: bool) -> Answer {
        self.oracle_from(&self.owned.oracle(), pairs)
    }

    /// The same from the right outputs.
    fn oracle_from(&self, forward: &Oracle, pairs: bool) -> Answer {
        let Dims { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim } = self.owned.dims;
        let owned = &self.owned;
        let group = heads.checked_div(kv_heads).unwrap_or(1);
        let round = T::ACCUM_ROUND;
        let narrow = if pairs { 2.0 * T::ROUND } else { 0.0 };
        let (bias_shape, table_shape) = (self.bias.unwrap_or([0; 4]), self.table.unwrap_or([0; 2]));
        let mut answer = Answer {
            query: Judged::zeros(batch * heads * query_len * head_dim),
            key: Judged::zeros(batch * kv_heads * key_len * head_dim),
            value: Judged::zeros(batch * kv_heads * key_len * value_dim),
            bias: Judged::zeros(bias_shape.iter().product()),
            slopes: Judged::zeros(heads),
            table: Judged::zeros(table_shape.iter().product()),
            sinks: Judged::zeros(heads),
        };
        // Sums in f32 of up to so many terms, by blocks.
        let steps = round * (8.0 + ((query_len * group).max(key_len) as f64).sqrt());
        for [b, h, i, _] in indices([batch, heads, query_len, 1]) {
            let (g, row) = (h / group, (b * heads + h) * query_len + i);
            let lse = forward.lse[row];
            let grad_out = |e| self.grad_out.as_ref().map_or(0.0, |grad| grad.get([b, h, i, e]).up());
            let grad_lse = self.grad_lse.as_ref().map_or(0.0, |grad| grad[row]);
            let out = |e: usize| forward.out[row * value_dim + e];
            let delta = exact_sum((0..value_dim).map(|e| grad_out(e) * out(e)));
            let size: f64 = (0..value_dim).map(|e| (grad_out(e) * out(e)).abs()).sum();
            let shift = delta - grad_lse;
            let value_steps = round * (4.0 + (value_dim as f64).sqrt());
            let seen: Vec<_> = (0..key_len)
                .filter(|j| owned.seen([b, h, i, *j]))
                .filter_map(|j| Some((j, owned.score_and_way(b, h, g, i, j)?)))
                .collect();
            // Of the output, which is rounded, or of the weights, whose errors are as large as those of the scores.
            let mut by_weights = 0.0;
            for (j, (score, wrong, _)) in &seen {
                let factor = owned.factor([b, h, i, *j]);
                let value = |e| factor * owned.value.get([b, g, *j, e]).up();
                let size: f64 = (0..value_dim).map(|e| (grad_out(e) * value(e)).abs()).sum();
                let wrong = wrong + 4.0 * round * (2.0 + lse.abs() + score.abs());
                by_weights += (score - lse).exp() * size * (wrong + value_steps + steps);
            }
            // Numbers of f16 below the smallest normal one are rounded to multiples of 2⁻²⁴.
            let coarse = if <T as Element>::NAME == "f16" { 0.5_f64.powi(25) } else { 0.0 };
            let coarse = coarse * (0..value_dim).map(|e| grad_out(e).abs()).sum::<f64>();
            let shift_error =
                size * (T::ROUND + value_steps) + 2.0 * round * (delta.abs() + grad_lse.abs()) + by_weights + coarse;
            if let Some(sinks) = &owned.sinks {
                let weight = (sinks[h].up() - lse).exp();
                let wrong = 4.0 * round * (1.0 + lse.abs() + sinks[h].up().abs());
                answer.sinks.add(h, -weight * shift, weight * (shift_error + shift.abs() * (wrong + steps)));
            }
            for (j, (score, wrong, way)) in seen {
                let weight = (score - lse).exp();
                let wrong = wrong + 4.0 * round * (2.0 + lse.abs() + score.abs());
                let weight_error = weight * (wrong + narrow) + T::SMALLEST;
                let factor = owned.factor([b, h, i, j]);
                for e in 0..value_dim {
                    let at = ((b * kv_heads + g) * key_len + j) * value_dim + e;
                    let grad = factor * grad_out(e);
                    answer.value.add(at, weight * grad, (weight_error + weight * steps) * grad.abs());
                }
                let value = |e| factor * owned.value.get([b, g, j, e]).up();
                let by_out = exact_sum((0..value_dim).map(|e| grad_out(e) * value(e)));
                let size: f64 = (0..value_dim).map(|e| (grad_out(e) * value(e)).abs()).sum();
                let change = weight * (by_out - shift);
                let spread = by_out.abs() + shift.abs();
                let error = weight * (size * value_steps + shift_error + 4.0 * round * spread)
                    + weight_error * (by_out - shift).abs();
                let (change, error) = (change * way.function, error * way.function.abs());
                if self.bias.is_some() {
                    let at = [b, h, i, j]
                        .iter()
                        .zip(bias_shape)
                        .fold(0, |at, (place, length)| at * length + if length == 1 { 0 } else { *place });
                    answer.bias.add(at, change, error + change.abs() * steps * 2.0);
                }
                let distance = j as f64 - (i as f64 + owned.bands[b].offset as f64);
                if owned.alibi_slopes.is_some() {
                    let far = distance.abs();
                    answer.slopes.add(h, -change * far, (error + change.abs() * steps * 2.0) * far);
                }
                if let Some([own, distances]) = self.table {
                    let reach = (distances / 2) as f64;
                    let at = (distance.clamp(-reach, reach) + reach) as usize;
                    let at = if own == 1 { at } else { h * distances + at };
                    answer.table.add(at, change, error + change.abs() * steps * 2.0);
                }
                let raw = change * way.softcap;
                let error = error * way.softcap.abs() + change.abs() * way.softcap_error + raw.abs() * narrow;
                for d in 0..head_dim {
                    let (query, key) = (owned.query.get([b, h, i, d]).up(), owned.key.get([b, g, j, d]).up());
                    let term = owned.scale * raw;
                    let wrong = owned.scale.abs() * error + term.abs() * steps;
                    answer.query.add(row * head_dim + d, term * key, wrong * key.abs());
                    let at = ((b * kv_heads + g) * key_len + j) * head_dim + d;
                    answer.key.add(at, term * query, wrong * query.abs());
                }
            }
        }
        answer
    }
}

impl Answer {
    /// Whether all gradients are right.
    pub fn check<T: Real>(&self, wanted: Wanted, found: &Gradients<T>) -> Result<(), String> {
        let all = [
            ("query", wanted.query, &self.query, &found.query),
            ("key", wanted.key, &self.key, &found.key),
            ("value", wanted.value, &self.value, &found.value),
            ("bias", wanted.bias.is_some(), &self.bias, &found.bias),
            ("alibi_slopes", wanted.alibi_slopes, &self.slopes, &found.alibi_slopes),
            ("relative_bias", wanted.relative_bias.is_some(), &self.table, &found.relative_bias),
            ("sinks", wanted.sinks, &self.sinks, &found.sinks),
        ];
        all.into_iter().try_for_each(|(what, wanted, right, found)| match (wanted, found) {
            (true, found) => right.check(what, found),
            (false, None) => Ok(()),
            (false, Some(_)) => Err(format!("{what}: not wanted")),
        })
    }
}

/// What a score is multiplied with on its way back.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Slope of the caller's function.
    pub function: f64,
    /// Slope of the softcap, and its error.
    pub softcap: f64,
    pub softcap_error: f64,
}

impl<T: Real> Owned<T> {
    /// A score, how far the kernel's may lie from it, and what it is multiplied with on its way back.
    fn score_and_way(&self, b: usize, h: usize, g: usize, i: usize, j: usize) -> Option<(f64, f64, Way)> {
        let (score, wrong) = self.score(b, h, g, i, j)?;
        let function = if self.affine { affine_slope([b, h, i, j]) } else { 1.0 };
        let (mut softcap, mut softcap_error) = (1.0, 0.0);
        if let Some(cap) = self.softcap {
            let dot = exact_sum(
                (0..self.dims.head_dim).map(|d| self.query.get([b, h, i, d]).up() * self.key.get([b, g, j, d]).up()),
            );
            let size = exact_sum(
                (0..self.dims.head_dim)
                    .map(|d| (self.query.get([b, h, i, d]).up() * self.key.get([b, g, j, d]).up()).abs()),
            );
            let tanh = (dot * self.scale / cap).tanh();
            softcap = 1.0 - tanh * tanh;
            let steps = 4.0 + (self.dims.head_dim as f64).sqrt();
            let before = size * self.scale.abs() / cap * steps * T::ACCUM_ROUND;
            softcap_error =
                2.0 * tanh.abs() * (softcap * before + 8.0 * T::ACCUM_ROUND * tanh.abs()) + 4.0 * T::ACCUM_ROUND;
        }
        Some((score, wrong, Way { function, softcap, softcap_error }))
    }
}

/// Checks the kernel of every instruction set, all gradients.
pub fn check_gradients<T: Real>(above: &Above<T>) {
    let wanted = above.wanted();
    let forward = above.owned.oracle();
    let (given, wide) = (Above::<T>::rounded(&forward), above.oracle_from(&forward, false));
    // Rounded products: of bf16 alone, where the CPU has them.
    let pairs =
        (<T as Element>::NAME == "bf16" && Isa::Avx512Bf16.is_available()).then(|| above.oracle_from(&forward, true));
    for isa in Isa::available() {
        let found = above.run(&given, isa, wanted);
        let answer = pairs.as_ref().filter(|_| isa == Isa::Avx512Bf16).unwrap_or(&wide);
        if let Err(wrong) = answer.check(wanted, &found) {
            panic!("{} {} {:?}: {wrong}", T::NAME, isa.name(), above.owned.dims);
        }
    }
}
