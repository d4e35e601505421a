//! Answers a problem through the public face, on tensors of a device, with gradients through autodiff.

use attn::{Attention, AttentionOutput, Mask, Selection};
use attn_core::reference::{Broadcast, HostGradients};
use burn::tensor::{Bool, DType, Device, FloatDType, Gradients, Tensor, TensorData};

use crate::host::{Answer, Ask, HostProblem, HostUpstream, table_shape};

/// A device, and the kernels demanded of it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where tensors are made. Without autodiff: that is added where gradients are asked for.
    pub device: Device,
    /// Kernel of the forward pass; none leaves the choice to the binding.
    pub forward: Option<&'static str>,
    /// Kernel of the backward pass.
    pub backward: Option<&'static str>,
}

impl Target {
    /// A device with the kernels of its own choice.
    pub fn new(device: Device) -> Self {
        Self { device, forward: None, backward: None }
    }
}

/// How a tensor `[B, H, S, D]` lies in memory. Only the strides differ, never the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Row-major.
    #[default]
    Contiguous,
    /// `[B, S, H, D]` in memory, as a projection leaves it.
    SequenceFirst,
    /// `[B, H, D, S]` in memory: the last axis is strided.
    Transposed,
    /// A part of a larger tensor whose other elements are NaN.
    Part,
}

/// The layout of each large tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layouts {
    /// Of the query.
    pub query: Layout,
    /// Of the key.
    pub key: Layout,
    /// Of the value.
    pub value: Layout,
    /// Of the mask.
    pub mask: Layout,
    /// Of the bias.
    pub bias: Layout,
}

/// The inputs as tensors, each tracked where gradients are asked for.
struct Inputs {
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Mask<Tensor<4, Bool>>>,
    bias: Option<Tensor<4>>,
    alibi_slopes: Option<Tensor<1>>,
    relative_bias: Option<Tensor<2>>,
    sinks: Option<Tensor<1>>,
}

/// Computes what is asked for.
///
/// # Errors
/// The contract's error, or what came in place of what was asked for: a missing tensor, a wrong shape or element type.
pub fn answer(target: &Target, problem: &HostProblem, ask: &Ask, layouts: Layouts) -> Result<Answer, String> {
    let device = match ask.gradients {
        Some(_) => target.device.clone().autodiff(),
        None => target.device.clone(),
    };
    let inputs = upload(&device, problem, layouts, ask.gradients.is_some());
    let output = attention(target, problem, ask, &inputs).forward().map_err(|error| error.to_string())?;
    let gradients = match &ask.gradients {
        Some(upstream) => {
            let gradients = backward(&device, problem, upstream, &output)?;
            Some(host_gradients(problem, &inputs, &gradients)?)
        }
        None => None,
    };
    let (dims, accumulation) = (&problem.dims, accumulation(problem.dtype));
    let lse = output.lse.map(|lse| download("lse", lse, dims.rows(), accumulation)).transpose()?;
    let weights =
        output.weights.map(|weights| download("weights", weights, dims.scores(), accumulation)).transpose()?;
    if lse.is_none() && ask.lse || weights.is_none() && ask.weights {
        return Err("lse or weights were asked for and did not come".to_string());
    }
    Ok(Answer { out: download("out", output.out, dims.out(), problem.dtype)?, lse, weights, gradients })
}

/// The kernel that will carry the gradients back.
///
/// # Errors
/// The contract's, in words.
pub fn backward_kernel(target: &Target, problem: &HostProblem, ask: &Ask) -> Result<&'static str, String> {
    let inputs = upload(&target.device, problem, Layouts::default(), false);
    let plan = attention(target, problem, ask, &inputs).plan().map_err(|error| error.to_string())?;
    Ok(plan.backward.kernel)
}

fn attention(target: &Target, problem: &HostProblem, ask: &Ask, inputs: &Inputs) -> Attention {
    let mut attention =
        Attention::new(inputs.query.clone(), inputs.key.clone(), inputs.value.clone()).spec(problem.spec);
    if let Some(mask) = &inputs.mask {
        attention = attention.mask(mask.clone());
    }
    if let Some(bias) = &inputs.bias {
        attention = attention.bias(bias.clone());
    }
    if let Some(slopes) = &inputs.alibi_slopes {
        attention = attention.alibi_slopes(slopes.clone());
    }
    if let Some(table) = &inputs.relative_bias {
        attention = attention.relative_bias(table.clone());
    }
    if let Some(sinks) = &inputs.sinks {
        attention = attention.sinks(sinks.clone());
    }
    if let Some(lens) = &problem.kv_lens {
        attention = attention.kv_lens(lens.clone());
    }
    if let Some(mask) = &problem.block_mask {
        attention = attention.block_mask(mask.clone());
    }
    if let Some(function) = problem.score_mod {
        attention = attention.score_mod(function.score_mod());
    }
    if ask.lse || ask.gradients.as_ref().is_some_and(|upstream| upstream.grad_lse.is_some()) {
        attention = attention.with_lse();
    }
    if ask.weights {
        attention = attention.with_weights(Selection::all());
    }
    if let Some(kernel) = target.forward {
        attention = attention.kernel(kernel);
    }
    if let Some(kernel) = target.backward {
        attention = attention.backward_kernel(kernel);
    }
    attention
}

