//! A pretrained sentence encoder reads a text through our attention: it ranks sentences against a query and shows, on one HTML page,
//! which token reads which in every layer and head.
//!
//! `cargo xtask demo` fetches the model and runs this. By itself: `minilm --model DIR`, where DIR holds `model.safetensors`,
//! `tokenizer.json` and `config.json` of all-MiniLM-L6-v2 (or another BERT encoder of sentences with mean pooling).

mod config;
mod embed;
mod files;
mod model;
mod page;
mod report;
mod tokens;

#[cfg(test)]
mod expected;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Parser;

use crate::config::ModelConfig;
use crate::model::SentenceEncoder;
use crate::page::{PageData, PageSentence};
use crate::tokens::{Reader, Tokens};

/// The text that is read when no other is given.
const BUNDLED: &str = include_str!("../sentences.txt");

/// Columns of the ranking.
const WIDTH: usize = 100;

/// Embeds sentences with a pretrained transformer, ranks them against a query, and shows where its attention goes.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// A folder with model.safetensors, tokenizer.json and config.json of all-MiniLM-L6-v2
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The backend to run on, of those compiled in [default: the first]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// A text file of sentences in UTF-8, one a line; blank lines are passed over [default: a bundled text]
    #[arg(long, value_name = "FILE")]
    sentences: Option<PathBuf>,
    /// Rank the sentences by how near they are to this text
    #[arg(long, value_name = "TEXT", default_value = "I want a refund for something that does not work.")]
    query: String,
    /// Write the embeddings here, as tensor `embeddings` [sentences, features] in f32, rows in the order of the file
    #[arg(long, value_name = "OUT.safetensors")]
    embeddings: Option<PathBuf>,
    /// Write the page of attention here
    #[arg(long, value_name = "OUT.html", default_value = "attention.html")]
    page: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever a library said.
            let text = format!("{error:#}");
            eprintln!("error: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let (backend, device) = device(args.backend.as_deref())?;
    let sentences = match &args.sentences {
        Some(path) => files::read_sentences(path)?,
        None => files::split(BUNDLED),
    };
    let (loaded, load_time) = timed(|| Demo::load(&args.model, device))?;
    let (read, read_time) = timed(|| loaded.read(&sentences.lines, &args.query))?;
    let (embedded, embed_time) = timed(|| embed::embed(&loaded.model, &read, &loaded.device))?;
    let Some((query, rows)) = embedded.split_last() else { bail!("no sentence was embedded") };
    let (similarities, order) = embed::rank(query, rows);
    let planned = embed::plan(&loaded.model, &read, &loaded.device)?.context("no sentence was embedded")?;

    let source = args.sentences.as_deref().map_or("the bundled text".into(), |path| path.display().to_string());
    println!("{} sentences from {source}, on backend {backend}", rows.len());
    say_what_was_left(&read, sentences.blank, loaded.config.max_tokens);
    println!("\n{}", report::ranking(&args.query, &sentences.lines, &similarities, &order, WIDTH));
    let head_dim = loaded.config.hidden_size / loaded.config.num_attention_heads;
    println!(
        "{}",
        report::plan(&planned, loaded.config.num_hidden_layers, loaded.config.num_attention_heads, head_dim)
    );

    if let Some(path) = &args.embeddings {
        files::write_atomically(path, &embeddings_file(rows)?)?;
    }
    let computed_by = format!("{backend}, kernel {}", planned.plan.forward.kernel);
    let (data, page_time) =
        timed(|| loaded.page(computed_by, &args.query, &sentences.lines, &read, &similarities, &order))?;
    let html = page::render(&data)?;
    files::write_atomically(&args.page, html.as_bytes())?;

    let tokens: usize = read.iter().map(|tokens| tokens.ids.len()).sum();
    let rate = tokens as f64 / embed_time.as_secs_f64();
    let [load, tokenise, embed, page] = [load_time, read_time, embed_time, page_time].map(report::time);
    println!(
        "Time: load {load}, tokenise {tokenise}, embed {embed} ({tokens} tokens, {rate:.0}/s), weights for the page {page}"
    );
    if let Some(path) = &args.embeddings {
        println!("Embeddings: {}", path.display());
    }
    let place = std::path::absolute(&args.page).unwrap_or_else(|_| args.page.clone());
    println!("Page: {} ({}; open it in a browser)", place.display(), report::bytes(html.len() as u64));
    if data.left_out > 0 {
        println!("  the last {} sentences are not on the page, to keep it small", data.left_out);
    }
    Ok(())
}

