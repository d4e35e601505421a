//! The first weights, drawn on the host: the same on every backend, whose own generators draw other numbers.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use learn::order::{Purpose, generator};
use rand::Rng;
use rand::rngs::StdRng;

/// The module with every matrix `[n, m]` drawn anew from −1/√n to 1/√n, in the order of its fields; vectors, which here are those of
/// norms, stay as they begin.
pub fn drawn<M: Module>(module: M, seed: u64) -> M {
    module.map(&mut Draw(generator(seed, Purpose::Weights, 0)))
}

struct Draw(StdRng);

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param;
        }
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let most = 1.0 / (shape[0].max(1) as f32).sqrt();
            let count = shape.iter().product();
            let numbers: Vec<f32> = (0..count).map(|_| self.0.random_range(-most..=most)).collect();
            let made = Tensor::from_data(TensorData::new(numbers, shape), &device);
            if tensor.is_require_grad() { made.require_grad() } else { made }
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    use super::*;

    fn numbers(device: &Device, seed: u64) -> Vec<f32> {
        let made: Linear = drawn(LinearConfig::new(16, 3).with_bias(false).init(device), seed);
        made.weight.val().into_data().iter::<f32>().collect()
    }

    #[test]
    fn weights_follow_from_the_seed_alone() {
        let expected = numbers(&Device::default(), 1);
        assert!(expected.iter().all(|weight| weight.abs() <= 0.25) && expected.iter().any(|weight| weight.abs() > 0.2));
        assert_ne!(numbers(&Device::default(), 2), expected);
        for backend in attn::BACKENDS {
            let device = attn::device(backend).unwrap();
            device.seed(7);
            assert_eq!(numbers(&device, 1), expected, "{backend}");
            assert_eq!(numbers(&device.autodiff(), 1), expected, "{backend}");
        }
    }
}
