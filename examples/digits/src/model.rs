//! The vision transformer (Dosovitskiy et al. 2021): patches as tokens, a token for the class, learned positions.

use attn::nn::{
    AttentionOptions, NormPlacement, TransformerEncoder, TransformerEncoderConfig, TransformerEncoderLayerConfig,
};
use attn::{AttentionError, Selection};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation};

/// Sizes of a [`VisionTransformer`].
#[derive(Config, Debug)]
pub struct VisionTransformerConfig {
    /// Pixels of an image's side.
    pub side: usize,
    /// Pixels of a patch's side; divides `side`.
    pub patch: usize,
    /// Features of a token.
    #[config(default = 64)]
    pub d_model: usize,
    /// Heads of a layer.
    #[config(default = 4)]
    pub heads: usize,
    /// Layers.
    #[config(default = 3)]
    pub layers: usize,
    /// Probability of dropping a feature of a sublayer's output.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// What there is to tell apart.
    #[config(default = 10)]
    pub classes: usize,
}

impl VisionTransformerConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<VisionTransformer, AttentionError> {
        if self.patch == 0 || !self.side.is_multiple_of(self.patch) {
            let expected = format!("a divisor of the side, {}", self.side);
            return Err(AttentionError::value("patch", expected, self.patch));
        }
        let cells = self.side / self.patch;
        let layer = TransformerEncoderLayerConfig::new(self.d_model, self.heads, 2 * self.d_model)
            .with_norm(NormPlacement::Pre)
            .with_dropout(self.dropout);
        // Far apart from the start: with the usual 0.02 hundreds of steps pass before patches are told apart by their place.
        let apart = Initializer::Normal { mean: 0.0, std: 0.5 };
        Ok(VisionTransformer {
            embedding: LinearConfig::new(self.patch * self.patch, self.d_model).init(device),
            class: apart.init([1, self.d_model], device),
            positions: apart.init([1 + cells * cells, self.d_model], device),
            encoder: TransformerEncoderConfig::new(layer, self.layers).init(device)?,
            head: LinearConfig::new(self.d_model, self.classes).init(device),
            cells,
            patch: self.patch,
        })
    }
}

/// Images to classes.
///
/// ```text
/// tokens = [class; W · patch + b] + positions        1 + cells² of them
/// logits = W_head · encoder(tokens)[0] + b_head
/// ```
#[derive(Module, Debug)]
pub struct VisionTransformer {
    embedding: Linear,
    class: Param<Tensor<2>>,
    positions: Param<Tensor<2>>,
    encoder: TransformerEncoder,
    head: Linear,
    cells: usize,
    patch: usize,
}

/// What the model says of some images.
#[derive(Debug, Clone)]
pub struct Read {
    /// `[batch, classes]`, rows that sum to 1.
    pub probabilities: Tensor<2>,
    /// `[batch, cells²]`: how much the class token read each patch through all layers, by attention rollout.
    pub patches: Tensor<2>,
}

impl VisionTransformer {
    /// `[batch, side²]` to `[batch, classes]`.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn logits(&self, images: Tensor<2>) -> Result<Tensor<2>, AttentionError> {
        Ok(self.forward(images, &AttentionOptions::new())?.0)
    }

    /// The classes' probabilities, and where they come from.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn read(&self, images: Tensor<2>) -> Result<Read, AttentionError> {
        let [batch, _] = images.dims();
        let (logits, weights) = self.forward(images, &AttentionOptions::new().with_weights(Selection::all()))?;
        let cells = self.cells * self.cells;
        let rollout = learn::rollout(&weights).ok_or_else(|| AttentionError::value("layers", "at least 1", 0))?;
        let patches = rollout.narrow(1, 0, 1).narrow(2, 1, cells).reshape([batch, cells]);
        Ok(Read { probabilities: activation::softmax(logits, 1), patches })
    }

    fn forward(
        &self,
        images: Tensor<2>,
        options: &AttentionOptions,
    ) -> Result<(Tensor<2>, Vec<Tensor<4>>), AttentionError> {
        let ([batch, pixels], (cells, patch)) = (images.dims(), (self.cells, self.patch));
        if pixels != (cells * patch).pow(2) {
            return Err(AttentionError::shape(
                "images",
                format!("[batch, {}]", (cells * patch).pow(2)),
                &[batch, pixels],
            ));
        }
        let patches = self.embedding.forward(patches(images, cells, patch));
        let [_, _, d_model] = patches.dims();
        let class = self.class.val().unsqueeze::<3>().expand([batch, 1, d_model]);
        let tokens = Tensor::cat(vec![class, patches], 1) + self.positions.val().unsqueeze();
        let output = self.encoder.forward(tokens, options)?;
        let class = output.hidden.narrow(1, 0, 1).reshape([batch, d_model]);
        Ok((self.head.forward(class), output.weights))
    }
}

/// Images `[batch, side²]` as patches `[batch, cells², patch²]`: rows of cells of rows of pixels become cells of pixels.
fn patches(images: Tensor<2>, cells: usize, patch: usize) -> Tensor<3> {
    let [batch, _] = images.dims();
    let rows = images.reshape([batch, cells, patch, cells, patch]).swap_dims(2, 3);
    rows.reshape([batch, cells * cells, patch * patch])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, TensorData};

    #[test]
    fn a_patch_holds_the_pixels_of_its_cell() {
        let side: Vec<f32> = (0..36).map(|at| at as f32).collect();
        let images =
            Tensor::<2>::from_data(TensorData::new([side.clone(), side].concat(), [2, 36]), &Device::default());
        let found: Vec<f32> = patches(images, 3, 2).into_data().iter::<f32>().collect();
        for (at, patch) in found.chunks(4).enumerate() {
            // The second row of cells begins at pixel 12.
            let corner = ((at % 9) / 3 * 12 + (at % 3) * 2) as f32;
            assert_eq!(patch, [corner, corner + 1.0, corner + 6.0, corner + 7.0]);
        }
    }

    #[test]
    fn probabilities_and_patches_come_together() {
        let device = Device::default();
        let config = VisionTransformerConfig::new(4, 2).with_d_model(8).with_heads(2).with_layers(1);
        let images = Tensor::<2>::random([3, 16], Distribution::Default, &device);
        let read = config.init(&device).unwrap().valid().read(images).unwrap();
        assert_eq!((read.probabilities.dims(), read.patches.dims()), ([3, 10], [3, 4]));
        for sum in read.probabilities.sum_dim(1).into_data().iter::<f32>() {
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }
        // In one layer the class token reads at least half of itself.
        assert!(read.patches.sum_dim(1).into_data().iter::<f32>().all(|sum| sum > 0.0 && sum < 0.5));
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let device = Device::default();
        assert!(VisionTransformerConfig::new(8, 3).init(&device).unwrap_err().to_string().contains("patch"));
        let model = VisionTransformerConfig::new(4, 2).init(&device).unwrap();
        let wrong = Tensor::<2>::random([1, 15], Distribution::Default, &device);
        assert!(model.logits(wrong).unwrap_err().to_string().contains("images"));
    }
}
