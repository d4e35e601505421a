//! PyTorch's own layers, from the files that `torch/make.py` made: their weights load, and ours answer what they answered, on every
//! backend of the build.

use std::path::PathBuf;

use attn_core::Mask;
use burn::module::Module;
use burn::store::{ModuleStore, SafetensorsStore, bridge};
use burn::tensor::{Bool, Device, Tensor};

use super::{assert_agreement, assert_close, reference_device};
use crate::Selection;
use crate::nn::load::{LoadError, Mapping, load_safetensors};
use crate::nn::{
    Activation, AttentionOptions, DecoderOptions, MultiHeadAttentionConfig, NormPlacement, TransformerDecoderConfig,
    TransformerDecoderLayerConfig, TransformerEncoderConfig, TransformerEncoderLayerConfig,
};

/// What the sums of two libraries may differ by in f32.
const TOLERANCE: f64 = 1e-5;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/nn/tests/torch").join(format!("{name}.safetensors"))
}

/// A tensor of a file.
fn tensor<const N: usize>(name: &str, key: &str, device: &Device) -> Tensor<N> {
    let mut store = SafetensorsStore::from_file(path(name));
    let found = store.get_tensor(key).unwrap().unwrap_or_else(|| panic!("{name} has no {key}"));
    Tensor::from_data(bridge::to_data(found).unwrap().convert::<f32>(), device)
}

/// The padding of a file, true = hidden.
fn padding(name: &str, device: &Device) -> Mask<Tensor<2, Bool>> {
    Mask::hide(tensor::<2>(name, "in.padding", device).greater_elem(0.5))
}

fn loaded<M: Module>(name: &str, module: M, mapping: Result<Mapping, LoadError>) -> Result<M, LoadError> {
    load_safetensors(module, path(name), &mapping?.rename(r"^model\.", "")?.ignore(r"^(in|out)\.")?)
}

/// What a layer answers is what the file says, and the same on every backend.
fn agrees(name: &str, compute: impl Fn(&Device) -> Tensor<3>) {
    let device = reference_device();
    assert_close(compute(&device), tensor(name, "out.out", &device), TOLERANCE);
    assert_agreement(TOLERANCE, compute);
}

#[test]
fn multi_head_attention() {
    let config = MultiHeadAttentionConfig::new(12, 3);
    let widths = config.clone().with_d_key(Some(8)).with_d_value(Some(10));
    let plain =
        config.clone().with_query_bias(false).with_key_bias(false).with_value_bias(false).with_output_bias(false);
    for (name, config) in [("attention", config), ("attention-widths", widths), ("attention-no-bias", plain)] {
        let attend = |device: &Device| {
            let layer = loaded(name, config.init(device).unwrap(), Mapping::torch_attention()).unwrap();
            let options = AttentionOptions::new().key_padding(padding(name, device)).with_weights(Selection::all());
            let input = |key| tensor(name, key, device);
            layer.forward(input("in.query"), input("in.key"), input("in.value"), &options).unwrap()
        };
        let device = reference_device();
        assert_close(attend(&device).weights.unwrap(), tensor(name, "out.weights", &device), TOLERANCE);
        agrees(name, |device| attend(device).out);
    }
}

fn encoder_layer(pre: bool) -> TransformerEncoderLayerConfig {
    let (norm, activation) = kind(pre);
    TransformerEncoderLayerConfig::new(12, 3, 20).with_norm(norm).with_activation(activation)
}

fn decoder_layer(pre: bool) -> TransformerDecoderLayerConfig {
    let (norm, activation) = kind(pre);
    TransformerDecoderLayerConfig::new(12, 3, 20).with_norm(norm).with_activation(activation)
}

fn kind(pre: bool) -> (NormPlacement, Activation) {
    if pre { (NormPlacement::Pre, Activation::Gelu) } else { (NormPlacement::Post, Activation::Relu) }
}

#[test]
fn transformer_encoder() {
    for (name, pre) in [("encoder-layer-post-relu", false), ("encoder-layer-pre-gelu", true)] {
        agrees(name, |device| {
            let layer = loaded(name, encoder_layer(pre).init(device).unwrap(), Mapping::torch_encoder()).unwrap();
            let options = AttentionOptions::new().key_padding(padding(name, device));
            layer.forward(tensor(name, "in.hidden", device), &options).unwrap().hidden
        });
    }
    agrees("encoder", |device| {
        let config = TransformerEncoderConfig::new(encoder_layer(true), 2);
        let encoder = loaded("encoder", config.init(device).unwrap(), Mapping::torch_encoder()).unwrap();
        let options = AttentionOptions::new().key_padding(padding("encoder", device));
        encoder.forward(tensor("encoder", "in.hidden", device), &options).unwrap().hidden
    });
}

#[test]
fn transformer_decoder() {
    let options = |name, device: &Device| DecoderOptions::new().memory_padding(padding(name, device));
    let inputs = |name, device: &Device| (tensor(name, "in.hidden", device), tensor(name, "in.memory", device));
    for (name, pre) in [("decoder-layer-post-relu", false), ("decoder-layer-pre-gelu", true)] {
        agrees(name, |device| {
            let layer = loaded(name, decoder_layer(pre).init(device).unwrap(), Mapping::torch_decoder()).unwrap();
            let (hidden, memory) = inputs(name, device);
            layer.forward(hidden, Some(memory), &options(name, device)).unwrap().hidden
        });
    }
    let name = "decoder";
    agrees(name, |device| {
        let config = TransformerDecoderConfig::new(decoder_layer(true), 2);
        let decoder = loaded(name, config.init(device).unwrap(), Mapping::torch_decoder()).unwrap();
        let (hidden, memory) = inputs(name, device);
        decoder.forward(hidden, Some(memory), &options(name, device)).unwrap().hidden
    });
}

#[test]
fn what_cannot_be_cut_is_named() {
    let layer = MultiHeadAttentionConfig::new(12, 3).init(&reference_device()).unwrap();
    let mapping = Mapping::pytorch().split(r"in_proj_(weight|bias)$", &["a.$1", "b.$1", "c.$1", "d.$1", "e.$1"]);
    let LoadError::Mismatch { mismatch, .. } = loaded("attention", layer, mapping).unwrap_err() else {
        panic!("36 rows are no five equal parts");
    };
    let why = mismatch.unfit.iter().find(|(name, _)| name == "model.in_proj_weight").map(|(_, why)| why.as_str());
    assert_eq!(why, Some("expected 5 equal parts along the first axis, found shape [36, 12]"));
}
