//! Expressions of masks against their definitions, pair by pair, and block masks against the functions they were made from.

use attn_core::block_mask::{BLOCK, Block};
use attn_core::{Alignment, BlockMask, Coverage, MaskExpr, MaskShape, Pair};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Whether a pair is seen, from the words of each leaf. Random blocks are compiled alone: what they draw is theirs.
fn defined(expr: &MaskExpr, at: Pair, shape: &MaskShape) -> bool {
    let (p, j) = (i128::from(at.position), at.key as i128);
    let own = |count: usize| if count == 1 { 0 } else { at.batch };
    match expr {
        MaskExpr::All => true,
        MaskExpr::Window { left, right } => {
            left.is_none_or(|left| p - left as i128 <= j) && right.is_none_or(|right| j <= p + right as i128)
        }
        MaskExpr::Chunks { size, before, after } => {
            let chunk = |x: i128| x.div_euclid(*size as i128);
            chunk(p) - *before as i128 <= chunk(j) && chunk(j) <= chunk(p) + *after as i128
        }
        MaskExpr::Strided { step } => (p - j).rem_euclid(*step as i128) == 0,
        MaskExpr::Columns { step, width } => at.key % step >= step - width,
        MaskExpr::Keys(keys) => keys.contains(&at.key),
        MaskExpr::Queries(positions) => positions.iter().any(|&position| position as i128 == p),
        MaskExpr::RandomBlocks { .. } => expr.compile(shape).unwrap().sees(at.batch, at.head, at.query, at.key),
        MaskExpr::Documents(ids) => {
            let ids = &ids[own(ids.len())];
            p >= 0 && p < ids.len() as i128 && ids[p as usize] == ids[at.key]
        }
        MaskExpr::Prefix(lengths) => at.key < lengths[own(lengths.len())],
        MaskExpr::PerHead(heads) => defined(&heads[at.head], at, shape),
        MaskExpr::Function(_) => at.query * 7 % 5 != at.key * 3 % 4 || at.batch + at.head == 1,
        MaskExpr::And(parts) => parts.iter().all(|part| defined(part, at, shape)),
        MaskExpr::Or(parts) => parts.iter().any(|part| defined(part, at, shape)),
        MaskExpr::Not(part) => !defined(part, at, shape),
        _ => unreachable!("every expression has a definition here"),
    }
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0), 4 => 1usize..20, 4 => select(vec![63, 64, 65, 127, 128, 129]), 2 => 1usize..300]
}

fn shapes() -> impl Strategy<Value = MaskShape> {
    let alignment = prop_oneof![
        3 => Just(Alignment::BottomRight),
        1 => Just(Alignment::TopLeft),
        2 => (-150i64..150).prop_map(Alignment::Offset)
    ];
    let ragged = proptest::bool::weighted(0.3);
    (1usize..3, 1usize..3, lengths(), lengths(), alignment, ragged).prop_map(|(b, h, q, k, alignment, ragged)| {
        let shape = MaskShape::new(b, h, q, k).with_alignment(alignment);
        if ragged { shape.with_kv_lens((0..b).map(|at| k - k.min(at * 5)).collect::<Vec<_>>()) } else { shape }
    })
}

