//! What the page calls.

use attn::{Attention, Mask, Selection};
use attn_core::reference;
use burn::tensor::{Bool, Device, Gradients, Tensor, TensorData};
use serde::Serialize;
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::problems::{self, Asked, table_shape};

/// Largest error of an output or an LSE that passes: f32 sums of numbers up to 1.
const OUTPUTS: f64 = 1e-5;
/// The same of gradients, which are sums of more.
const GRADIENTS: f64 = 5e-5;

/// A browser's adapter, with problems for it.
#[wasm_bindgen]
pub struct Page {
    device: Device,
    problems: Vec<Asked>,
}

/// How far a problem's answer is from that of the formulas in f64.
#[derive(Debug, Serialize)]
struct Compared {
    name: &'static str,
    /// The kernels, as the plan tells them.
    forward: String,
    backward: String,
    /// Largest errors.
    outputs: f64,
    gradients: f64,
    passed: bool,
}

#[wasm_bindgen]
impl Page {
    /// Starts the browser's adapter.
    ///
    /// # Errors
    /// Where the browser has none.
    pub async fn start() -> Result<Page, JsError> {
        console_error_panic_hook::set_once();
        let device = Device::wgpu_options().init_async().await?;
        Ok(Self { device, problems: problems::all() })
    }

    /// The problems' number.
    pub fn problems(&self) -> usize {
        self.problems.len()
    }

    /// Answers a problem there and here; JSON of what was compared.
    ///
    /// # Errors
    /// Where there is no such problem, or it has no answer.
    pub async fn compare(&self, at: usize) -> Result<String, JsError> {
        let asked = self.problems.get(at).ok_or_else(|| JsError::new("there is no such problem"))?;
        Ok(serde_json::to_string(&compare(asked, &self.device).await?)?)
    }

    /// Weights `[48, 48]` of a head that looks at what is alike and near before it, row by row.
    ///
    /// # Errors
    /// Where they can't be made.
    pub async fn weights(&self) -> Result<Vec<f32>, JsError> {
        const LENGTH: usize = 48;
        const DIM: usize = 8;
        let waves = (0..LENGTH * DIM).map(|at| ((at / DIM) as f32 * (0.2 + 0.15 * (at % DIM) as f32)).cos());
        let rows =
            Tensor::<4>::from_data(TensorData::new(waves.collect::<Vec<_>>(), [1, 1, LENGTH, DIM]), &self.device);
        let slope = Tensor::<1>::from_data([0.05f32], &self.device);
        let head = Attention::new(rows.clone(), rows.clone(), rows).causal(true).scale(1.0).alibi_slopes(slope);
        let output = head.with_weights(Selection::all()).forward()?;
        let weights = output.weights.ok_or_else(|| JsError::new("no weights came"))?;
        Ok(numbers(weights).await?.into_iter().map(|weight| weight as f32).collect())
    }
}

async fn compare(asked: &Asked, device: &Device) -> Result<Compared, JsError> {
    let problem = asked.problem()?;
    let expected = reference::forward(&problem, &asked.inputs)?;
    let slopes = reference::backward(&problem, &asked.inputs, &asked.grad_out, None)?;

    let tensors = Tensors::new(asked, &device.clone().autodiff());
    let attention = tensors.attention(asked).with_lse();
    let plan = attention.plan()?;
    let output = attention.forward()?;
    let grad_out = float(&tensors.query.device(), &asked.grad_out, asked.dims.out());
    let gradients = (output.out.clone() * grad_out).sum().backward();

    let mut outputs = farthest(numbers(output.out).await?, &expected.out)?;
    let lse = output.lse.ok_or_else(|| JsError::new("no LSE came"))?;
    outputs = outputs.max(farthest(numbers(lse).await?, &expected.lse)?);
    let mut largest = 0f64;
    for (tensor, expected) in [
        (Some(&tensors.query), Some(&slopes.query)),
        (Some(&tensors.key), Some(&slopes.key)),
        (Some(&tensors.value), Some(&slopes.value)),
        (tensors.bias.as_ref(), slopes.bias.as_ref()),
    ] {
        largest = largest.max(gradient(tensor, &gradients, expected).await?);
    }
    largest = largest.max(gradient(tensors.slopes.as_ref(), &gradients, slopes.alibi_slopes.as_ref()).await?);
    largest = largest.max(gradient(tensors.sinks.as_ref(), &gradients, slopes.sinks.as_ref()).await?);
    largest = largest.max(gradient(tensors.relative.as_ref(), &gradients, slopes.relative_bias.as_ref()).await?);
    Ok(Compared {
        name: asked.name,
        forward: kernel(plan.forward.kernel, plan.forward.cut),
        backward: kernel(plan.backward.kernel, plan.backward.cut),
        outputs,
        gradients: largest,
        passed: outputs <= OUTPUTS && largest <= GRADIENTS,
    })
}

