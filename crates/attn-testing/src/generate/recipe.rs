//! What a random problem is made from, and the making.

use std::sync::Arc;

use attn_core::block_mask::BLOCK;
use attn_core::reference::{Broadcast, HostInputs};
use attn_core::{AttentionSpec, BlockMask, Polarity};
use burn::tensor::FloatDType;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::host::{Affine, Dims, HostProblem, HostUpstream, broadcast, position_in, round_to};
use crate::run::Layouts;

/// A random mask.
#[derive(Debug, Clone, Copy)]
pub struct MaskRecipe {
    /// Which axes have their full length; the others are broadcast.
    pub full: [bool; 4],
    /// What `true` means.
    pub polarity: Polarity,
    /// Share of the elements that are `true`.
    pub density: f64,
}

/// A random bias.
#[derive(Debug, Clone, Copy)]
pub struct BiasRecipe {
    /// Which axes have their full length; the others are broadcast.
    pub full: [bool; 4],
    /// Share of the elements that are `−inf`.
    pub hides: f64,
}

/// A random bias by relative position.
#[derive(Debug, Clone, Copy)]
pub struct RelativeRecipe {
    /// Whether each head has its own.
    pub per_head: bool,
    /// R, the greatest distance with a number of its own.
    pub reach: usize,
    /// Share of the distances that are `−inf`.
    pub hides: f64,
}

/// A random mask by blocks.
#[derive(Debug, Clone, Copy)]
pub struct BlocksRecipe {
    /// Whether batch and heads have their full length; they are broadcast otherwise.
    pub full: [bool; 2],
    /// Shares of the blocks that are empty and that are full; the others are mixed.
    pub shares: [f64; 2],
}

impl BlocksRecipe {
    /// A mask for these lengths.
    fn build(&self, dims: Dims, rng: &mut SmallRng) -> BlockMask {
        let [b, h, q, k] = dims.scores();
        let axis = |full: bool, len: usize| if full { len } else { len.min(1) };
        let (b, h) = (axis(self.full[0], b), axis(self.full[1], h));
        let [rows, keys] = [q, k].map(|len| len.div_ceil(BLOCK));
        // A share of the pairs of each block that are seen.
        let [empty, full] = self.shares;
        let kinds: Vec<f64> = (0..b * h * rows * keys)
            .map(|_| match rng.random::<f64>() {
                drawn if drawn < empty => 0.0,
                drawn if drawn < empty + full => 1.0,
                _ => [0.05, 0.5, 0.95][rng.random_range(0..3)],
            })
            .collect();
        let salt: u64 = rng.random();
        BlockMask::from_fn([b, h, q, k], |b, head, q, k| {
            let block = ((b * h + head) * rows + q / BLOCK) * keys + k / BLOCK;
            let index = ((b * h + head) as u64) << 40 ^ (q as u64) << 20 ^ k as u64;
            let noise = (index ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            ((noise ^ noise >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11) as f64 / ((1u64 << 53) as f64)
                < kinds[block]
        })
        .expect("masks of these lengths fit in memory")
    }
}

/// A random problem before its data is made.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Lengths of all axes.
    pub dims: Dims,
    /// Numbers and switches.
    pub spec: AttentionSpec,
    /// Whether there is a mask, and which.
    pub mask: Option<MaskRecipe>,
    /// Whether there is a bias, and which.
    pub bias: Option<BiasRecipe>,
    /// Whether there are ALiBi slopes.
    pub alibi: bool,
    /// Whether there is a bias by relative position, and which.
    pub relative: Option<RelativeRecipe>,
    /// Whether there are sinks.
    pub sinks: bool,
    /// Whether there are key lengths.
    pub kv_lens: bool,
    /// Whether there is a mask by blocks, and which.
    pub blocks: Option<BlocksRecipe>,
    /// Whether scores go through a function.
    pub score_mod: bool,
    /// Whether what nothing sees is NaN or infinite.
    pub poison: bool,
    /// Whether the loss takes the LSE in.
    pub grad_lse: bool,
    /// Standard deviation of queries and keys.
    pub size: f64,
    /// How the tensors lie in memory.
    pub layouts: Layouts,
    /// Of the data.
    pub seed: u64,
}

impl Recipe {
    /// The problem, its numbers rounded to the type.
    pub fn build(&self, dtype: FloatDType) -> HostProblem {
        let dims = self.dims;
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let mut draw = |len: usize, size: f64| -> Vec<f64> {
            (0..len).map(|_| round_to(dtype, size * normal(&mut rng))).collect()
        };
        let volume = |shape: [usize; 4]| shape.iter().product::<usize>();
        let mut problem = HostProblem {
            dtype,
            dims,
            spec: self.spec,
            kv_lens: None,
            block_mask: None,
            score_mod: self.score_mod.then_some(Affine { seed: self.seed, hides: self.seed.is_multiple_of(2) }),
            inputs: HostInputs {
                query: draw(volume(dims.query()), self.size),
                key: draw(volume(dims.key()), self.size),
                value: draw(volume(dims.value()), 1.0),
                mask: None,
                bias: None,
                alibi_slopes: self.alibi.then(|| draw(dims.heads, 0.3)),
                relative_bias: None,
                sinks: self.sinks.then(|| draw(dims.heads, 2.0)),
            },
        };
        problem.kv_lens = self.kv_lens.then(|| (0..dims.batch).map(|_| rng.random_range(0..=dims.key_len)).collect());
        problem.block_mask = self.blocks.map(|blocks| Arc::new(blocks.build(dims, &mut rng)));
        problem.inputs.mask = self.mask.map(|mask| {
            let shape = shape(dims.scores(), mask.full);
            (broadcast(shape, |_| rng.random_bool(mask.density)), mask.polarity)
        });
        let hidden_bias = |rng: &mut SmallRng, hides: f64| {
            if rng.random_bool(hides) { f64::NEG_INFINITY } else { round_to(dtype, normal(rng)) }
        };
        if let Some(relative) = self.relative {
            let heads = if relative.per_head { dims.heads } else { 1 };
            let table = broadcast([1, heads, 1, 2 * relative.reach + 1], |_| hidden_bias(&mut rng, relative.hides));
            problem.inputs.relative_bias = Some(table);
            if self.poison {
                poison_table(&mut problem, &mut rng);
            }
        }
        let bias =
            self.bias.map(|bias| broadcast(shape(dims.scores(), bias.full), |_| hidden_bias(&mut rng, bias.hides)));
        match bias {
            Some(bias) if self.poison => {
                let poisoned = poison_bias(&problem, bias, &mut rng);
                problem.inputs.bias = Some(poisoned);
            }
            bias => problem.inputs.bias = bias,
        }
        if self.poison {
            poison(&mut problem, &mut rng);
        }
        problem
    }