fn leaf(shape: MaskShape) -> impl Strategy<Value = MaskExpr> {
    let keys = shape.key_len;
    let near = || prop_oneof![Just(None), (0usize..90).prop_map(Some), Just(Some(usize::MAX))];
    let per_batch = prop_oneof![Just(1), Just(shape.batch)];
    let ids = per_batch.clone().prop_flat_map(move |entries| {
        prop_oneof![
            // Documents one after another, and ids in any order.
            vec(vec(0u32..3, keys), entries).prop_map(|mut ids| {
                ids.iter_mut().for_each(|ids| ids.sort_unstable());
                ids
            }),
            vec(vec(0u32..3, keys), entries)
        ]
    });
    prop_oneof![
        Just(MaskExpr::All),
        (near(), near()).prop_map(|(left, right)| MaskExpr::window(left, right)),
        (1usize..150, 0usize..3, 0usize..3).prop_map(|(size, before, after)| MaskExpr::Chunks { size, before, after }),
        (1usize..100).prop_map(|step| MaskExpr::Strided { step }),
        (1usize..100)
            .prop_flat_map(|step| (Just(step), 0..=step))
            .prop_map(|(step, width)| MaskExpr::Columns { step, width }),
        vec(0usize..320, 0..5).prop_map(MaskExpr::keys),
        vec(0usize..320, 0..5).prop_map(MaskExpr::queries),
        (1usize..100, 0usize..3, any::<u64>()).prop_map(|(block, count, seed)| MaskExpr::RandomBlocks {
            block,
            count,
            seed
        }),
        ids.prop_map(MaskExpr::documents),
        per_batch
            .prop_flat_map(|entries| vec(0usize..200, entries))
            .prop_map(|lengths| MaskExpr::Prefix(lengths.into())),
        Just(MaskExpr::function(|at| at.query * 7 % 5 != at.key * 3 % 4 || at.batch + at.head == 1)),
        (0usize..4, 0usize..4, 1usize..5).prop_map(|(left, right, step)| MaskExpr::dilated(left, right, step)),
    ]
}

fn expressions() -> impl Strategy<Value = (MaskShape, MaskExpr)> {
    shapes().prop_flat_map(|shape| {
        let heads = shape.heads;
        let expr = leaf(shape.clone()).prop_recursive(3, 8, 3, move |part| {
            prop_oneof![
                vec(part.clone(), 0..3).prop_map(MaskExpr::And),
                vec(part.clone(), 0..3).prop_map(MaskExpr::Or),
                part.clone().prop_map(|part| !part),
                vec(part, heads).prop_map(MaskExpr::PerHead),
            ]
        });
        (Just(shape), expr)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_compiled_expression_sees_what_its_words_say((shape, expr) in expressions()) {
        let mask = expr.compile(&shape).unwrap();
        let offset = |batch: usize| {
            let keys = shape.kv_lens.as_ref().map_or(shape.key_len, |lens| lens[batch]);
            shape.alignment.offset(shape.query_len, keys)
        };
        let count = shape.query_len * shape.key_len;
        // Every pair of a small mask, some hundreds of a large one.
        let step = (count / 700).max(1);
        for (batch, head) in (0..shape.batch).flat_map(|batch| (0..shape.heads).map(move |head| (batch, head))) {
            for at in (0..count).step_by(step) {
                let (query, key) = (at / shape.key_len, at % shape.key_len);
                let pair = Pair { batch, head, query, key, position: query as i64 + offset(batch) };
                prop_assert_eq!(mask.sees(batch, head, query, key), defined(&expr, pair, &shape), "{:?}", pair);
            }
        }
    }

    #[test]
    fn blocks_are_called_by_their_names((shape, expr) in expressions()) {
        let mask = expr.compile(&shape).unwrap();
        let [batches, heads, query_len, key_len] = mask.shape();
        let [query_blocks, key_blocks] = mask.blocks();
        for at in 0..batches * heads * query_blocks * key_blocks {
            let (rest, key_block) = (at / key_blocks, at % key_blocks);
            let (batch, head, query_block) = (rest / query_blocks / heads, rest / query_blocks % heads, rest % query_blocks);
            let rows = query_block * BLOCK..((query_block + 1) * BLOCK).min(query_len);
            let keys = key_block * BLOCK..((key_block + 1) * BLOCK).min(key_len);
            let seen: usize = rows.clone().map(|row| mask.seen_in(batch, head, row, keys.clone())).sum();
            let block = mask.block(batch, head, query_block, key_block).unwrap();
            let expected = match seen {
                0 => Coverage::None,
                seen if seen == rows.len() * keys.len() => Coverage::Full,
                _ => Coverage::Partial,
            };
            prop_assert_eq!(mask.coverage(batch, head, rows, keys), expected);
            let kind = match block {
                Block::Empty => Coverage::None,
                Block::Full => Coverage::Full,
                Block::Partial(_) => Coverage::Partial,
            };
            prop_assert_eq!(kind, expected);
        }
    }
}

#[test]
fn a_function_of_pairs_is_asked_and_kept() {
    let seen = |b: usize, h: usize, q: usize, k: usize| (b + 2 * h + 3 * q + 5 * k) % 7 < 3;
    let mask = BlockMask::from_fn([2, 3, 70, 130], seen).unwrap();
    for at in 0..2 * 3 * 70 * 130 {
        let (b, h, q, k) = (at / (3 * 70 * 130), at / (70 * 130) % 3, at / 130 % 70, at % 130);
        assert_eq!(mask.sees(b, h, q, k), seen(b, h, q, k));
    }
    let count: usize = (0..130).filter(|&k| (5..128).contains(&k) && seen(1, 2, 69, k)).count();
    assert_eq!(mask.seen_in(1, 2, 69, 5..128), count);
    assert_eq!(mask.seen_in(1, 2, 69, 7..7), 0);
}

#[test]
fn far_blocks_are_known_without_looking() {
    // A window of 256 at length 8192: a diagonal of 128 blocks, 4 beside it and one at its edge.
    let mask =
        (MaskExpr::causal() & MaskExpr::window(Some(255), None)).compile(&MaskShape::new(3, 5, 8192, 8192)).unwrap();
    let count = mask.count();
    assert_eq!(mask.shape(), [1, 1, 8192, 8192]);
    assert_eq!((count.full, count.partial), (3 * 128 - 6, 128 + 124));
    assert_eq!(count.empty + count.full + count.partial, 128 * 128);
    // The diagonal's pattern and the edge's.
    assert_eq!(mask.patterns().len(), 2);
    assert_eq!(count.to_string(), format!("{} blocks skipped, 252 masked, 378 whole", count.empty));
    // A function is not asked where its neighbours have decided.
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = asked.clone();
    let seen = MaskExpr::function(move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        true
    });
    (MaskExpr::chunks(64) & seen).compile(&MaskShape::new(1, 1, 512, 512)).unwrap();
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 8 * 64 * 64);
}

