//! Random problems: every option of the contract drawn and combined, for property tests.
//!
//! A strategy draws a [`Recipe`], small numbers that shrink well; [`Recipe::build`] makes the problem from it, its data from the
//! recipe's seed. The same recipe gives the same problem in every element type, up to rounding.

mod recipe;

use attn_core::{Alignment, AttentionSpec, Dropout, Polarity, Window};
use proptest::prelude::*;
use proptest::sample::select;

use crate::host::Dims;
use crate::run::{Layout, Layouts};
pub use recipe::{BiasRecipe, BlocksRecipe, MaskRecipe, Recipe, RelativeRecipe};

/// Lengths around the tile sizes and vector widths that kernels use.
const TAILS: [usize; 15] = [15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129];
/// Dimensions likewise, and those that models have.
const DIMS: [usize; 14] = [1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 80, 128];
/// Multiply-adds of the forward pass of one problem at most, so that thousands of them take seconds: most problems, and some.
const MOST_WORK: [usize; 2] = [1 << 18, 1 << 21];

/// Problems with every option, zero-length axes and poisoned hidden entries among them.
pub fn recipes() -> impl Strategy<Value = Recipe> {
    let distances = (proptest::bool::weighted(0.3), relative());
    let options = (masks(), biases(), distances, proptest::bool::weighted(0.3));
    let lens = (proptest::bool::weighted(0.3), blocks(), proptest::bool::weighted(0.08));
    let flags = (lens, proptest::bool::weighted(0.4), proptest::bool::weighted(0.3));
    let size = prop_oneof![6 => Just(1.0), 1 => Just(0.0), 1 => Just(0.05), 2 => Just(4.0)];
    (dims(), specs(), options, flags, size, layouts(), any::<u64>()).prop_map(
        |(
            dims,
            spec,
            (mask, bias, (alibi, relative), sinks),
            ((kv_lens, blocks, score_mod), poison, grad_lse),
            size,
            layouts,
            seed,
        )| Recipe {
            dims,
            // Far offsets make ALiBi's penalties too large to be told apart in f32: what comes is then right, and says nothing.
            spec: if alibi { near(spec) } else { spec },
            mask,
            bias,
            alibi,
            relative,
            sinks,
            kv_lens,
            blocks,
            score_mod,
            poison,
            grad_lse,
            size,
            layouts,
            seed,
        },
    )
}

/// Lengths of all axes, zero among them, within the work limit.
pub fn dims() -> impl Strategy<Value = Dims> {
    let heads = (prop_oneof![30 => 1usize..=3, 1 => Just(0)], prop_oneof![3 => Just(1usize), 3 => 2usize..=4]);
    let batch = prop_oneof![30 => 1usize..=3, 1 => Just(0)];
    let value_dim = prop_oneof![24 => select(&DIMS[..]), 1 => Just(0)];
    let work = prop_oneof![9 => Just(MOST_WORK[0]), 1 => Just(MOST_WORK[1])];
    let drawn = (batch, heads, length(), length(), select(&DIMS[..]), value_dim, work);
    drawn.prop_map(|(batch, (kv_heads, group), query_len, key_len, head_dim, value_dim, work)| {
        let dims = Dims { batch, heads: kv_heads * group, kv_heads, query_len, key_len, head_dim, value_dim };
        affordable(dims, work)
    })
}

/// Takes from batch and heads, then from the dimensions, then from the longer sequence, until the work is within the limit.
fn affordable(mut dims: Dims, most: usize) -> Dims {
    let work = |dims: &Dims| dims.scores().iter().product::<usize>() * (dims.head_dim + dims.value_dim);
    if work(&dims) > most {
        (dims.batch, dims.heads, dims.kv_heads) = (1, dims.heads / dims.kv_heads, 1);
    }
    if work(&dims) > most {
        (dims.head_dim, dims.value_dim) = (dims.head_dim.min(17), dims.value_dim.min(9));
    }
    while work(&dims) > most {
        let longer = if dims.query_len > dims.key_len { &mut dims.query_len } else { &mut dims.key_len };
        *longer = (*longer / 2).max(1);
    }
    dims
}

fn length() -> impl Strategy<Value = usize> {
    let long = [255usize, 256, 257, 1023, 1024, 1025];
    prop_oneof![
        18 => 1usize..=20,
        20 => select(&TAILS[..]),
        6 => 21usize..=200,
        2 => select(long.to_vec()),
        1 => Just(0),
    ]
}

/// Scale, softcap, causal, window, alignment and dropout.
pub fn specs() -> impl Strategy<Value = AttentionSpec> {
    let scale = prop_oneof![4 => Just(None), 1 => Just(Some(0.0)), 2 => (-0.5f64..0.5).prop_map(Some)];
    let softcap = prop_oneof![3 => Just(None), 1 => (0.2f64..40.0).prop_map(Some)];
    let side = || prop_oneof![5 => Just(None), 4 => (0usize..40).prop_map(Some), 1 => Just(Some(usize::MAX))];
    let alignment = prop_oneof![
        5 => Just(Alignment::BottomRight),
        3 => Just(Alignment::TopLeft),
        3 => (-40i64..200).prop_map(Alignment::Offset),
        1 => select(&[i64::MIN, i64::MAX, -(1 << 40), 1 << 40][..]).prop_map(Alignment::Offset),
    ];
    let probability = prop_oneof![1 => Just(0.0), 6 => 0.01f64..0.9, 1 => Just(0.999)];
    let dropout = (probability, any::<u64>()).prop_map(|(probability, seed)| Dropout::new(probability, seed));
    let dropout = proptest::option::weighted(0.2, dropout);
    (scale, softcap, any::<bool>(), side(), side(), alignment, dropout).prop_map(
        |(scale, softcap, causal, left, right, alignment, dropout)| AttentionSpec {
            scale,
            softcap,
            causal,
            window: Window { left, right },
            alignment,
            dropout,
        },
    )
}

