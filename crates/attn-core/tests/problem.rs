//! What a problem takes, and what it refuses by which name.

use attn_core::{Alignment, AttentionError, AttentionSpec, Problem, ProblemInputs, TensorInfo};
use burn_backend::DType;

fn info(shape: &[usize]) -> TensorInfo {
    TensorInfo { shape: shape.into(), dtype: DType::F32 }
}

fn inputs<'a>() -> ProblemInputs<'a> {
    ProblemInputs::new(info(&[2, 6, 5, 8]), info(&[2, 3, 7, 8]), info(&[2, 3, 7, 4]))
}

fn argument(spec: &AttentionSpec, inputs: &ProblemInputs<'_>) -> Option<&'static str> {
    Problem::new(spec, inputs).unwrap_err().argument()
}

#[test]
fn shapes_come_from_the_tensors() {
    let problem = Problem::new(&AttentionSpec::new().with_causal(true), &inputs()).unwrap();
    assert_eq!((problem.batch, problem.heads, problem.kv_heads, problem.group()), (2, 6, 3, 2));
    assert_eq!((problem.query_len, problem.key_len, problem.head_dim, problem.value_dim), (5, 7, 8, 4));
    assert_eq!(problem.scale, 1.0 / 8f64.sqrt());
    assert_eq!(problem.bands[0].offset, 2);
    assert!(problem.may_hide());
}

#[test]
fn wrong_shapes_name_the_tensor() {
    let plain = AttentionSpec::new();
    let cases: Vec<(&str, ProblemInputs<'_>)> = vec![
        ("query", ProblemInputs { query: info(&[2, 6, 5]), ..inputs() }),
        ("query", ProblemInputs { query: info(&[2, 6, 5, 0]), key: info(&[2, 3, 7, 0]), ..inputs() }),
        ("key", ProblemInputs { key: info(&[2, 3, 7, 9]), ..inputs() }),
        ("key", ProblemInputs { key: info(&[1, 3, 7, 8]), ..inputs() }),
        ("key", ProblemInputs { key: info(&[2, 4, 7, 8]), value: info(&[2, 4, 7, 4]), ..inputs() }),
        ("key", ProblemInputs { key: info(&[2, 0, 7, 8]), value: info(&[2, 0, 7, 4]), ..inputs() }),
        ("value", ProblemInputs { value: info(&[2, 3, 6, 4]), ..inputs() }),
        ("value", ProblemInputs { value: info(&[2, 1, 7, 4]), ..inputs() }),
        ("mask", ProblemInputs { mask: Some(info(&[2, 6, 5, 6])), ..inputs() }),
        ("bias", ProblemInputs { bias: Some(info(&[2, 3, 5, 7])), ..inputs() }),
        ("bias", ProblemInputs { bias: Some(info(&[5, 7])), ..inputs() }),
        ("alibi_slopes", ProblemInputs { alibi_slopes: Some(info(&[3])), ..inputs() }),
        ("relative_bias", ProblemInputs { relative_bias: Some(info(&[6, 4])), ..inputs() }),
        ("relative_bias", ProblemInputs { relative_bias: Some(info(&[6, 0])), ..inputs() }),
        ("relative_bias", ProblemInputs { relative_bias: Some(info(&[3, 5])), ..inputs() }),
        ("relative_bias", ProblemInputs { relative_bias: Some(info(&[5])), ..inputs() }),
        ("sinks", ProblemInputs { sinks: Some(info(&[1])), ..inputs() }),
        ("kv_lens", ProblemInputs { kv_lens: Some(&[1]), ..inputs() }),
        ("kv_lens", ProblemInputs { kv_lens: Some(&[7, 8]), ..inputs() }),
    ];
    for (name, inputs) in cases {
        let inputs = match inputs.mask.clone() {
            Some(mask) => ProblemInputs {
                mask: Some(TensorInfo { dtype: DType::Bool(burn_backend::BoolStore::Native), ..mask }),
                ..inputs
            },
            None => inputs,
        };
        assert_eq!(argument(&plain, &inputs), Some(name), "{inputs:?}");
    }
}

#[test]
fn wrong_element_types_name_the_tensor() {
    let with = |dtype, shape: &[usize]| TensorInfo { shape: shape.into(), dtype };
    let cases = [
        ("query", ProblemInputs { query: with(DType::I32, &[2, 6, 5, 8]), ..inputs() }),
        ("key", ProblemInputs { key: with(DType::F16, &[2, 3, 7, 8]), ..inputs() }),
        ("bias", ProblemInputs { bias: Some(with(DType::F64, &[1, 1, 1, 7])), ..inputs() }),
        ("relative_bias", ProblemInputs { relative_bias: Some(with(DType::F64, &[6, 5])), ..inputs() }),
        ("mask", ProblemInputs { mask: Some(info(&[1, 1, 1, 7])), ..inputs() }),
    ];
    for (name, inputs) in cases {
        let error = Problem::new(&AttentionSpec::new(), &inputs).unwrap_err();
        assert!(matches!(error, AttentionError::DType { argument, .. } if argument == name), "{error}");
    }
}

#[test]
fn numbers_without_a_meaning_are_refused() {
    for cap in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(argument(&AttentionSpec::new().with_softcap(cap), &inputs()), Some("softcap"));
    }
    for scale in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        assert_eq!(argument(&AttentionSpec::new().with_scale(scale), &inputs()), Some("scale"));
    }
}

#[test]
fn bottom_right_ends_at_the_key_lengths() {
    let lens = [4, 0];
    let problem = Problem::new(&AttentionSpec::new(), &ProblemInputs { kv_lens: Some(&lens), ..inputs() }).unwrap();
    assert_eq!(problem.bands.iter().map(|band| (band.offset, band.keys)).collect::<Vec<_>>(), [(-1, 4), (-5, 0)]);
    assert_eq!(problem.visible_pairs(), 5 * 4 * 6);
}

#[test]
fn windows_of_any_size_are_bands() {
    let spec = AttentionSpec::new()
        .with_window(Some(usize::MAX), Some(usize::MAX))
        .with_alignment(Alignment::Offset(i64::MIN));
    let problem = Problem::new(&spec, &inputs()).unwrap();
    // Longer than any position: open, so that even this far from the keys every one of them is seen.
    assert_eq!((problem.bands[0].lower, problem.bands[0].upper), (None, None));
    assert_eq!(problem.bands[0].keys_of(4), 0..7);
    let causal = Problem::new(&spec.with_causal(true), &inputs()).unwrap();
    assert_eq!(causal.bands[0].upper, Some(0));
}