#[test]
fn random_blocks_are_as_many_as_asked_for_and_the_same_again() {
    let shape = MaskShape::new(1, 1, 1000, 1000);
    let of = |seed, count| MaskExpr::RandomBlocks { block: 100, count, seed }.compile(&shape).unwrap();
    let mask = of(1, 3);
    assert_eq!(mask, of(1, 3));
    assert_ne!(mask, of(2, 3));
    for query in [0, 99, 100, 500, 999] {
        assert_eq!(mask.seen_in(0, 0, query, 0..1000), 300);
        assert_eq!(mask.word(0, 0, query, 3), mask.word(0, 0, query / 100 * 100, 3));
    }
    assert_eq!(of(1, 11).seen_in(0, 0, 7, 0..1000), 1000);
    // Over many seeds every block comes equally often: 3 of 10, within 5 standard deviations.
    let mut drawn = [0i32; 10];
    for seed in 0..500 {
        let mask = of(seed, 3);
        (0..10).for_each(|block| drawn[block] += i32::from(mask.sees(0, 0, 250, block * 100)));
    }
    assert!(drawn.iter().all(|&count| (count - 150).abs() < 52), "{drawn:?}");
}

#[test]
fn patterns_of_the_literature() {
    let shape = MaskShape::new(2, 2, 200, 200);
    let longformer = MaskExpr::longformer(10, [0, 7]).compile(&shape).unwrap();
    let sees = |q, k| longformer.sees(1, 1, q, k);
    assert!(sees(50, 40) && sees(50, 60) && !sees(50, 61) && sees(50, 7) && sees(7, 190) && !sees(8, 190));
    let big_bird = MaskExpr::big_bird(20, 1, 2, 0..20, 5).compile(&shape).unwrap();
    assert!(big_bird.sees(0, 0, 70, 40) && big_bird.sees(0, 0, 70, 99) && big_bird.sees(0, 0, 19, 199));
    // Two random blocks at most beside three near ones and the global one.
    assert!((0..200).all(|q| q < 20 || big_bird.seen_in(0, 0, q, 0..200) <= 6 * 20));
    let prefix = MaskExpr::prefix_lm([3, 100]).compile(&shape).unwrap();
    assert!(prefix.sees(0, 0, 0, 2) && !prefix.sees(0, 0, 0, 3) && prefix.sees(1, 0, 0, 99) && prefix.sees(0, 0, 9, 9));
    assert_eq!(prefix.shape(), [2, 1, 200, 200]);
    let dilated = MaskExpr::dilated(2, 1, 3).compile(&shape).unwrap();
    let seen: Vec<_> = (0..200).filter(|&k| dilated.sees(0, 0, 100, k)).collect();
    assert_eq!(seen, [94, 97, 100, 103]);
}

