//! Tests of multi-head attention in its three steps.

use attn_core::{AttentionError, AttentionSpec};
use burn::tensor::{Device, Tensor};

use super::{assert_close, noise, reference_device, shaken};
use crate::Selection;
use crate::nn::{AttentionOptions, MultiHeadAttention, MultiHeadAttentionConfig};

fn layer(device: &Device) -> MultiHeadAttention {
    let config = MultiHeadAttentionConfig::new(8, 4).with_kv_heads(Some(2)).with_d_key(Some(6)).with_value_dim(Some(3));
    shaken(config.init(device).unwrap())
}

#[test]
fn the_three_steps_are_the_whole_and_keys_may_come_in_parts() {
    let device = reference_device();
    let layer = layer(&device);
    let (query, key) = (noise([2, 3, 8], 1, &device), noise([2, 5, 6], 2, &device));
    let options =
        AttentionOptions::new().spec(AttentionSpec::new().with_causal(true)).with_lse().with_weights(Selection::all());
    let whole = layer.forward(query.clone(), key.clone(), key.clone(), &options).unwrap();
    let projected = layer.project_query(query).unwrap();
    let part = |from, to| {
        let part = key.clone().slice([0..2, from..to]);
        layer.project_key_value(part.clone(), part).unwrap()
    };
    let ((k1, v1), (k2, v2)) = (part(0, 2), part(2, 5));
    assert_eq!((projected.dims(), k1.dims(), v1.dims()), ([2, 4, 3, 2], [2, 2, 2, 2], [2, 2, 2, 3]));
    let (key, value) = (Tensor::cat(vec![k1, k2], 2), Tensor::cat(vec![v1, v2], 2));
    let found = layer.attend_projected(projected, key, value, &options).unwrap();
    assert_close(found.out, whole.out, 1e-6);
    assert_close(found.lse.unwrap(), whole.lse.unwrap(), 1e-6);
    assert_close(found.weights.unwrap(), whole.weights.unwrap(), 1e-6);
}

#[test]
fn wrong_input_names_the_argument() {
    let device = reference_device();
    let layer = layer(&device);
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &device);
    let name = |error: AttentionError| error.argument();
    assert_eq!(layer.project_query(zeros([2, 3, 7])).map_err(name).unwrap_err(), Some("query"));
    for (key, value, argument) in
        [([2, 3, 7], [2, 3, 6], "key"), ([2, 3, 6], [2, 3, 7], "value"), ([2, 3, 6], [2, 4, 6], "value")]
    {
        assert_eq!(layer.project_key_value(zeros(key), zeros(value)).map_err(name).unwrap_err(), Some(argument));
    }
    let good = [[2, 4, 3, 2], [2, 2, 5, 2], [2, 2, 5, 3]];
    let attend = |shapes: [[usize; 4]; 3], options: AttentionOptions| {
        let [query, key, value] = shapes.map(|shape| Tensor::<4>::zeros(shape, &device));
        layer.attend_projected(query, key, value, &options).map(|output| output.out.dims()).map_err(name)
    };
    assert_eq!(attend(good, AttentionOptions::new()), Ok([2, 3, 8]));
    for (at, axis, argument) in [(0, 1, "query"), (0, 3, "query"), (1, 1, "key"), (1, 3, "key"), (2, 2, "value")] {
        let mut shapes = good;
        shapes[at][axis] += 1;
        assert_eq!(attend(shapes, AttentionOptions::new()), Err(Some(argument)));
    }
    assert_eq!(attend(good, AttentionOptions::new().kv_lens([6, 5])), Err(Some("kv_lens")));
}
