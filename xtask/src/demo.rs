//! `cargo xtask demo`: a pretrained transformer reads sentences through our attention.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::backends::{self, Backend};
use crate::{model, workspace};

/// What to read, and what to write.
#[derive(clap::Args)]
pub struct Args {
    /// The backend to run on [default: ndarray]
    #[arg(long, value_name = "NAME", value_parser = backends::parse_backend)]
    backend: Option<&'static Backend>,
    /// A text file of sentences, one a line [default: a bundled text]
    #[arg(long, value_name = "FILE")]
    sentences: Option<PathBuf>,
    /// Rank the sentences by how near they are to this text
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// Write the embeddings here, as tensor `embeddings` [sentences, 384]
    #[arg(long, value_name = "OUT.safetensors")]
    embeddings: Option<PathBuf>,
    /// A folder with model.safetensors, tokenizer.json and config.json [default: fetched once into the cache]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Write the page of attention here
    #[arg(long, value_name = "OUT.html")]
    page: Option<PathBuf>,
}

/// Makes sure that the model is there, then runs the demo and passes its exit code on.
pub fn run(args: &Args) -> Result<ExitCode> {
    let model = match &args.model {
        Some(folder) => local(folder)?,
        None => model::ensure()?,
    };
    let chosen = [args.backend.unwrap_or(backends::parse_backend(backends::DEFAULT[0]).map_err(anyhow::Error::msg)?)];
    let mut command = workspace::program("minilm", &chosen, &[])?;
    workspace::pass_on(add_arguments(&mut command, args, &model, chosen[0]))
}

/// The caller's own folder, once it has what the demo reads.
fn local(folder: &Path) -> Result<PathBuf> {
    for name in model::FILE_NAMES {
        if !folder.join(name).is_file() {
            bail!("--model {}: {name} is not in that folder", folder.display());
        }
    }
    Ok(folder.to_owned())
}

fn add_arguments<'a>(command: &'a mut Command, args: &Args, model: &Path, backend: &Backend) -> &'a mut Command {
    command.arg("--model").arg(model).args(["--backend", backend.name]);
    let paths = [("--sentences", &args.sentences), ("--embeddings", &args.embeddings), ("--page", &args.page)];
    for (option, path) in paths {
        if let Some(path) = path {
            command.arg(option).arg(path);
        }
    }
    if let Some(query) = &args.query {
        command.arg("--query").arg(query);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_folder_without_the_model_is_one_clear_line() {
        let error = local(Path::new("no/such/folder")).unwrap_err().to_string();
        assert_eq!(error, "--model no/such/folder: model.safetensors is not in that folder");
    }

    #[test]
    fn arguments_reach_the_program() {
        let args = Args {
            backend: None,
            sentences: Some("s.txt".into()),
            query: Some("why".into()),
            embeddings: None,
            model: None,
            page: Some("p.html".into()),
        };
        let mut command = Command::new("minilm");
        add_arguments(&mut command, &args, Path::new("m"), backends::parse_backend("flex").unwrap());
        assert_eq!(
            workspace::shown(&command),
            "minilm --model m --backend flex --sentences s.txt --page p.html --query why"
        );
    }
}
