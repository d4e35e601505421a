//! Random shapes, layouts and all options together, against the oracle, for every element type and instruction set.

mod common;

use common::random::{cases, dims, long_dims, with_options};
use common::{Owned, OwnedBlocks, Random, check_all};
use half::{bf16, f16};
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn options_f32(dims in dims(), seed: u64) {
        check_all(&with_options::<f32>(dims, seed));
    }

    #[test]
    fn options_f64(dims in dims(), seed: u64) {
        check_all(&with_options::<f64>(dims, seed));
    }

    #[test]
    fn options_f16(dims in dims(), seed: u64) {
        check_all(&with_options::<f16>(dims, seed));
    }

    #[test]
    fn options_bf16(dims in dims(), seed: u64) {
        check_all(&with_options::<bf16>(dims, seed));
    }

    /// A permutation of the keys changes nothing but rounding: both orders agree with the oracle of one.
    #[test]
    fn keys_in_any_order(dims in dims(), seed: u64) {
        let owned = Owned::<f32>::plain(dims, seed);
        let mut turned = owned.clone();
        for [b, g, j, _] in common::indices([dims.batch, dims.kv_heads, dims.key_len, 1]) {
            let from = dims.key_len - 1 - j;
            for d in 0..dims.head_dim {
                turned.key.set([b, g, j, d], owned.key.get([b, g, from, d]));
            }
            for e in 0..dims.value_dim {
                turned.value.set([b, g, j, e], owned.value.get([b, g, from, e]));
            }
        }
        let oracle = owned.oracle();
        for isa in attn_cpu::Isa::available() {
            let (out, lse) = turned.run(isa);
            prop_assert_eq!(oracle.check::<f32>(isa, &out, &lse), Ok(()));
        }
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn long_f32(dims in long_dims(), seed: u64) {
        check_all(&with_options::<f32>(dims, seed));
    }

    #[test]
    fn long_f64(dims in long_dims(), seed: u64) {
        check_all(&with_options::<f64>(dims, seed));
    }

    #[test]
    fn long_bf16(dims in long_dims(), seed: u64) {
        check_all(&with_options::<bf16>(dims, seed));
    }

    /// Nearly everything is empty, nothing else is hidden: whole strips, tasks and runs of keys are passed over.
    #[test]
    fn sparse_blocks(dims in long_dims(), seed: u64) {
        let mut random = Random(seed);
        let mut owned = Owned::<f32>::plain(dims, random.next());
        let shape = [1, dims.heads, dims.query_len, dims.key_len];
        owned.blocks = Some(OwnedBlocks::random(shape, 3, true, &mut random));
        check_all(&owned);
    }
}
