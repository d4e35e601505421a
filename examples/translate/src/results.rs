//! The page.
use crate::lesson::Learned;
use crate::task::Task;
use anyhow::Result;
use std::path::{Path, PathBuf};
pub fn write(folder: &Path, task: &Task, all: &[Learned]) -> Result<PathBuf> {
    for one in all {
        for (o, p) in one.outputs.iter().zip(&task.held).filter(|(o, p)| o.text != p.target).take(10) {
            println!("{} {} {}", p.source, p.target, o.text);
        }
    }
    Ok(folder.into())
}
