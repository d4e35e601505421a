//! Attention that stops early: chunk after chunk of keys, until what is left cannot move a query's output by more than ε.

use attn_core::{AttentionError, AttentionSpec, Mask, Problem, ProblemInputs};
use burn::config::Config;
use burn::tensor::{Bool, Int, Tensor, TensorData};

use super::check::{self, positive};
use super::parts;
use crate::attention::{check_devices, info};
use crate::{Attention, AttentionOutput, merge};

/// In which order [`halting_attention`] reads chunks of keys.
#[derive(Config, Debug, PartialEq, Eq)]
pub enum ChunkOrder {
    /// From the last key to the first: the nearest first where queries stand at the end, or are causal.
    LastFirst,
    /// From the first key to the last.
    FirstFirst,
    /// These chunks, each once; chunk c holds the keys `c·chunk ‥ (c + 1)·chunk`.
    Given(Vec<usize>),
}

/// What [`halting_attention`] may leave out.
#[derive(Config, Debug)]
pub struct HaltingConfig {
    /// The greatest Euclidean distance of a query's output from that of full attention, ε.
    pub epsilon: f64,
    /// Keys of a chunk.
    #[config(default = 64)]
    pub chunk: usize,
    /// In which order chunks are read.
    #[config(default = "ChunkOrder::LastFirst")]
    pub order: ChunkOrder,
    /// The most chunks that a query may read, whatever is left then; `None`: all.
    pub budget: Option<usize>,
    /// Whether keys after the query's position are hidden; the last query stands at the last key.
    #[config(default = false)]
    pub causal: bool,
    /// Factor of `q·k`; `None`: `1/√D`.
    pub scale: Option<f64>,
}

/// What [`halting_attention`] gives.
#[derive(Debug, Clone)]
pub struct HaltingOutput {
    /// `[B, H, Sq, E]`.
    pub out: Tensor<4>,
    /// `[B, H, Sq]`, the natural-log LSE over the keys that were read, in f32 (f64 for f64).
    pub lse: Tensor<3>,
    /// `[B, H, Sq]`, the number of chunks that each query has read.
    pub chunks: Tensor<3, Int>,
    /// `[B, H, Sq]`, what the distance of the output from that of full attention is at most, up to rounding; at most ε, but where
    /// the budget ended a query.
    pub bound: Tensor<3>,
}

/// Attention over chunks of keys in an order, in which each query stops as soon as the rest provably does not matter.
///
/// Query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]`, H a multiple of G; `key_padding` `[B, Sk]` tells which keys
/// are there.
///
/// ```
/// use attn::nn::{HaltingConfig, halting_attention};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let made = |heads, length| Tensor::<4>::random([1, heads, length, 16], Distribution::Default, &device);
/// let config = HaltingConfig::new(0.01).with_causal(true);
/// let output = halting_attention(made(4, 1), made(2, 300), made(2, 300), None, &config)?;
/// assert_eq!(output.chunks.dims(), [1, 4, 1]); // how many of the 5 chunks of 64 keys each query has read
/// # Ok(())
/// # }
/// ```
///
/// **The bound.** A query has read the keys A, with sum `L = Σ_A exp s` and output o, and has left the keys R, with sum `L_R` and
/// output o_R. Full attention gives `(L·o + L_R·o_R) / (L + L_R)`, so with `r = L_R / L` it is
///
/// ```text
/// ‖full − o‖ = r/(1 + r) · ‖o_R − o‖ ≤ r/(1 + r) · (‖o‖ + max_R ‖v‖)         o_R is a mean of values of R
/// r ≤ Σ_c n_c · exp(|scale|·‖q‖·max_c ‖k‖) / L                               c: the chunks left, n_c: their seen keys
/// ```
///
/// by Cauchy–Schwarz, `|q·k| ≤ ‖q‖·‖k‖`, and since `r/(1 + r)` grows with r. The query stops where the right side is at most ε.
/// With ε = 0 it stops when nothing is left, and the result is full attention.
///
/// **The cost.** Only queries that go on are gathered and meet the next chunk, on the fused kernel; parts are joined by their LSE.
/// Each chunk costs attention of the greatest number of such queries that any head has, and a merge over all queries. The bounds
/// take `B·H·Sq·Sk/chunk` numbers, and after each chunk one number a query is read back to the host, which on a GPU waits for the
/// work so far. The bound knows lengths alone, not directions: it stops early where the keys left are short, or have little value,
/// and for random keys of equal lengths in many dimensions hardly ever. It pays for long caches whose chunks differ much.
///
/// Differentiable by query, key and value as the attention over the keys that were read; the decision to stop is not.
///
/// # Errors
/// An [`AttentionError`] that names `query`, `key`, `value`, `key_padding`, or what of the config has no meaning: `epsilon`,
/// `chunk`, `order`, `budget`, `scale`.
pub fn halting_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    key_padding: Option<Mask<Tensor<2, Bool>>>,
    config: &HaltingConfig,
) -> Result<HaltingOutput, AttentionError> {
    let problem = problem(&query, &key, &value, config)?;
    let order = order(config, problem.key_len)?;
    let shape = [problem.batch, problem.key_len];
    let check = |mask| parts::check_mask("key_padding", mask, shape, &query.device());
    let keep = key_padding.map(check).transpose()?;
    let rows = [problem.batch, problem.heads, problem.query_len];
    let (device, dtype) = (query.device(), query.dtype());
    let wide = (&device, parts::accumulation(dtype));
    let count: usize = rows.iter().product();
    let mut output = AttentionOutput {
        out: Tensor::zeros([rows[0], rows[1], rows[2], problem.value_dim], (&device, dtype)),
        lse: Some(Tensor::full(rows, f64::NEG_INFINITY, wide)),
        weights: None,
    };
    let mut queries = vec![Progress { goes_on: true, chunks: 0, bound: 0.0 }; count];
    if count > 0 && problem.key_len > 0 {
        let of_keys = |tensor: Tensor<4>| match &keep {
            Some(keep) => {
                let [batch, heads, length, _] = tensor.dims();
                let keep = keep.clone().reshape([batch, 1, length]).expand::<3, _>([batch, heads, length]);
                parts::without_padding(tensor, Some(&keep))
            }
            None => tensor,
        };
        let (key, value) = (of_keys(key), of_keys(value));
        let run = Run { problem: &problem, config, query, key, value, keep };
        output = run.read(&order, &mut queries, output)?;
    }
    let chunks: Vec<i64> = queries.iter().map(|query| query.chunks as i64).collect();
    let bound: Vec<f64> = queries.iter().map(|query| query.bound).collect();
    Ok(HaltingOutput {
        out: output.out,
        lse: output.lse.unwrap_or_else(|| Tensor::full(rows, f64::NEG_INFINITY, wide)),
        chunks: Tensor::from_data(TensorData::new(chunks, rows), &device),
        bound: Tensor::from_data(TensorData::new(bound, rows), wide),
    })
}