/// The model, ready to read.
struct Demo {
    /// That of its folder.
    name: String,
    config: ModelConfig,
    reader: Reader,
    model: SentenceEncoder,
    device: Device,
}

impl Demo {
    fn load(folder: &Path, device: Device) -> Result<Self> {
        if !folder.is_dir() {
            bail!("--model {}: no such folder", folder.display());
        }
        let config = ModelConfig::read(folder)?;
        let reader = Reader::new(folder, &config)?;
        let model = SentenceEncoder::load(folder, &config, &device)?;
        // A folder such as `..` has no name of its own.
        let own = folder.file_name().map(ToOwned::to_owned);
        let name = own.or_else(|| Some(folder.canonicalize().ok()?.file_name()?.to_owned()));
        let name = name.map(|name| name.to_string_lossy().into_owned());
        Ok(Self { name: name.unwrap_or_else(|| "BERT".to_string()), config, reader, model, device })
    }

    /// The sentences as tokens, and the query last.
    fn read(&self, sentences: &[String], query: &str) -> Result<Vec<Tokens>> {
        let mut read = sentences.iter().map(|sentence| self.reader.read(sentence)).collect::<Result<Vec<_>>>()?;
        if query.trim().is_empty() {
            bail!("--query: expected some text, found none");
        }
        let query = self.reader.read(query)?;
        if query.cut > 0 {
            let max = self.config.max_tokens;
            bail!("--query: expected at most {max} tokens, found {}", max + query.cut);
        }
        read.push(query);
        Ok(read)
    }

    /// The page's data: sentences in the order of the file while there is room, then the query.
    fn page(
        &self,
        computed_by: String,
        query: &str,
        texts: &[String],
        read: &[Tokens],
        similarities: &[f32],
        order: &[usize],
    ) -> Result<PageData> {
        let (layers, heads) = (self.config.num_hidden_layers, self.config.num_attention_heads);
        let mut ranks = vec![0; order.len()];
        order.iter().enumerate().for_each(|(rank, &index)| ranks[index] = rank + 1);
        let progress = embed::progress(read.len(), "weights");
        let sentence = |text: &str, tokens: &Tokens, similarity, rank| -> Result<PageSentence> {
            progress.inc(1);
            let weights = page::encode(&embed::weights(&self.model, tokens, &self.device)?);
            Ok(PageSentence { text: text.to_string(), tokens: tokens.pieces.clone(), similarity, rank, weights })
        };
        let (mut shown, mut size) = (Vec::new(), 0);
        for (index, (text, tokens)) in texts.iter().zip(read).enumerate() {
            if !page::has_room(size, layers * heads, tokens.ids.len()) {
                break;
            }
            let made = sentence(text, tokens, Some(similarities[index]), Some(ranks[index]))?;
            size += made.weights.len();
            shown.push(made);
        }
        let left_out = texts.len() - shown.len();
        if let Some(tokens) = read.last() {
            shown.push(sentence(query, tokens, None, None)?);
        }
        progress.finish_and_clear();
        let model = self.name.clone();
        Ok(PageData { model, computed_by, layers, heads, query: query.to_string(), sentences: shown, left_out })
    }
}

/// The device of a backend that was compiled in.
fn device(name: Option<&str>) -> Result<(&'static str, Device)> {
    let known = attn::BACKENDS;
    let found = known.iter().find(|known| name.is_none_or(|name| name == **known));
    let found = found.with_context(|| match name {
        Some(name) => format!("--backend: expected one of those compiled in ({}), found {name:?}", known.join(", ")),
        None => "this program was compiled without a backend: build it with a feature such as ndarray".to_string(),
    })?;
    Ok((found, attn::device(found)?))
}

fn say_what_was_left(read: &[Tokens], blank: usize, max_tokens: usize) {
    if blank > 0 {
        println!("  {blank} blank {} passed over", if blank == 1 { "line" } else { "lines" });
    }
    for (index, tokens) in read.iter().enumerate().filter(|(_, tokens)| tokens.cut > 0) {
        println!("  sentence {} cut to {max_tokens} tokens, {} left out", index + 1, tokens.cut);
    }
}

/// `embeddings` `[sentences, features]` in f32 as a safetensors file.
fn embeddings_file(rows: &[Vec<f32>]) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes)?;
    Ok(safetensors::serialize([("embeddings", view)], None)?)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let made = work()?;
    Ok((made, start.elapsed()))
}
