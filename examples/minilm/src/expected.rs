//! The demo against `shared/minilm`: the embeddings and attentions that the model's own library computed.
//!
//! These tests need the model (in `$ATTN_MINILM`, or in the cache where `cargo xtask demo` puts it) and the shared folder
//! beside the repository; without them they say that they were skipped.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use crate::page::tests::{decode, parse};
use crate::{Args, run};

/// The model's folder and the shared one.
fn folders() -> Option<(PathBuf, PathBuf)> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/minilm");
    let model = std::env::var_os("ATTN_MINILM").map(PathBuf::from).or_else(|| {
        let own = std::env::var_os("ATTN_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = own.or_else(|| Some(xdg.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("attn")));
        Some(cache?.join("models/all-MiniLM-L6-v2"))
    })?;
    let found = model.join("model.safetensors").is_file() && shared.is_dir();
    if !found {
        eprintln!("skipped: needs the model in {} and {}", model.display(), shared.display());
    }
    found.then_some((model, shared))
}

fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (view.shape().to_vec(), values.collect())
}

/// Runs the demo on a text; gives the page and the embeddings that it wrote.
fn demo(model: &Path, sentences: &Path, backend: &str) -> (String, Vec<u8>) {
    let folder = std::env::temp_dir().join(format!("attn-minilm-{}-{backend}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (page, embeddings) = (folder.join("p.html"), folder.join("e.safetensors"));
    run(&Args {
        model: model.to_path_buf(),
        backend: Some(backend.to_string()),
        sentences: Some(sentences.to_path_buf()),
        query: "my order was charged twice".to_string(),
        embeddings: Some(embeddings.clone()),
        page: page.clone(),
    })
    .unwrap();
    let made = (fs::read_to_string(page).unwrap(), fs::read(embeddings).unwrap());
    fs::remove_dir_all(folder).unwrap();
    made
}

fn greatest_difference(found: impl IntoIterator<Item = f64>, expected: &[f32]) -> f64 {
    found.into_iter().zip(expected).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max)
}

fn agrees_with_the_models_own_library(backend: &str) {
    let Some((model, shared)) = folders() else { return };
    let (html, embeddings) = demo(&model, &shared.join("sentences.txt"), backend);
    let bytes = fs::read(shared.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();

    let (shape, rows) = floats(&SafeTensors::deserialize(&embeddings).unwrap(), "embeddings");
    let (expected_shape, expected_rows) = floats(&expected, "embeddings");
    assert_eq!(shape, expected_shape);
    let worst = greatest_difference(rows.iter().map(|value| f64::from(*value)), &expected_rows);
    println!("{backend}: embeddings differ by at most {worst:.2e}");
    assert!(worst <= 1e-5, "{backend}: embeddings differ by {worst:e}");

    // The weights of the first sentence, as the page holds them.
    let page = parse(&html);
    let (shape, expected_weights) = floats(&expected, "attentions_of_first");
    let first = &page.sentences[0];
    let tokens = first.tokens.len();
    assert_eq!(shape, [page.layers, page.heads, tokens, tokens]);
    let weights = decode(&first.weights);
    assert_eq!(weights.len(), expected_weights.len());
    let worst = greatest_difference(weights, &expected_weights);
    println!("{backend}: weights on the page differ by at most {worst:.2e}");
    assert!(worst <= 1e-5, "{backend}: weights differ by {worst:e}");

    // Every sentence is there, in its order, its rows of weights summing to 1, and the query comes last.
    let lines: Vec<_> = fs::read_to_string(shared.join("sentences.txt")).unwrap().lines().map(str::to_string).collect();
    let texts: Vec<_> = page.sentences.iter().map(|sentence| sentence.text.clone()).collect();
    assert_eq!(texts[..lines.len()], lines);
    assert_eq!(texts[lines.len()..], *std::slice::from_ref(&page.query));
    for sentence in &page.sentences {
        let tokens = sentence.tokens.len();
        let weights = decode(&sentence.weights);
        assert_eq!(weights.len(), page.layers * page.heads * tokens * tokens);
        assert!(weights.chunks_exact(tokens).all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-5));
    }
    let mut ranks: Vec<_> = page.sentences.iter().filter_map(|sentence| sentence.rank).collect();
    ranks.sort_unstable();
    assert_eq!(ranks, (1..=lines.len()).collect::<Vec<_>>());
    assert_eq!(page.sentences[2].rank, Some(1), "the sentence about the double charge is the nearest");
}

#[cfg(feature = "ndarray")]
#[test]
fn ndarray_agrees_with_the_models_own_library() {
    agrees_with_the_models_own_library("ndarray");
}

#[cfg(feature = "tch")]
#[test]
fn libtorch_agrees_with_the_models_own_library() {
    agrees_with_the_models_own_library("tch");
}

#[cfg(feature = "flex")]
#[test]
fn flex_agrees_with_the_models_own_library() {
    agrees_with_the_models_own_library("flex");
}

#[cfg(feature = "ndarray")]
#[test]
fn long_sentences_are_cut_and_long_queries_refused() {
    let Some((model, _)) = folders() else { return };
    let config = crate::ModelConfig::read(&model).unwrap();
    let reader = crate::Reader::new(&model, &config).unwrap();
    let long = reader.read(&"word ".repeat(400)).unwrap();
    assert_eq!((long.ids.len(), long.cut), (256, 400 - 254));
    assert_eq!((long.pieces[0].as_str(), long.pieces[255].as_str()), ("[CLS]", "[SEP]"));
    assert_eq!(reader.read("word").unwrap().cut, 0);

    let error = run(&Args {
        model,
        backend: None,
        sentences: None,
        query: "word ".repeat(400),
        embeddings: None,
        page: "never-written.html".into(),
    });
    assert_eq!(format!("{:#}", error.unwrap_err()), "--query: expected at most 256 tokens, found 402");
}
