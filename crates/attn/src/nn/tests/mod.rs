//! Tests of the layers, on the default backend of the build. Expected values are computed by Burn's own operations.

mod adaptive;
mod decoder;
mod distances;
mod dropout;
mod encoder;
mod generate;
mod graph;
mod graphormer;
mod halting;
mod hard;
mod hierarchical;
mod linear;
#[cfg(feature = "safetensors")]
mod load;
mod mixed;
mod multi_head;
mod multi_head_options;
mod multi_modal;
mod normalise;
mod projected;
mod prune;
mod rotary;
mod scored;
mod seq2seq;
mod space_time;
#[cfg(feature = "safetensors")]
mod torch;
mod transformer;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Device, FloatDType, Gradients, Tensor, TensorData};

/// The device of a test that needs no more than one: the first of the build that has f64, or else the first; or that of the backend
/// that `ATTN_TEST_BACKEND` names.
fn reference_device() -> Device {
    if let Ok(name) = std::env::var("ATTN_TEST_BACKEND") {
        return crate::device(&name).unwrap();
    }
    let devices = crate::BACKENDS.iter().filter_map(|name| crate::device(name).ok());
    let wide = devices.clone().find(|device| device.supports_dtype(FloatDType::F64));
    wide.or_else(|| devices.clone().next()).unwrap_or_default()
}

/// The same, for what can be judged in f64 alone; says where there is none.
fn wide_device() -> Option<Device> {
    let device = Some(reference_device()).filter(|device| device.supports_dtype(FloatDType::F64));
    if device.is_none() {
        println!("skipped: no backend here has f64");
    }
    device
}

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

/// A tensor's elements in f64, row by row.
fn elements<const N: usize>(tensor: Tensor<N>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_to_vec::<f64>().unwrap()
}

#[track_caller]
fn assert_close<const N: usize>(found: Tensor<N>, expected: Tensor<N>, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims());
    for (at, (found, expected)) in elements(found).into_iter().zip(elements(expected)).enumerate() {
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

/// What is computed is the same on every backend of the build that has a device here.
#[track_caller]
fn assert_agreement<const N: usize>(tolerance: f64, compute: impl Fn(&Device) -> Tensor<N>) {
    let mut first: Option<Tensor<N>> = None;
    for name in crate::BACKENDS {
        let device = match crate::device(name) {
            Ok(device) => device,
            Err(error) => {
                println!("skipped: {error}");
                continue;
            }
        };
        // Compared on one device: what came from the others is carried there.
        let data = compute(&device).into_data();
        match &first {
            None => first = Some(Tensor::from_data(data, &reference_device())),
            Some(first) => assert_close(Tensor::from_data(data, &reference_device()), first.clone(), tolerance),
        }
    }
}

/// The parameters of one module in another that was made alike: saved and loaded.
fn restored<M: Module>(from: &M, into: M) -> M {
    into.try_load_record(from.clone().into_record()).unwrap()
}

/// An input as a parameter, so that [`assert_gradients`] moves it, too: give it `(layer, Input::new(…))`.
#[derive(Module, Debug)]
struct Input<const N: usize> {
    value: Param<Tensor<N>>,
}

impl<const N: usize> Input<N> {
    fn new(value: Tensor<N>) -> Self {
        Self { value: Param::from_tensor(value) }
    }

    fn value(&self) -> Tensor<N> {
        self.value.val()
    }
}

/// Elements of each parameter that [`assert_gradients`] moves.
const MOVED: usize = 7;

/// The gradients of `loss` by the module's parameters are its central differences, in f64. The module may be of any element
/// type and on any device; `loss` gets it in f64 on an autodiff device and must make its own tensors likewise.
#[track_caller]
fn assert_gradients<M: Module>(module: M, loss: impl Fn(&M) -> Tensor<1>) {
    /// Makes every parameter anew in f64, one element of one of them moved.
    struct Move {
        next: usize,
        parameter: usize,
        element: usize,
        by: f64,
    }
    impl ModuleMapper for Move {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let at = self.next;
            self.next += 1;
            param.map(|tensor| {
                let (dims, device) = (tensor.dims(), tensor.device().autodiff());
                let mut values = elements(tensor);
                if at == self.parameter {
                    values[self.element] += self.by;
                }
                Tensor::from_data(TensorData::new(values, dims), (&device, DType::F64)).require_grad()
            })
        }
    }
    struct Read<'a> {
        gradients: &'a Gradients,
        found: Vec<Vec<f64>>,
    }
    impl ModuleVisitor for Read<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let count = tensor.shape().num_elements();
            self.found.push(tensor.grad(self.gradients).map_or_else(|| vec![0.0; count], elements));
        }
    }
    if wide_device().is_none() {
        return;
    }
    let moved = |parameter, element, by| module.clone().map(&mut Move { next: 0, parameter, element, by });
    let still = moved(usize::MAX, 0, 0.0);
    let gradients = loss(&still).backward();
    let mut read = Read { gradients: &gradients, found: vec![] };
    still.visit(&mut read);
    assert!(!read.found.is_empty(), "the module has no parameters");
    // Errors of the difference: the third derivative times step² and the rounding over step.
    let (step, tolerance) = (1e-5, 1e-7);
    for (parameter, found) in read.found.iter().enumerate() {
        let stride = found.len().div_ceil(MOVED).max(1);
        for element in (0..found.len()).step_by(stride) {
            let at = |by| elements(loss(&moved(parameter, element, by)))[0];
            let expected = (at(step) - at(-step)) / (2.0 * step);
            let (found, scale) = (found[element], 1.0 + expected.abs());
            let holds = (found - expected).abs() <= tolerance * scale;
            assert!(holds, "parameter {parameter}, element {element}: {found} in place of {expected}");
        }
    }
}
