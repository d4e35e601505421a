//! Tests of loading weights by name.

use std::fs;
use std::path::PathBuf;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::store::{BurnToPyTorchAdapter, KeyRemapper, ModuleSnapshot, SafetensorsStore};
use burn::tensor::{Device, FloatDType};

use super::{assert_close, noise, reference_device, shaken};
use crate::nn::load::{LoadError, Mapping, Mismatch, load_safetensors};
use crate::nn::{AttentionOptions, TransformerEncoderLayer, TransformerEncoderLayerConfig};

/// A file that goes away with its test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("attn-nn-load-{}-{name}.safetensors", std::process::id())))
    }

    fn save<M: Module>(self, module: &M, store: impl Fn(SafetensorsStore) -> SafetensorsStore) -> Self {
        module.save_into(&mut store(SafetensorsStore::from_file(&self.0).overwrite(true))).unwrap();
        self
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn layer(device: &Device) -> TransformerEncoderLayer {
    TransformerEncoderLayerConfig::new(8, 2, 20).init(device).unwrap()
}

fn mismatch(result: Result<impl Module, LoadError>) -> Mismatch {
    match result.map(|_| ()).unwrap_err() {
        LoadError::Mismatch { mismatch, .. } => mismatch,
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_in_pytorchs_layout_and_names_loads_by_its_mapping() {
    let device = reference_device();
    let saved = shaken(layer(&device));
    let theirs = KeyRemapper::new()
        .add_pattern(r"^attention\.(query|key|value)\.", "block.self.$1.")
        .and_then(|names| names.add_pattern(r"^attention\.output\.", "block.self.out_proj."))
        .unwrap();
    let file =
        File::new("theirs").save(&saved, |store| store.with_to_adapter(BurnToPyTorchAdapter).remap(theirs.clone()));
    let mapping = Mapping::pytorch()
        .rename(r"^block\.self\.", "attention.")
        .and_then(|mapping| mapping.rename(r"\.out_proj\.", ".output."))
        .unwrap();
    let loaded = load_safetensors(layer(&device), &file.0, &mapping).unwrap();
    let x = noise([1, 4, 8], 1, &device);
    let [a, b] = [saved, loaded].map(|layer| layer.forward(x.clone(), &AttentionOptions::new()).unwrap().hidden);
    assert_close(b, a, 0.0);
}

#[test]
fn a_file_that_burn_wrote_loads_as_it_is_and_takes_the_modules_element_type() {
    let device = reference_device();
    let saved = shaken(LinearConfig::new(3, 5).init(&device));
    let doubled = Linear {
        weight: saved.weight.clone().map(|weight| weight.cast(FloatDType::F64)),
        bias: saved.bias.clone().map(|bias| bias.map(|bias| bias.cast(FloatDType::F64))),
    };
    let file = File::new("burn").save(&doubled, |store| store);
    let loaded = load_safetensors(LinearConfig::new(3, 5).init(&device), &file.0, &Mapping::burn()).unwrap();
    assert_eq!(loaded.weight.val().dtype(), saved.weight.val().dtype());
    assert_close(loaded.weight.val(), saved.weight.val(), 0.0);
}

#[test]
fn what_is_missing_or_unused_is_named_and_what_is_ignored_is_not() {
    let device = reference_device();
    let file = File::new("unused").save(&shaken(layer(&device)), |store| {
        store
            .with_key_remapping(r"^linear_inner\.bias$", "extra.bias")
            .with_key_remapping(r"^attention\.key\.weight$", "other")
    });
    let found = mismatch(load_safetensors(layer(&device), &file.0, &Mapping::burn()));
    assert_eq!(found.missing, ["attention.key.weight", "linear_inner.bias"]);
    assert_eq!(found.unused, ["extra.bias", "other"]);
    assert!(found.unfit.is_empty() && found.ambiguous.is_empty());
    let said = "2 tensors missing: attention.key.weight, linear_inner.bias; 2 tensors unused: extra.bias, other";
    assert_eq!(found.to_string(), said);

    let ignoring = Mapping::burn().ignore("^other$").unwrap();
    assert_eq!(mismatch(load_safetensors(layer(&device), &file.0, &ignoring)).unused, ["extra.bias"]);
}

#[test]
fn a_tensor_of_another_shape_is_named_as_the_file_names_it() {
    let device = reference_device();
    let wide = shaken(LinearConfig::new(3, 6).init(&device));
    let file = File::new("shape").save(&wide, |store| store.with_key_remapping("^", "fc."));
    let mapping = Mapping::burn().rename(r"^fc\.", "").unwrap();
    let found = mismatch(load_safetensors(LinearConfig::new(3, 5).init(&device), &file.0, &mapping));
    let names: Vec<_> = found.unfit.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
    let expected = [("fc.weight", "expected shape [3, 5], found [3, 6]"), ("fc.bias", "expected shape [5], found [6]")];
    assert_eq!(names, expected);
    assert!(found.missing.is_empty() && found.unused.is_empty());
}

#[test]
fn a_tensor_of_another_rank_or_kind_is_named_whatever_the_layout() {
    let device = reference_device();
    let file = File::new("rank");
    for (dtype, shape, bytes) in [("F32", "[15]", 60), ("F32", "[]", 4), ("F32", "[1,3,5]", 60), ("I64", "[5,3]", 120)]
    {
        let header = format!(r#"{{"weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{bytes}]}}}}"#);
        let text = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; bytes]].concat();
        fs::write(&file.0, text).unwrap();
        for mapping in [Mapping::pytorch(), Mapping::burn()] {
            let linear = LinearConfig::new(3, 5).with_bias(false).init(&device);
            let found = mismatch(load_safetensors(linear, &file.0, &mapping));
            assert_eq!(found.unfit.len(), 1, "{found}");
            assert_eq!(found.unfit[0].0, "weight");
        }
    }
}

#[test]
fn two_tensors_for_one_place_are_an_error() {
    let device = reference_device();
    let file = File::new("twice").save(&shaken(layer(&device)), |store| store);
    let mapping =
        Mapping::burn().rename(r"_norm\.", ".").unwrap().rename(r"^(attention|feed_forward)\.(gamma)", "norm.$2");
    let found = mismatch(load_safetensors(layer(&device), &file.0, &mapping.unwrap()));
    let from = vec!["attention_norm.gamma".to_string(), "feed_forward_norm.gamma".to_string()];
    assert_eq!(found.ambiguous, [("norm.gamma".to_string(), from)]);
}

#[test]
fn broken_files_and_patterns_are_one_line_that_names_them() {
    let device = reference_device();
    let file = File::new("broken");
    let error = |bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            fs::write(&file.0, bytes).unwrap();
        }
        let error = load_safetensors(layer(&device), &file.0, &Mapping::pytorch()).map(|_| ()).unwrap_err();
        assert!(matches!(&error, LoadError::File { path, .. } if *path == file.0), "{error}");
        error.to_string()
    };
    let header = br#"{"weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    let short = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    for text in [error(None), error(Some(b"")), error(Some(b"not a safetensors file")), error(Some(&short))] {
        assert!(text.contains("broken.safetensors") && !text.contains('\n'), "{text}");
    }
    let pattern = Mapping::pytorch().rename("(", "").map(|_| ()).unwrap_err();
    assert!(matches!(&pattern, LoadError::Pattern { pattern, .. } if pattern == "("), "{pattern}");
    assert!(!pattern.to_string().contains('\n'), "{pattern}");
}
