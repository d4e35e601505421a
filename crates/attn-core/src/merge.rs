//! Joining attention over two disjoint sets of keys into attention over their union.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, Scalar, Shape, TensorMetadata, get_or_init_device_settings};

use crate::{AttentionError, AttentionOutputs};

/// Merges two partial results over the same queries and disjoint keys, by their LSE (Rabe and Staats 2021; FlashDecoding 2023):
///
/// ```text
/// lse = ln(exp a.lse + exp b.lse)
/// out = a.out · exp(a.lse − lse) + b.out · exp(b.lse − lse)
/// ```
///
/// Outputs `[B, H, Sq, E]`, LSEs `[B, H, Sq]`. A row that neither part sees stays 0 with LSE `−inf`. Associative and commutative up
/// to rounding. If there are sinks, give them to one part only: each part's LSE counts them.
///
/// # Errors
/// Names `a` or `b` where the LSE is missing, a shape differs, or an element type differs.
pub fn merge<B: Backend>(
    a: AttentionOutputs<B>,
    b: AttentionOutputs<B>,
) -> Result<AttentionOutputs<B>, AttentionError> {
    let (a_lse, b_lse) = check(&a, &b)?;
    let device = a.out.device();
    let bool_dtype = get_or_init_device_settings::<B>(&device).bool_dtype;
    let accumulation = a_lse.dtype().into();
    let take_b = B::float_greater(b_lse.clone(), a_lse.clone(), bool_dtype);
    let max = B::float_mask_where(a_lse.clone(), take_b, b_lse.clone());
    // −inf − (−inf) is NaN: rows that neither part sees are measured from 0.
    let nothing = B::float_equal_elem(max.clone(), Scalar::Float(f64::NEG_INFINITY), bool_dtype);
    let max = B::float_mask_fill(max, nothing.clone(), Scalar::Float(0.0));
    let weight = |lse: FloatTensor<B>| B::float_exp(B::float_sub(lse, max.clone()));
    let (a_weight, b_weight) = (weight(a_lse), weight(b_lse));
    let sum = B::float_mask_fill(B::float_add(a_weight.clone(), b_weight.clone()), nothing.clone(), Scalar::Float(1.0));
    let dtype = a.out.dtype().into();
    let [batch, heads, rows, _] = a.out.shape().dims::<4>();
    let part = |out: FloatTensor<B>, weight: FloatTensor<B>| {
        let share = B::float_reshape(B::float_div(weight, sum.clone()), Shape::from([batch, heads, rows, 1]));
        B::float_mul(B::float_cast(out, accumulation), share)
    };
    let out = B::float_add(part(a.out, a_weight), part(b.out, b_weight));
    let lse = B::float_add(max, B::float_log(sum.clone()));
    Ok(AttentionOutputs {
        out: B::float_cast(out, dtype),
        lse: Some(B::float_mask_fill(lse, nothing, Scalar::Float(f64::NEG_INFINITY))),
    })
}

fn check<B: Backend>(
    a: &AttentionOutputs<B>,
    b: &AttentionOutputs<B>,
) -> Result<(FloatTensor<B>, FloatTensor<B>), AttentionError> {
    let lse = |argument, outputs: &AttentionOutputs<B>| {
        outputs.lse.clone().ok_or_else(|| AttentionError::value(argument, "outputs with their LSE", "none"))
    };
    let (a_lse, b_lse) = (lse("a", a)?, lse("b", b)?);
    let shape = a.out.shape().to_vec();
    if shape.len() != 4 || a_lse.shape().to_vec() != shape[..3] {
        return Err(AttentionError::shape("a", "[batch, heads, query_len, value_dim], with its LSE", &shape));
    }
    if b.out.shape().to_vec() != shape || b_lse.shape() != a_lse.shape() {
        return Err(AttentionError::shape("b", format!("{shape:?}"), &b.out.shape().to_vec()));
    }
    if b.out.dtype() != a.out.dtype() || b_lse.dtype() != a_lse.dtype() {
        return Err(AttentionError::DType {
            argument: "b",
            expected: a.out.dtype().name().to_string(),
            found: b.out.dtype().name().to_string(),
        });
    }
    if b.out.device() != a.out.device() {
        return Err(AttentionError::Device {
            argument: "b",
            expected: format!("{:?}", a.out.device()),
            found: format!("{:?}", b.out.device()),
        });
    }
    Ok((a_lse, b_lse))
}