/// Carries the loss `Σ out·grad_out + Σ lse·grad_lse` back.
///
/// The product is taken in the accumulation type, so that the upstream gradient is rounded once, where autodiff casts it to the
/// output's type.
fn backward(
    device: &Device,
    problem: &HostProblem,
    upstream: &HostUpstream,
    output: &AttentionOutput,
) -> Result<Gradients, String> {
    let accumulation = accumulation(problem.dtype);
    let constant = |data: &[f64], shape: Vec<usize>| data_of(data.to_vec(), shape, accumulation);
    let grad_out = Tensor::<4>::from_data(
        constant(&upstream.grad_out, problem.dims.out().to_vec()),
        (device, accumulation.into()),
    );
    let mut loss = (output.out.clone().cast(accumulation) * grad_out).sum();
    if let Some(grad_lse) = &upstream.grad_lse {
        let lse = output.lse.clone().ok_or("lse was asked for and did not come")?;
        let grad_lse =
            Tensor::<3>::from_data(constant(grad_lse, problem.dims.rows().to_vec()), (device, accumulation.into()));
        loss = loss + (lse * grad_lse).sum();
    }
    Ok(loss.backward())
}

fn host_gradients(problem: &HostProblem, inputs: &Inputs, gradients: &Gradients) -> Result<HostGradients, String> {
    let (dims, dtype) = (&problem.dims, problem.dtype);
    let bias = inputs.bias.as_ref().zip(problem.inputs.bias.as_ref());
    let per_head = |name, tensor: &Option<Tensor<1>>| {
        tensor.as_ref().map(|tensor| gradient(name, tensor, gradients, [dims.heads], dtype)).transpose()
    };
    let table = inputs.relative_bias.as_ref().zip(problem.inputs.relative_bias.as_ref());
    Ok(HostGradients {
        query: gradient("query", &inputs.query, gradients, dims.query(), dtype)?,
        key: gradient("key", &inputs.key, gradients, dims.key(), dtype)?,
        value: gradient("value", &inputs.value, gradients, dims.value(), dtype)?,
        bias: bias.map(|(bias, host)| gradient("bias", bias, gradients, host.shape, dtype)).transpose()?,
        alibi_slopes: per_head("alibi_slopes", &inputs.alibi_slopes)?,
        relative_bias: table
            .map(|(table, host)| gradient("relative_bias", table, gradients, table_shape(host), dtype))
            .transpose()?,
        sinks: per_head("sinks", &inputs.sinks)?,
    })
}

fn gradient<const N: usize>(
    name: &str,
    tensor: &Tensor<N>,
    gradients: &Gradients,
    shape: [usize; N],
    dtype: FloatDType,
) -> Result<Vec<f64>, String> {
    let gradient = tensor.grad(gradients).ok_or_else(|| format!("no gradient by {name} came"))?;
    download(&format!("gradient by {name}"), gradient, shape, dtype)
}

fn upload(device: &Device, problem: &HostProblem, layouts: Layouts, track: bool) -> Inputs {
    let (dims, host, dtype) = (&problem.dims, &problem.inputs, problem.dtype);
    let tracked = |tensor: Tensor<4>| if track { tensor.require_grad() } else { tensor };
    let large = |data: &[f64], shape, layout| tracked(float(device, dtype, data, shape, layout));
    let per_head = |data: &Option<Vec<f64>>| {
        let tensor = data
            .as_ref()
            .map(|data| Tensor::<1>::from_data(data_of(data.clone(), vec![data.len()], dtype), (device, dtype.into())));
        tensor.map(|tensor| if track { tensor.require_grad() } else { tensor })
    };
    Inputs {
        query: large(&host.query, dims.query(), layouts.query),
        key: large(&host.key, dims.key(), layouts.key),
        value: large(&host.value, dims.value(), layouts.value),
        mask: host.mask.as_ref().map(|(mask, polarity)| Mask::new(bools(device, mask, layouts.mask), *polarity)),
        bias: host.bias.as_ref().map(|bias| large(&bias.data, bias.shape, layouts.bias)),
        alibi_slopes: per_head(&host.alibi_slopes),
        relative_bias: host.relative_bias.as_ref().map(|table| {
            let data = data_of(table.data.clone(), table_shape(table).to_vec(), dtype);
            let tensor = Tensor::<2>::from_data(data, (device, dtype.into()));
            if track { tensor.require_grad() } else { tensor }
        }),
        sinks: per_head(&host.sinks),
    }
}