/// Where a query stands.
#[derive(Clone)]
struct Progress {
    goes_on: bool,
    chunks: usize,
    bound: f64,
}

/// One call, checked.
struct Run<'a> {
    problem: &'a Problem,
    config: &'a HaltingConfig,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    keep: Option<Tensor<2, Bool>>,
}

/// What is left after a chunk.
struct Rest {
    /// `ln Σ_c n_c · exp(|scale|·‖q‖·max_c ‖k‖)`, `[B, H, Sq]`.
    mass: Tensor<3>,
    /// `max ‖v‖`, `[B, H, 1]`.
    value: Tensor<3>,
}

impl Run<'_> {
    /// Reads chunk after chunk until no query goes on.
    fn read(
        &self,
        order: &[usize],
        queries: &mut [Progress],
        mut output: AttentionOutput,
    ) -> Result<AttentionOutput, AttentionError> {
        let rests = self.rests(order);
        for (&chunk, rest) in order.iter().zip(rests) {
            let range = self.range(chunk);
            let taken: Vec<bool> = queries
                .iter()
                .enumerate()
                .map(|(at, query)| query.goes_on && self.sees(at % self.problem.query_len, range.0))
                .collect();
            if taken.iter().any(|&taken| taken) {
                output = merge(output, self.chunk(range, &taken)?)?;
            }
            let bounds = self.bounds(&output, rest)?;
            for ((query, taken), bound) in queries.iter_mut().zip(taken).zip(bounds) {
                if query.goes_on {
                    query.chunks += usize::from(taken);
                    query.bound = bound;
                    let spent = self.config.budget.is_some_and(|budget| query.chunks >= budget);
                    query.goes_on = (bound > self.config.epsilon || bound.is_nan()) && !spent;
                }
            }
            if queries.iter().all(|query| !query.goes_on) {
                break;
            }
        }
        Ok(output)
    }

    /// Position of a query among the keys.
    fn position(&self, row: usize) -> i64 {
        row as i64 + self.problem.key_len as i64 - self.problem.query_len as i64
    }

    fn sees(&self, row: usize, first: usize) -> bool {
        !self.config.causal || first as i64 <= self.position(row)
    }

    /// First key and length of a chunk.
    fn range(&self, chunk: usize) -> (usize, usize) {
        let first = chunk * self.config.chunk;
        (first, self.config.chunk.min(self.problem.key_len - first))
    }

    /// Attention of the queries taken over one chunk; the others get 0 and an LSE of −inf.
    fn chunk(&self, (first, length): (usize, usize), taken: &[bool]) -> Result<AttentionOutput, AttentionError> {
        let Problem { batch, heads, query_len, head_dim, value_dim, .. } = *self.problem;
        let rows: Vec<Vec<usize>> = taken
            .chunks_exact(query_len)
            .map(|taken| taken.iter().enumerate().filter(|(_, taken)| **taken).map(|(row, _)| row).collect())
            .collect();
        let most = rows.iter().map(Vec::len).max().unwrap_or(0);
        let all = taken.iter().all(|&taken| taken);
        let ints = |values: Vec<i64>, shape: [usize; 3]| {
            Tensor::<3, Int>::from_data(TensorData::new(values, shape), &self.query.device())
        };
        // Heads of fewer rows are filled up with row 0, whose result is dropped.
        let filled = |row: &dyn Fn(usize) -> i64| {
            let of =
                |rows: &Vec<usize>| (0..most).map(|at| row(rows.get(at).copied().unwrap_or(0))).collect::<Vec<_>>();
            ints(rows.iter().flat_map(of).collect(), [batch, heads, most])
        };
        let query = if all {
            self.query.clone()
        } else {
            let index = filled(&|row| row as i64).reshape([batch, heads, most, 1]);
            self.query.clone().gather(2, index.expand::<4, _>([batch, heads, most, head_dim]))
        };
        let part = |tensor: &Tensor<4>| tensor.clone().narrow(2, first, length);
        let mut attention =
            Attention::new(query, part(&self.key), part(&self.value)).scale(self.problem.scale).with_lse();
        let last = (first + length) as i64 - 1;
        let cuts = self.config.causal && rows.iter().flatten().any(|&row| self.position(row) < last);
        let shape = [batch, heads, most, length];
        let mut mask = cuts.then(|| {
            let position = filled(&|row| self.position(row) - first as i64).reshape([batch, heads, most, 1]);
            let key = Tensor::<1, Int>::arange(0..length as i64, &self.query.device()).reshape([1, 1, 1, length]);
            key.expand::<4, _>(shape).lower_equal(position.expand::<4, _>(shape))
        });
        if let Some(keep) = &self.keep {
            let keep = keep.clone().narrow(1, first, length).reshape([batch, 1, 1, length]);
            mask = Some(match mask {
                Some(mask) => mask.bool_and(keep.expand::<4, _>(shape)),
                None => keep,
            });
        }
        if let Some(mask) = mask {
            attention = attention.mask(Mask::keep(mask));
        }
        let output = attention.forward()?;
        if all {
            return Ok(output);
        }
        let mut back = vec![0_i64; taken.len()];
        for (head, rows) in rows.iter().enumerate() {
            rows.iter().enumerate().for_each(|(at, &row)| back[head * query_len + row] = at as i64);
        }
        let back = ints(back, [batch, heads, query_len]);
        let left = taken.iter().map(|taken| !taken).collect::<Vec<_>>();
        let left = Tensor::<3, Bool>::from_data(TensorData::new(left, [batch, heads, query_len]), &self.query.device());
        let wide = [batch, heads, query_len, value_dim];
        let out = if value_dim == 0 {
            Tensor::zeros(wide, (&output.out.device(), output.out.dtype()))
        } else {
            let rows = [batch, heads, query_len, 1];
            let hidden = left.clone().reshape(rows).expand::<4, _>(wide);
            output.out.gather(2, back.clone().reshape(rows).expand::<4, _>(wide)).mask_fill(hidden, 0.0)
        };
        let lse = output.lse.map(|lse| lse.gather(2, back).mask_fill(left, f32::NEG_INFINITY));
        Ok(AttentionOutput { out, lse, weights: None })
    }

    /// What is left after each chunk of the order.
    fn rests(&self, order: &[usize]) -> Vec<Rest> {
        let Problem { batch, heads, query_len, scale, .. } = *self.problem;
        let wide = parts::accumulation(self.query.dtype());
        let device = self.query.device();
        let norms = |tensor: &Tensor<4>| {
            let [batch, heads, length, _] = tensor.dims();
            let squares = tensor.clone().detach().cast(wide).square();
            let sums = if tensor.dims()[3] == 0 {
                Tensor::zeros([batch, heads, length, 1], (&device, wide))
            } else {
                squares.sum_dim(3)
            };
            sums.sqrt().reshape([batch, heads, length])
        };
        let (query, key, value) = (norms(&self.query).mul_scalar(scale.abs()), norms(&self.key), norms(&self.value));
        let mut mass = Tensor::full([batch, heads, query_len], f64::NEG_INFINITY, (&device, wide));
        let mut greatest = Tensor::zeros([batch, heads, 1], (&device, wide));
        let mut rests = Vec::with_capacity(order.len());
        for &chunk in order.iter().rev() {
            rests.push(Rest { mass: mass.clone(), value: greatest.clone() });
            let (first, length) = self.range(chunk);
            let longest = |norms: &Tensor<3>| self.per_head(norms.clone().narrow(2, first, length).max_dim(2));
            let logits = query.clone() * longest(&key) + self.seen(first, length).log();
            mass = log_add(mass, logits);
            greatest = greatest.max_pair(longest(&value));
        }
        rests.reverse();
        rests
    }

    /// How many keys of a chunk each query sees at most, `[B, 1, Sq]` or broadcastable to it.
    fn seen(&self, first: usize, length: usize) -> Tensor<3> {
        let wide = parts::accumulation(self.query.dtype());
        let device = self.query.device();
        let seen = |row| {
            let seen = self.position(row) + 1 - first as i64;
            if self.config.causal { seen.clamp(0, length as i64) as f64 } else { length as f64 }
        };
        let seen: Vec<f64> = (0..self.problem.query_len).map(seen).collect();
        let seen = Tensor::from_data(TensorData::new(seen, [1, 1, self.problem.query_len]), (&device, wide));
        match &self.keep {
            Some(keep) => {
                let kept = keep.clone().narrow(1, first, length).int().sum_dim(1).float().cast(wide);
                let shape = [self.problem.batch, 1, self.problem.query_len];
                let kept = kept.reshape([self.problem.batch, 1, 1]).expand::<3, _>(shape);
                seen.expand::<3, _>(shape).min_pair(kept)
            }
            None => seen,
        }
    }

    /// `[B, G, 1]` for the query heads, `[B, H, 1]`.
    fn per_head(&self, tensor: Tensor<3>) -> Tensor<3> {
        let Problem { batch, heads, kv_heads, .. } = *self.problem;
        tensor.expand::<3, _>([batch, kv_heads, heads / kv_heads]).reshape([batch, heads, 1])
    }

    /// The bound of each query, read back.
    fn bounds(&self, output: &AttentionOutput, rest: Rest) -> Result<Vec<f64>, AttentionError> {
        let wide = parts::accumulation(self.query.dtype());
        let Problem { batch, heads, query_len, value_dim, .. } = *self.problem;
        let lse = match &output.lse {
            Some(lse) => lse.clone().detach(),
            None => return Err(AttentionError::value("lse", "an LSE that was asked for", "none")),
        };
        let nothing = rest.mass.clone().equal_elem(f64::NEG_INFINITY);
        // r/(1 + r) = 1/(1 + 1/r), of ln r; Burn's sigmoid goes through f32 on some backends, whatever the type.
        let share = (lse - rest.mass.mask_fill(nothing.clone(), 0.0)).exp().add_scalar(1.0).recip();
        let length = if value_dim == 0 {
            Tensor::zeros([batch, heads, query_len], (&output.out.device(), wide))
        } else {
            let squares = output.out.clone().detach().cast(wide).square().sum_dim(3);
            squares.sqrt().reshape([batch, heads, query_len])
        };
        let bounds = (share * (length + rest.value)).mask_fill(nothing, 0.0);
        let failed = |reason: String| AttentionError::Execution { kernel: "halting".into(), reason };
        bounds.try_into_vec_as::<f64>().map_err(|error| failed(error.to_string()))
    }
}