fn near(spec: AttentionSpec) -> AttentionSpec {
    match spec.alignment {
        Alignment::Offset(offset) => spec.with_alignment(Alignment::Offset(offset.clamp(-1000, 1000))),
        _ => spec,
    }
}

fn masks() -> impl Strategy<Value = Option<MaskRecipe>> {
    let density = prop_oneof![1 => Just(0.0), 10 => 0.05f64..0.95, 1 => Just(1.0)];
    let mask = (any::<[bool; 4]>(), prop_oneof![Just(Polarity::Keep), Just(Polarity::Hide)], density);
    proptest::option::weighted(0.4, mask.prop_map(|(full, polarity, density)| MaskRecipe { full, polarity, density }))
}

fn blocks() -> impl Strategy<Value = Option<BlocksRecipe>> {
    let shares = prop_oneof![2 => Just([0.3, 0.3]), 2 => Just([0.8, 0.1]), 1 => Just([0.1, 0.8])];
    proptest::option::weighted(
        0.2,
        (any::<[bool; 2]>(), shares).prop_map(|(full, shares)| BlocksRecipe { full, shares }),
    )
}

fn biases() -> impl Strategy<Value = Option<BiasRecipe>> {
    let hides = prop_oneof![9 => Just(0.0), 6 => 0.05f64..0.9, 1 => Just(1.0)];
    proptest::option::weighted(0.3, (any::<[bool; 4]>(), hides).prop_map(|(full, hides)| BiasRecipe { full, hides }))
}

fn relative() -> impl Strategy<Value = Option<RelativeRecipe>> {
    let reach = prop_oneof![2 => Just(0usize), 6 => 1usize..20, 2 => 20usize..200, 1 => Just(1500)];
    let hides = prop_oneof![7 => Just(0.0), 1 => 0.05f64..0.3];
    let drawn = (any::<bool>(), reach, hides);
    proptest::option::weighted(
        0.15,
        drawn.prop_map(|(per_head, reach, hides)| RelativeRecipe { per_head, reach, hides }),
    )
}

fn layouts() -> impl Strategy<Value = Layouts> {
    let layout = || select(&[Layout::Contiguous, Layout::SequenceFirst, Layout::Transposed, Layout::Part][..]);
    (layout(), layout(), layout(), layout(), layout()).prop_map(|(query, key, value, mask, bias)| Layouts {
        query,
        key,
        value,
        mask,
        bias,
    })
}

/// How many problems a property test draws, and from which seed. `ATTN_TEST_FACTOR` multiplies their number, `PROPTEST_RNG_SEED`
/// replaces the seed, which is fixed so that a test that passes for one person passes for the next.
pub fn config(cases: u32) -> ProptestConfig {
    let set = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let factor = set("ATTN_TEST_FACTOR").and_then(|factor| u32::try_from(factor).ok()).unwrap_or(1);
    ProptestConfig {
        cases: cases.saturating_mul(factor),
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(set("PROPTEST_RNG_SEED").unwrap_or(0x0a77_e4d1)),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::FloatDType;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;

    /// Shares of the problems drawn, so that a change of the strategies cannot quietly make the tests trivial.
    #[test]
    fn problems_are_of_every_kind() {
        let mut runner = TestRunner::new(config(1));
        let mut share = [0.0; 6];
        for _ in 0..2000 {
            let recipe = recipes().new_tree(&mut runner).expect("nothing is rejected").current();
            let problem = recipe.build(FloatDType::F32);
            let [b, h, q, k] = problem.dims.scores();
            let pairs = b * h * q * k;
            let index = |at: usize| [at / (h * q * k), at / (q * k) % h, at / k % q, at % k];
            let seen = (0..pairs).filter(|at| problem.sees(index(*at))).count();
            let is = [
                pairs == 0,
                seen == 0 && pairs > 0,
                seen > 0 && seen < pairs,
                seen == pairs && pairs > 0,
                problem.inputs.value.iter().any(|value| value.is_nan()),
                pairs > 10_000,
            ];
            share.iter_mut().zip(is).for_each(|(share, is)| *share += f64::from(u8::from(is)) / 2000.0);
        }
        let [empty, blind, partly, fully, poisoned, large] = share;
        println!("empty {empty}, blind {blind}, partly {partly}, fully {fully}, poisoned {poisoned}, large {large}");
        assert!((0.02..0.2).contains(&empty) && (0.02..0.25).contains(&blind), "{share:?}");
        assert!(partly > 0.4 && fully > 0.1 && poisoned > 0.15 && large > 0.05, "{share:?}");
    }
}