#[test]
fn what_has_no_meaning_names_the_leaf() {
    let shape = MaskShape::new(2, 3, 10, 12);
    let cases = [
        ("chunks", MaskExpr::chunks(0)),
        ("strided", MaskExpr::Strided { step: 0 }),
        ("columns", MaskExpr::Columns { step: 0, width: 0 }),
        ("columns", MaskExpr::Columns { step: 3, width: 4 }),
        ("random_blocks", MaskExpr::RandomBlocks { block: 0, count: 1, seed: 0 }),
        ("documents", MaskExpr::documents(vec![vec![0; 11]])),
        ("documents", MaskExpr::documents(vec![vec![0; 12]; 3])),
        ("documents", MaskExpr::documents(vec![])),
        ("prefix", MaskExpr::prefix_lm([1, 2, 3])),
        ("per_head", MaskExpr::PerHead(vec![MaskExpr::All; 2])),
        ("keys", MaskExpr::Keys([3, 1].into())),
        ("queries", MaskExpr::Queries([1, 1].into())),
    ];
    for (leaf, expr) in cases {
        let nested = !(MaskExpr::All & (expr.clone() | MaskExpr::causal()));
        for expr in [expr, nested] {
            assert_eq!(expr.compile(&shape).unwrap_err().argument(), Some(leaf), "{expr:?}");
        }
    }
    let ragged = shape.clone().with_kv_lens([1]);
    assert_eq!(MaskExpr::All.compile(&ragged).unwrap_err().argument(), Some("kv_lens"));
    let endless = MaskShape::new(usize::MAX, 1, 1 << 40, 1 << 40);
    let expr = MaskExpr::Prefix(vec![1; 1].into()) & MaskExpr::function(|_| true);
    assert_eq!(expr.compile(&endless).unwrap_err().argument(), Some("block_mask"));
}

#[test]
fn axes_without_elements_compile() {
    for [b, h, q, k] in [[0, 2, 5, 5], [2, 0, 5, 5], [2, 2, 0, 5], [2, 2, 5, 0]] {
        let shape = MaskShape::new(b, h, q, k);
        for expr in
            [MaskExpr::causal(), MaskExpr::function(|_| true), MaskExpr::RandomBlocks { block: 3, count: 2, seed: 1 }]
        {
            let mask = expr.compile(&shape).unwrap();
            assert_eq!(mask.shape()[2..], [q, k]);
            // What an expression does not depend on is broadcast, and so has blocks where the lengths have.
            let broadcast = mask.shape()[0] * mask.shape()[1] == 1;
            assert!(mask.table().is_empty() || broadcast && q * k > 0, "{expr:?} {:?}", mask.shape());
        }
    }
}