/// A float tensor of that shape and those elements, lying in memory as the layout says.
pub fn float(device: &Device, dtype: FloatDType, data: &[f64], shape: [usize; 4], layout: Layout) -> Tensor<4> {
    let (stored, stored_shape) = store(data, shape, layout, f64::NAN);
    let tensor = Tensor::<4>::from_data(data_of(stored, stored_shape.to_vec(), dtype), (device, dtype.into()));
    match layout {
        Layout::Contiguous => tensor,
        Layout::SequenceFirst => tensor.swap_dims(1, 2),
        Layout::Transposed => tensor.swap_dims(2, 3),
        Layout::Part => tensor.slice(part(shape)),
    }
}

fn bools(device: &Device, mask: &Broadcast<bool>, layout: Layout) -> Tensor<4, Bool> {
    let (stored, stored_shape) = store(&mask.data, mask.shape, layout, true);
    let tensor = Tensor::<4, Bool>::from_data(TensorData::new(stored, stored_shape), device);
    match layout {
        Layout::Contiguous => tensor,
        Layout::SequenceFirst => tensor.swap_dims(1, 2),
        Layout::Transposed => tensor.swap_dims(2, 3),
        Layout::Part => tensor.slice(part(mask.shape)),
    }
}

/// Where a [`Layout::Part`] lies in its whole: past one row and two columns, before one row and one column.
fn part(shape: [usize; 4]) -> [std::ops::Range<usize>; 4] {
    let [b, h, s, d] = shape;
    [0..b, 0..h, 1..s + 1, 2..d + 2]
}

/// Elements in the order of memory, and the shape there.
fn store<T: Copy>(data: &[T], shape: [usize; 4], layout: Layout, filler: T) -> (Vec<T>, [usize; 4]) {
    let [b, h, s, d] = shape;
    let at = |b, h_at, s_at, d_at| data[((b * h + h_at) * s + s_at) * d + d_at];
    let mut stored = Vec::with_capacity(data.len());
    let stored_shape = match layout {
        Layout::Contiguous => [b, h, s, d],
        Layout::SequenceFirst => [b, s, h, d],
        Layout::Transposed => [b, h, d, s],
        Layout::Part => [b, h, s + 2, d + 3],
    };
    let [_, x, y, z] = stored_shape;
    for at_b in 0..b {
        for (at_x, at_y, at_z) in (0..x * y * z).map(|at| (at / (y * z), at / z % y, at % z)) {
            stored.push(match layout {
                Layout::Contiguous => at(at_b, at_x, at_y, at_z),
                Layout::SequenceFirst => at(at_b, at_y, at_x, at_z),
                Layout::Transposed => at(at_b, at_x, at_z, at_y),
                Layout::Part if (1..s + 1).contains(&at_y) && (2..d + 2).contains(&at_z) => {
                    at(at_b, at_x, at_y - 1, at_z - 2)
                }
                Layout::Part => filler,
            });
        }
    }
    (stored, stored_shape)
}

fn data_of(data: Vec<f64>, shape: Vec<usize>, dtype: FloatDType) -> TensorData {
    TensorData::new(data, shape).convert_dtype(dtype.into())
}

/// The type in which the contract accumulates, and which LSE and weights have.
pub fn accumulation(dtype: FloatDType) -> FloatDType {
    match dtype {
        FloatDType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

fn download<const N: usize>(
    name: &str,
    tensor: Tensor<N>,
    shape: [usize; N],
    dtype: FloatDType,
) -> Result<Vec<f64>, String> {
    let data = tensor.try_into_data().map_err(|error| format!("{name} cannot be read: {error}"))?;
    if data.shape().to_vec() != shape {
        return Err(format!("{name}: expected shape {shape:?}, found {:?}", data.shape()));
    }
    if data.dtype() != DType::from(dtype) {
        return Err(format!(
            "{name}: expected element type {}, found {}",
            DType::from(dtype).name(),
            data.dtype().name()
        ));
    }
    Ok(data.iter::<f64>().collect())
}
