//! The accounts of a shape against a count, pair by pair, from the definition.

use super::*;

/// Whether query `i` of a batch entry may see key `j`, straight from the definition; masks are apart.
fn sees(shape: &Shape, batch: usize, i: usize, j: usize) -> bool {
    let keys = shape.kv_lens().map_or(shape.key_len, |lens| lens[batch]);
    let position = i as i64 + keys as i64 - shape.query_len as i64;
    let distance = j as i64 - position;
    let windowed = shape.window.is_none_or(|w| -(w.left as i64) <= distance && distance <= w.right as i64);
    j < keys && (!shape.causal || distance <= 0) && windowed
}

fn small() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let windows = [
        None,
        Some(Window { left: 2, right: 0 }),
        Some(Window { left: 0, right: 3 }),
        Some(Window { left: 50, right: 50 }),
    ];
    for suite in Suite::ALL {
        for (query_len, key_len) in [(1, 1), (1, 9), (4, 9), (7, 7), (9, 4), (5, 1)] {
            for causal in [false, true] {
                for (n, window) in windows.into_iter().enumerate() {
                    let extras = Extras { ragged: n % 2 == 1, value_dim: (n > 1).then_some(7), ..Extras::default() };
                    shapes.push(Shape {
                        suite,
                        dtype: Dtype::Bf16,
                        batch: 3,
                        heads: 4,
                        kv_heads: 2,
                        query_len,
                        key_len,
                        head_dim: 5,
                        causal,
                        window,
                        scale: None,
                        softcap: None,
                        extras,
                    });
                }
            }
        }
    }
    shapes
}

#[test]
fn visible_keys_are_those_of_the_definition() {
    for shape in small() {
        for (batch, i) in (0..shape.batch).flat_map(|batch| (0..shape.query_len).map(move |i| (batch, i))) {
            let counted: Vec<usize> = (0..shape.key_len).filter(|&j| sees(&shape, batch, i, j)).collect();
            let told: Vec<usize> = shape.visible_keys(batch, i).collect();
            assert_eq!(told, counted, "query {i} of {shape:?}");
        }
    }
}

#[test]
fn flops_are_counted_on_visible_pairs() {
    for shape in small() {
        let mut operations = 0u64;
        for head in 0..shape.batch * shape.heads {
            for i in 0..shape.query_len {
                for j in 0..shape.key_len {
                    if sees(&shape, head / shape.heads, i, j) {
                        // A multiplication and an addition for each of q·k and p·v, and each dim.
                        operations += 2 * (shape.head_dim + shape.value_dim()) as u64;
                    }
                }
            }
        }
        let factor = if shape.suite == Suite::Train { 3.5 } else { 1.0 };
        assert_eq!(shape.flops(), factor * operations as f64, "{shape:?}");
    }
}

#[test]
fn bytes_are_those_of_keys_that_some_query_sees() {
    for shape in small() {
        let of =
            |batch| (0..shape.key_len).filter(|&j| (0..shape.query_len).any(|i| sees(&shape, batch, i, j))).count();
        let seen: usize = (0..shape.batch).map(of).sum();
        let bytes = shape.kv_heads * seen * (shape.head_dim + shape.value_dim()) * 2;
        assert_eq!(shape.kv_bytes(), bytes as u64, "{shape:?}");
    }
}

#[test]
fn causal_work_is_half_and_a_diagonal() {
    let shapes = suite(Suite::Prefill);
    let long = |causal| {
        *shapes
            .iter()
            .find(|s| s.query_len == 4096 && s.causal == causal && s.window.is_none())
            .expect("the suite has 4096×64 both ways")
    };
    let (full, half) = (long(false).flops(), long(true).flops());
    assert_eq!(half / full, 4097.0 / 8192.0);
    assert_eq!(full, 4.0 * 8.0 * 4096.0 * 4096.0 * 64.0);
}

#[test]
fn every_suite_has_shapes_that_can_be_told_apart() {
    for kind in Suite::ALL {
        let shapes = suite(kind);
        let mut labels: Vec<String> = shapes.iter().map(Shape::to_string).collect();
        labels.sort();
        labels.dedup();
        assert_eq!(labels.len(), shapes.len(), "{} has a shape twice", kind.name());
        for shape in shapes {
            assert_eq!(shape.suite, kind);
            assert!(shape.heads.is_multiple_of(shape.kv_heads), "{shape}");
            assert!(shape.flops() > 0.0, "{shape}");
        }
    }
}