    /// An upstream gradient for the problem, in numbers that f32 holds.
    pub fn upstream(&self) -> HostUpstream {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x5eed);
        let mut draw = |len| (0..len).map(|_| round_to(FloatDType::F32, normal(&mut rng))).collect::<Vec<f64>>();
        HostUpstream {
            grad_out: draw(self.dims.out().iter().product()),
            grad_lse: self.grad_lse.then(|| draw(self.dims.rows().iter().product())),
        }
    }
}

/// Sum of four uniform numbers, of mean 0 and variance 1: close enough to a normal distribution, never beyond ±3.5.
fn normal(rng: &mut SmallRng) -> f64 {
    ((0..4).map(|_| rng.random::<f64>()).sum::<f64>() - 2.0) * 3f64.sqrt()
}

fn shape(scores: [usize; 4], full: [bool; 4]) -> [usize; 4] {
    [0, 1, 2, 3].map(|axis| if full[axis] { scores[axis] } else { 1 })
}

fn poisonous(rng: &mut SmallRng) -> f64 {
    [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][rng.random_range(0..3)]
}

/// NaN or infinity in every bias that only hidden pairs read; `−inf` stays where it alone hides.
fn poison_bias(problem: &HostProblem, mut bias: Broadcast<f64>, rng: &mut SmallRng) -> Broadcast<f64> {
    let mut read = vec![false; bias.data.len()];
    each_pair(problem.dims, |index| read[position_in(bias.shape, index)] |= problem.sees(index));
    for (element, _) in bias.data.iter_mut().zip(read).filter(|(_, read)| !read) {
        *element = poisonous(rng);
    }
    bias
}

/// NaN or infinity in every number of the table by relative position that only hidden pairs read; `−inf` stays where it alone hides.
fn poison_table(problem: &mut HostProblem, rng: &mut SmallRng) {
    let Some(table) = problem.inputs.relative_bias.clone() else { return };
    let mut read = vec![false; table.data.len()];
    let alone = HostProblem { inputs: HostInputs { relative_bias: None, ..problem.inputs.clone() }, ..problem.clone() };
    each_pair(problem.dims, |index| {
        if let Some(at) = problem.in_table(index) {
            read[at] |= alone.sees(index);
        }
    });
    let unread = read.into_iter().map(|read| !read);
    let data = table.data.iter().zip(unread).map(|(&bias, unread)| if unread { poisonous(rng) } else { bias });
    let data = data.collect();
    problem.inputs.relative_bias = Some(Broadcast { data, ..table });
}

/// NaN or infinity in every key and value that no query sees, and in every query that sees no key.
fn poison(problem: &mut HostProblem, rng: &mut SmallRng) {
    let dims = problem.dims;
    let mut keys = vec![false; dims.batch * dims.kv_heads * dims.key_len];
    let mut queries = vec![false; dims.batch * dims.heads * dims.query_len];
    each_pair(dims, |index| {
        if problem.sees(index) {
            let [batch, head, row, key] = index;
            keys[(batch * dims.kv_heads + problem.kv_head(head)) * dims.key_len + key] = true;
            queries[(batch * dims.heads + head) * dims.query_len + row] = true;
        }
    });
    let mut fill = |data: &mut [f64], dim: usize, seen: &[bool]| {
        for (at, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
            data[at * dim..(at + 1) * dim].iter_mut().for_each(|element| *element = poisonous(rng));
        }
    };
    fill(&mut problem.inputs.key, dims.head_dim, &keys);
    fill(&mut problem.inputs.value, dims.value_dim, &keys);
    fill(&mut problem.inputs.query, dims.head_dim, &queries);
}

fn each_pair(dims: Dims, mut f: impl FnMut([usize; 4])) {
    let [b, h, q, k] = dims.scores();
    for at in 0..b * h * q * k {
        f([at / (h * q * k), at / (q * k) % h, at / k % q, at % k]);
    }
}