/// `ln(exp a + exp b)`, −inf where both are.
fn log_add(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let max = a.clone().max_pair(b.clone());
    let nothing = max.clone().equal_elem(f64::NEG_INFINITY);
    let from = max.clone().mask_fill(nothing, 0.0);
    ((a - from.clone()).exp() + (b - from.clone()).exp()).log() + from
}

fn problem(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    config: &HaltingConfig,
) -> Result<Problem, AttentionError> {
    check::epsilon("epsilon", config.epsilon)?;
    positive("chunk", config.chunk)?;
    config.budget.map(|budget| positive("budget", budget)).transpose()?;
    check_devices(&query.device(), &[("key", Some(key.device())), ("value", Some(value.device()))])?;
    let mut spec = AttentionSpec::new().with_causal(config.causal);
    spec.scale = config.scale;
    Problem::new(&spec, &ProblemInputs::new(info(query), info(key), info(value)))
}

/// The chunks in their order.
fn order(config: &HaltingConfig, key_len: usize) -> Result<Vec<usize>, AttentionError> {
    let chunks = key_len.div_ceil(config.chunk);
    match &config.order {
        ChunkOrder::LastFirst => Ok((0..chunks).rev().collect()),
        ChunkOrder::FirstFirst => Ok((0..chunks).collect()),
        ChunkOrder::Given(order) => {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if sorted.iter().copied().eq(0..chunks) {
                return Ok(order.clone());
            }
            let expected = format!("each of the {chunks} chunks once");
            Err(AttentionError::value("order", expected, format!("{order:?}")))
        }
    }
}