#[test]
fn shapes_for_cards_keep_the_work_of_a_length_and_fit_one() {
    let shapes = card();
    let mut labels: Vec<String> = shapes.iter().map(Shape::to_string).collect();
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), shapes.len(), "a shape stands twice");
    let plain = |s: &&Shape| s.suite == Suite::Prefill && s.options() == if s.causal { "causal" } else { "" };
    let squares: Vec<&Shape> =
        shapes.iter().filter(plain).filter(|s| s.heads == s.kv_heads && s.query_len == s.key_len).collect();
    assert_eq!(squares.len(), 2 * 2 * 5 * 2);
    for shape in squares {
        assert_eq!(shape.elements(), [16384 * 2048; 4], "{shape}");
        assert_eq!(shape.batch * shape.query_len, 16384, "{shape}");
        assert_eq!(shape.heads, if shape.head_dim == 64 { 32 } else { 16 }, "{shape}");
    }
    let caches: Vec<&Shape> = shapes.iter().filter(|s| s.suite == Suite::Decode).collect();
    assert_eq!(caches.len(), 10);
    for shape in &shapes {
        assert!(shape.suite != Suite::Train && shape.dtype != Dtype::F32, "{shape}");
        assert!(shape.heads.is_multiple_of(shape.kv_heads), "{shape}");
        // Inputs are drawn on the host and copied to the card: two numbers of 2^28 and their copies at most.
        assert!(shape.elements().iter().all(|&n| n <= 1 << 28), "{shape}");
        assert!(shape.score_bytes() <= 16 << 30, "{shape}");
        assert!(crate::contestants::copies(shape) * shape.kv_bytes() <= 1 << 30, "{shape}");
    }
}

#[test]
fn a_sweep_is_the_same_for_a_seed_and_has_everything() {
    type Is = fn(&Shape) -> bool;
    let shapes = sweep(1, 200);
    assert_eq!(shapes.len(), 200);
    assert_eq!(shapes, sweep(1, 200));
    assert_eq!(shapes[..50], sweep(1, 50));
    assert_ne!(shapes, sweep(2, 200));
    let count = |is: Is| shapes.iter().filter(|shape| is(shape)).count();
    let wanted: [(&str, Is); 18] = [
        ("causal", |s| s.causal),
        ("window", |s| s.window.is_some()),
        ("scale", |s| s.scale.is_some()),
        ("softcap", |s| s.softcap.is_some()),
        ("alibi", |s| s.extras.alibi),
        ("sinks", |s| s.extras.sinks),
        ("kv_lens", |s| s.extras.ragged && s.batch > 1),
        ("padding", |s| s.extras.mask == Some(MaskKind::Padding) && s.batch > 1),
        ("documents", |s| matches!(s.extras.mask, Some(MaskKind::Documents(_)))),
        ("mask of pairs", |s| s.extras.mask == Some(MaskKind::Pairs)),
        ("bias of heads", |s| s.extras.bias == Some(BiasKind::Heads)),
        ("bias of keys", |s| s.extras.bias == Some(BiasKind::Keys)),
        ("shared heads", |s| s.heads > s.kv_heads),
        ("values of another dim", |s| s.value_dim() != s.head_dim),
        ("other lengths", |s| s.query_len != s.key_len),
        ("dims of no multiple of 8", |s| s.head_dim % 8 != 0),
        ("bf16", |s| s.dtype == Dtype::Bf16),
        ("f16", |s| s.dtype == Dtype::F16),
    ];
    for (name, is) in wanted {
        assert!(count(is) >= 2, "{name}: {} of 200", count(is));
    }
    for shape in &shapes {
        assert!((1..=3000).contains(&shape.query_len) && (1..=3000).contains(&shape.key_len), "{shape}");
        assert!((8..=256).contains(&shape.head_dim) && (8..=256).contains(&shape.value_dim()), "{shape}");
        assert!(shape.heads.is_multiple_of(shape.kv_heads), "{shape}");
    }
    let long = count(|s| s.query_len > 1000);
    let short = count(|s| s.query_len < 32);
    assert!(long >= 10 && short >= 30, "{long} long, {short} short");
}
