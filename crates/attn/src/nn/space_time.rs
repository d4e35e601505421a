//! Attention along axes of a grid, `[B, T, H, W, C]`: axial, divided and joint space-time attention.

use attn_core::{AttentionError, AttentionSpec, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Bool, Device, Int, Tensor};

use super::check::{self, positive};
use super::encoder::Activation;
use super::multi_head::{MultiHeadAttention, MultiHeadAttentionConfig};
use super::options::AttentionOptions;
use super::parts;
use crate::Selection;

/// An axis of the grid `[B, T, H, W, C]`; an image is a grid of T = 1.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Axis {
    /// T.
    Time,
    /// H.
    Height,
    /// W.
    Width,
}

/// How an attention runs along one axis.
#[derive(Config, Debug, Copy)]
pub struct AxisConfig {
    /// Which axis.
    pub axis: Axis,
    /// Whether what comes later on this axis is hidden.
    #[config(default = false)]
    pub causal: bool,
    /// How far apart on this axis, to either side, a position is still seen; `None`: the whole axis.
    pub window: Option<usize>,
}

/// Sizes of an [`AxialAttention`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct AxialAttentionConfig {
    /// The attention; its `d_query` is C.
    pub attention: MultiHeadAttentionConfig,
    /// The axes along which it runs, jointly if there are several. The other axes are batch.
    pub axes: Vec<AxisConfig>,
}

impl AxialAttentionConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// As [`MultiHeadAttentionConfig::init`], and a value error that names `axes` where there are none or one comes twice.
    pub fn init(&self, device: &Device) -> Result<AxialAttention, AttentionError> {
        let twice = |(at, axis): (usize, &AxisConfig)| self.axes[..at].iter().any(|other| other.axis == axis.axis);
        if self.axes.is_empty() || self.axes.iter().enumerate().any(twice) {
            return Err(AttentionError::value("axes", "at least one axis, none twice", format!("{:?}", self.axes)));
        }
        // In the order of the grid, so that what is flattened runs through it as it lies in memory.
        let mut axes = self.axes.clone();
        axes.sort_by_key(|axis| axis.axis as usize);
        Ok(AxialAttention { attention: self.attention.init(device)?, axes })
    }
}

/// Self-attention along chosen axes of a grid: one axis is axial attention (Ho et al. 2019), all are joint attention.
///
/// ```text
/// position (t, h, w) attends to the positions that differ from it in the chosen axes alone,
/// and of these, on a causal axis to none after it, with a window to none farther away
/// ```
///
/// The other axes become batch and the chosen ones, in the order T, H, W, one sequence of S positions around a
/// [`MultiHeadAttention`]: time in `T·H·W·S`, memory linear in `T·H·W`. Causal and windows on a single axis are the kernel's own;
/// with several axes they are a mask of `S²` bools, which all of the batch shares.
#[derive(Module, Debug)]
pub struct AxialAttention {
    /// The attention over the chosen axes.
    pub attention: MultiHeadAttention,
    #[module(skip)]
    axes: Vec<AxisConfig>,
}

/// What an [`AxialAttention`] gives.
#[derive(Debug, Clone)]
pub struct AxialAttentionOutput {
    /// `[B, T, H, W, d_out]`.
    pub out: Tensor<5>,
    /// `[B · other axes, selected heads, selected rows, S]`, sequences in the order of the axes; there if they were asked for.
    pub weights: Option<Tensor<4>>,
}

impl AxialAttention {
    /// Attends within `grid` `[B, T, H, W, C]`; `padding` `[B, T, H, W]` tells which positions are there.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `grid` or `padding`, before any work starts.
    pub fn forward(
        &self,
        grid: Tensor<5>,
        padding: Option<Mask<Tensor<4, Bool>>>,
    ) -> Result<Tensor<5>, AttentionError> {
        Ok(self.run(grid, padding, None)?.out)
    }

    /// As [`forward`](Self::forward), and gives the weights of the selected heads and rows.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and names `heads` or `rows` where the selection points past them.
    pub fn forward_with_weights(
        &self,
        grid: Tensor<5>,
        padding: Option<Mask<Tensor<4, Bool>>>,
        selection: Selection,
    ) -> Result<AxialAttentionOutput, AttentionError> {
        self.run(grid, padding, Some(selection))
    }

