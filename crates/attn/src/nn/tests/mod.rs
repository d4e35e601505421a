//! Tests of the layers, on the default backend of the build. Expected values are computed by Burn's own operations.

mod encoder;
#[cfg(feature = "safetensors")]
mod load;
mod multi_head;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Gradients, Tensor, TensorData};

/// Numbers in (−1, 1) that repeat nowhere and look like noise; another `seed`, other numbers.
fn noise<const N: usize>(shape: [usize; N], seed: usize, device: &Device) -> Tensor<N> {
    let count = shape.iter().product::<usize>();
    let at = |i: usize| ((i + 1) as f32 * (1.7 + seed as f32 * 0.37)).sin();
    Tensor::from_data(TensorData::new((0..count).map(at).collect::<Vec<_>>(), shape), device)
}

fn bools<const N: usize>(shape: [usize; N], value: impl Fn(usize) -> bool, device: &Device) -> Tensor<N, Bool> {
    let count = shape.iter().product::<usize>();
    Tensor::from_data(TensorData::new((0..count).map(value).collect::<Vec<_>>(), shape), device)
}

/// Every parameter of a module replaced by noise, so that biases and norms matter too.
fn shaken<M: Module>(module: M) -> M {
    struct Shake(usize);
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            let seed = self.0;
            param.map(|tensor| {
                let made = noise(tensor.dims(), seed, &tensor.device()).mul_scalar(0.6);
                if made.device().is_autodiff() { made.require_grad() } else { made }
            })
        }
    }
    module.map(&mut Shake(0))
}

#[track_caller]
fn assert_close<const N: usize>(found: Tensor<N>, expected: Tensor<N>, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims());
    let values = |tensor: Tensor<N>| tensor.into_data().convert::<f64>().try_to_vec::<f64>().unwrap();
    for (at, (found, expected)) in values(found).into_iter().zip(values(expected)).enumerate() {
        // Written so that NaN fails.
        assert!((found - expected).abs() <= tolerance, "element {at}: {found} in place of {expected}");
    }
}

/// Attention as everyone writes it: scores, softmax, sum; keys and values repeated for groups of heads. `hidden`: true = hidden.
fn plain(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, hidden: Option<Tensor<4, Bool>>) -> Tensor<4> {
    let group = query.dims()[1] / key.dims()[1];
    let repeated = |tensor: Tensor<4>| {
        let [batch, heads, length, dim] = tensor.dims();
        let tensor: Tensor<5> = tensor.unsqueeze_dim(2);
        tensor.repeat_dim(2, group).reshape([batch, heads * group, length, dim])
    };
    let scale = (query.dims()[3] as f64).sqrt();
    let mut scores = query.matmul(repeated(key).swap_dims(2, 3)).div_scalar(scale);
    if let Some(hidden) = hidden {
        let shape = scores.dims();
        scores = scores.mask_fill(hidden.expand::<4, _>(shape), f32::NEG_INFINITY);
    }
    softmax(scores, 3).matmul(repeated(value))
}

fn heads(tensor: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, features] = tensor.dims();
    tensor.reshape([batch, length, heads, features / heads]).swap_dims(1, 2)
}

fn joined(tensor: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, dim] = tensor.dims();
    tensor.swap_dims(1, 2).reshape([batch, length, heads * dim])
}

/// The greatest gradient of each parameter, by its path; absent where nothing reached it.
fn gradients<M: Module>(module: &M, gradients: &Gradients) -> Vec<(String, Option<f32>)> {
    struct Read<'a> {
        path: Vec<String>,
        gradients: &'a Gradients,
        found: Vec<(String, Option<f32>)>,
    }
    impl ModuleVisitor for Read<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = param.val().grad(self.gradients);
            self.found.push((self.path.join("."), grad.map(|grad| grad.abs().max().into_scalar())));
        }
    }
    let mut read = Read { path: vec![], gradients, found: vec![] };
    module.visit(&mut read);
    read.found
}
