//! Attention rollout: which input each position reads through all layers together (Abnar & Zuidema 2020).

use burn::tensor::Tensor;

/// Attention rollout of an encoder, from the weights of its layers, first to last, each `[batch, heads, length, length]`; gives
/// `[batch, length, length]`, rows that sum to 1: position i reads input j.
///
/// ```text
/// A(l) = ½ · mean over heads of W(l) + ½ · I        the half is the residual connection
/// R(l) = A(l) · R(l−1)        R(0) = I
/// ```
/// `None` if there is no layer. N² of memory and L·N³ operations a sequence.
pub fn rollout(weights: &[Tensor<4>]) -> Option<Tensor<3>> {
    let layers = weights.iter().map(|weights| {
        let [_, _, length, _] = weights.dims();
        let heads: Tensor<3> = weights.clone().mean_dim(1).squeeze_dim(1);
        let identity: Tensor<3> = Tensor::<2>::eye(length, &heads.device()).unsqueeze();
        (heads + identity).mul_scalar(0.5)
    });
    layers.reduce(|read, layer| layer.matmul(read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::activation::softmax;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn rollout_is_its_formula() {
        let (batch, heads, length) = (2, 3, 4);
        let made = |layer: usize| {
            let count = batch * heads * length * length;
            let values: Vec<f32> = (0..count).map(|at| ((at + 1) as f32 * (1.3 + layer as f32)).sin() * 2.0).collect();
            softmax(
                Tensor::<4>::from_data(TensorData::new(values, [batch, heads, length, length]), &Device::default()),
                3,
            )
        };
        let layers = [made(0), made(1), made(2)];
        let found: Vec<f64> = rollout(&layers).unwrap().into_data().iter::<f64>().collect();
        for b in 0..batch {
            let mut read: Vec<f64> = (0..length * length).map(|at| f64::from(at / length == at % length)).collect();
            for layer in &layers {
                let weights: Vec<f64> = layer.clone().into_data().iter::<f64>().collect();
                let mean = |i: usize, j: usize| {
                    let at = |h: usize| weights[((b * heads + h) * length + i) * length + j];
                    (0..heads).map(at).sum::<f64>() / heads as f64
                };
                let mixed = |i: usize, j: usize| 0.5 * mean(i, j) + if i == j { 0.5 } else { 0.0 };
                let cell = |i: usize, j: usize| (0..length).map(|k| mixed(i, k) * read[k * length + j]).sum::<f64>();
                read = (0..length * length).map(|at| cell(at / length, at % length)).collect();
            }
            for (found, expected) in found[b * length * length..].iter().zip(&read) {
                // Three products of rows that sum to 1, in f32.
                assert!((found - expected).abs() < 1e-6, "{found} in place of {expected}");
            }
        }
        assert!(rollout(&[]).is_none());
    }
}