    fn run(
        &self,
        grid: Tensor<5>,
        padding: Option<Mask<Tensor<4, Bool>>>,
        selection: Option<Selection>,
    ) -> Result<AxialAttentionOutput, AttentionError> {
        let weight = self.attention.query.weight.val();
        let [c, _] = weight.dims();
        let dims @ [b, t, h, w, _] = parts::check_input("grid", &grid, "batch, time, height, width", c, &weight)?;
        let check = |mask| parts::check_mask("padding", mask, [b, t, h, w], &weight.device());
        let keep = padding.map(check).transpose()?;
        let grid = parts::without_padding(grid, keep.as_ref());

        let order = self.order();
        let rank = 4 - self.axes.len();
        let batch: usize = order[..rank].iter().map(|&axis| dims[axis]).product();
        let length: usize = order[rank..].iter().map(|&axis| dims[axis]).product();
        let [p0, p1, p2, p3] = order;
        let flat = parts::reshaped(grid.permute([p0, p1, p2, p3, 4]), [batch, length, c]);
        let mut options = self.options(&dims, &weight.device());
        if let Some(keep) = keep.filter(|_| batch * length > 0) {
            options = options.key_padding(Mask::keep(keep.permute(order).reshape([batch, length])));
        }
        if let Some(selection) = selection {
            options = options.with_weights(selection);
        }
        let output = self.attention.self_attention(flat, &options)?;
        let [_, _, d_out] = output.out.dims();
        let out = parts::reshaped(output.out, [dims[p0], dims[p1], dims[p2], dims[p3], d_out]);
        let back: [usize; 5] = std::array::from_fn(|axis| order.iter().position(|&from| from == axis).unwrap_or(axis));
        Ok(AxialAttentionOutput { out: out.permute(back), weights: output.weights })
    }

    /// The grid's first four axes, those that are batch before those that are attended along.
    fn order(&self) -> [usize; 4] {
        let along = |axis: &usize| self.axes.iter().any(|config| config.axis as usize + 1 == *axis);
        let mut order = [0, 1, 2, 3];
        order.sort_by_key(along);
        order
    }

    /// What causal and windows hide: by the spec where one axis is attended along, else by a mask.
    fn options(&self, dims: &[usize; 5], device: &Device) -> AttentionOptions {
        if let [axis] = self.axes[..] {
            let spec = AttentionSpec::new().with_causal(axis.causal).with_window(axis.window, axis.window);
            return AttentionOptions::new().spec(spec);
        }
        let mut stride = 1;
        let mut mask: Option<Tensor<2, Bool>> = None;
        let lengths = self.axes.iter().map(|axis| dims[axis.axis as usize + 1]);
        let length: usize = lengths.clone().product();
        for (axis, extent) in self.axes.iter().zip(lengths).rev() {
            let at = (0..length).map(|position| (position / stride % extent) as i64).collect::<Vec<_>>();
            stride *= extent;
            if length == 0 || !axis.causal && axis.window.is_none() {
                continue;
            }
            let at = Tensor::<1, Int>::from_data(at.as_slice(), device);
            let ahead = at.clone().reshape([1, length]).expand::<2, _>([length, length])
                - at.reshape([length, 1]).expand::<2, _>([length, length]);
            // No grid is so long that a window of more than this leaves anything out.
            let window = axis.window.map_or(i64::from(i32::MAX), |window| window.min(i32::MAX as usize) as i64);
            let seen = ahead.clone().lower_equal_elem(if axis.causal { 0 } else { window });
            let seen = seen.bool_and(ahead.greater_equal_elem(-window));
            mask = Some(mask.map_or(seen.clone(), |mask| mask.bool_and(seen)));
        }
        let options = AttentionOptions::new();
        mask.map_or(options.clone(), |mask| options.mask(Mask::keep(mask.reshape([1, 1, length, length]))))
    }
}

/// In which steps a [`SpaceTimeBlock`] attends.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum SpaceTimeScheme {
    /// Every position to every other of the grid.
    Joint,
    /// Along time, then over the frame.
    Divided,
    /// Along time, then along height, then along width.
    Axial,
    /// Over the frame alone; time is batch.
    Space,
}

impl SpaceTimeScheme {
    fn steps(self) -> &'static [&'static [Axis]] {
        use Axis::{Height, Time, Width};
        match self {
            Self::Joint => &[&[Time, Height, Width]],
            Self::Divided => &[&[Time], &[Height, Width]],
            Self::Axial => &[&[Time], &[Height], &[Width]],
            Self::Space => &[&[Height, Width]],
        }
    }
}