fn kernel(name: &str, cut: Option<String>) -> String {
    cut.map_or_else(|| name.to_string(), |cut| format!("{name}: {cut}"))
}

/// A problem's numbers on the device, each tracked.
struct Tensors {
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Mask<Tensor<4, Bool>>>,
    bias: Option<Tensor<4>>,
    slopes: Option<Tensor<1>>,
    relative: Option<Tensor<2>>,
    sinks: Option<Tensor<1>>,
}

impl Tensors {
    fn new(asked: &Asked, device: &Device) -> Self {
        let (inputs, dims) = (&asked.inputs, &asked.dims);
        let per_head =
            |data: &Option<Vec<f64>>| data.as_ref().map(|data| float::<1>(device, data, [data.len()]).require_grad());
        Self {
            query: float(device, &inputs.query, dims.query()).require_grad(),
            key: float(device, &inputs.key, dims.key()).require_grad(),
            value: float(device, &inputs.value, dims.value()).require_grad(),
            mask: inputs.mask.as_ref().map(|(mask, polarity)| {
                let data = TensorData::new(mask.data.clone(), mask.shape);
                Mask::new(Tensor::from_data(data, device), *polarity)
            }),
            bias: inputs.bias.as_ref().map(|bias| float(device, &bias.data, bias.shape).require_grad()),
            slopes: per_head(&inputs.alibi_slopes),
            relative: (inputs.relative_bias.as_ref())
                .map(|table| float(device, &table.data, table_shape(table)).require_grad()),
            sinks: per_head(&inputs.sinks),
        }
    }

    fn attention(&self, asked: &Asked) -> Attention {
        let mut attention = Attention::new(self.query.clone(), self.key.clone(), self.value.clone()).spec(asked.spec);
        if let Some(mask) = &self.mask {
            attention = attention.mask(mask.clone());
        }
        if let Some(bias) = &self.bias {
            attention = attention.bias(bias.clone());
        }
        if let Some(slopes) = &self.slopes {
            attention = attention.alibi_slopes(slopes.clone());
        }
        if let Some(table) = &self.relative {
            attention = attention.relative_bias(table.clone());
        }
        if let Some(sinks) = &self.sinks {
            attention = attention.sinks(sinks.clone());
        }
        if let Some(lens) = &asked.kv_lens {
            attention = attention.kv_lens(lens.clone());
        }
        attention
    }
}

fn float<const N: usize>(device: &Device, data: &[f64], shape: [usize; N]) -> Tensor<N> {
    let data: Vec<f32> = data.iter().map(|&x| x as f32).collect();
    Tensor::from_data(TensorData::new(data, shape), device)
}

/// Reads a tensor; a page can't wait, so that the browser calls back.
async fn numbers<const N: usize>(tensor: Tensor<N>) -> Result<Vec<f64>, JsError> {
    let data = tensor.into_data_async().await.map_err(|error| JsError::new(&error.to_string()))?;
    Ok(data.iter::<f64>().collect())
}

/// The largest error of a gradient; 0 where there is none to be.
async fn gradient<const N: usize>(
    tensor: Option<&Tensor<N>>,
    gradients: &Gradients,
    expected: Option<&Vec<f64>>,
) -> Result<f64, JsError> {
    let (Some(tensor), Some(expected)) = (tensor, expected) else { return Ok(0.0) };
    let found = tensor.grad(gradients).ok_or_else(|| JsError::new("a gradient did not come"))?;
    farthest(numbers(found).await?, expected)
}

/// The largest error; infinite numbers must be the same, and NaN is infinitely far.
fn farthest(found: Vec<f64>, expected: &[f64]) -> Result<f64, JsError> {
    if found.len() != expected.len() {
        return Err(JsError::new(&format!("{} numbers came in place of {}", found.len(), expected.len())));
    }
    let errors = found.iter().zip(expected).map(|(found, expected)| match found == expected {
        true => 0.0,
        false if found.is_nan() || expected.is_nan() => f64::INFINITY,
        false => (found - expected).abs(),
    });
    Ok(errors.fold(0.0, f64::max))
}