/// Sizes and choices of a [`SpaceTimeBlock`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct SpaceTimeBlockConfig {
    /// Features of a position, C.
    pub d_model: usize,
    /// Query heads of every attention.
    pub heads: usize,
    /// Features between the two linear layers.
    pub d_ff: usize,
    /// In which steps the block attends.
    #[config(default = "SpaceTimeScheme::Divided")]
    pub scheme: SpaceTimeScheme,
    /// Whether later frames are hidden.
    #[config(default = false)]
    pub causal_time: bool,
    /// How many frames apart, to either side, a frame is still seen; `None`: all.
    pub time_window: Option<usize>,
    /// How many rows and columns apart a position is still seen; `None`: all.
    pub space_window: Option<usize>,
    /// Between the two linear layers.
    #[config(default = "Activation::Gelu")]
    pub activation: Activation,
    /// Added to the variance under the root of a layer norm.
    #[config(default = 1e-5)]
    pub layer_norm_epsilon: f64,
    /// How the linear layers begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl SpaceTimeBlockConfig {
    /// Makes the block on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning.
    pub fn init(&self, device: &Device) -> Result<SpaceTimeBlock, AttentionError> {
        let (d_model, d_ff) = (positive("d_model", self.d_model)?, positive("d_ff", self.d_ff)?);
        let epsilon = check::epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        let norm = || LayerNormConfig::new(d_model).with_epsilon(epsilon).init(device);
        let attention = MultiHeadAttentionConfig::new(d_model, self.heads).with_initializer(self.initializer.clone());
        let axis = |&axis: &Axis| match axis {
            Axis::Time => AxisConfig::new(axis).with_causal(self.causal_time).with_window(self.time_window),
            Axis::Height | Axis::Width => AxisConfig::new(axis).with_window(self.space_window),
        };
        let step =
            |axes: &&[Axis]| AxialAttentionConfig::new(attention.clone(), axes.iter().map(axis).collect()).init(device);
        let steps = self.scheme.steps();
        Ok(SpaceTimeBlock {
            attentions: steps.iter().map(step).collect::<Result<_, _>>()?,
            attention_norms: steps.iter().map(|_| norm()).collect(),
            linear_inner: parts::new_linear(d_model, d_ff, true, &self.initializer, device),
            linear_outer: parts::new_linear(d_ff, d_model, true, &self.initializer, device),
            feed_forward_norm: norm(),
            activation: self.activation,
        })
    }
}

/// A block of a video transformer (TimeSformer, Bertasius et al. 2021; axial: Ho et al. 2019), pre-norm.
///
/// ```text
/// for every step:  x ← x + attention_step(norm_step(x))           joint: one step; divided: time, space; axial: T, H, W
/// out = x + W_outer · activation(W_inner · norm_f(x) + b) + b
/// ```
///
/// Grids `[B, T, H, W, C]` in and out. With N = `T·H·W` positions, joint attention takes time in `N²`, divided in
/// `N·(T + H·W)`, axial in `N·(T + H + W)`; memory is linear in N, see [`AxialAttention`].
///
/// ```
/// use attn::nn::SpaceTimeBlockConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// // Time, then space: 4 frames of 6 × 6 patches.
/// let block = SpaceTimeBlockConfig::new(16, 4, 32).with_causal_time(true).init(&device)?;
/// let grid = Tensor::<5>::random([1, 4, 6, 6, 16], Distribution::Default, &device);
/// assert_eq!(block.forward(grid, None)?.dims(), [1, 4, 6, 6, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct SpaceTimeBlock {
    /// The steps, in their order.
    pub attentions: Vec<AxialAttention>,
    /// The norm before each step.
    pub attention_norms: Vec<LayerNorm>,
    /// `W_inner [C, d_ff]`.
    pub linear_inner: Linear,
    /// `W_outer [d_ff, C]`.
    pub linear_outer: Linear,
    /// `norm_f`.
    pub feed_forward_norm: LayerNorm,
    #[module(skip)]
    activation: Activation,
}

impl SpaceTimeBlock {
    /// Carries `grid` `[B, T, H, W, C]` through the block; `padding` `[B, T, H, W]` tells which positions are there. What comes
    /// out at padding has no meaning, but is finite.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `grid`, `padding` or the weights at fault.
    pub fn forward(
        &self,
        grid: Tensor<5>,
        padding: Option<Mask<Tensor<4, Bool>>>,
    ) -> Result<Tensor<5>, AttentionError> {
        let weight = self.linear_inner.weight.val();
        let [c, d_ff] = check::linear("linear_inner.weight", &self.linear_inner, None, None)?;
        check::linear("linear_outer.weight", &self.linear_outer, Some(d_ff), Some(c))?;
        check::norm("feed_forward_norm", &self.feed_forward_norm, c)?;
        for (step, norm) in self.attentions.iter().zip(&self.attention_norms) {
            check::norm("attention_norms", norm, c)?;
            check::linear("output.weight", &step.attention.output, None, Some(c))?;
        }
        let [b, t, h, w, _] = parts::check_input("grid", &grid, "batch, time, height, width", c, &weight)?;
        let check = |mask| parts::check_mask("padding", mask, [b, t, h, w], &weight.device());
        let keep = padding.map(check).transpose()?;
        let mut hidden = parts::without_padding(grid, keep.as_ref());
        for (step, norm) in self.attentions.iter().zip(&self.attention_norms) {
            let seen = keep.clone().map(Mask::keep);
            hidden = hidden.clone() + step.forward(parts::norm(norm, hidden), seen)?;
        }
        let normed = parts::norm(&self.feed_forward_norm, hidden.clone());
        Ok(hidden + parts::feed_forward(&self.linear_inner, &self.linear_outer, self.activation, normed))
    }
}
