//! A checkpoint: everything that a training needs to go on as if it had never stopped, in one file that is whole or not there.
//!
//! ```text
//! "attn checkpoint 1\n"   length of the header, u64 little-endian   header in JSON   losses in f32   model   optimiser
//! ```
//! Model and optimiser are Burn's own records. The seed is part of the run's description, and everything random follows from it and
//! the step.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use serde::{Deserialize, Serialize};

use crate::files::write_atomically;

const MAGIC: &[u8] = b"attn checkpoint 1\n";

/// A training between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What run it is of: its [`Plan`](crate::Plan) and the number of parameters, as JSON. As text, since numbers that are printed
    /// and read again may not be the same.
    pub run: String,
    /// Steps done.
    pub step: usize,
    /// The loss of each.
    pub losses: Vec<f32>,
    model: Vec<u8>,
    optimizer: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    run: String,
    step: usize,
    /// Bytes of losses, model, optimiser.
    lengths: [usize; 3],
}

impl Checkpoint {
    /// Of a model and its optimiser after `losses.len()` steps.
    ///
    /// # Errors
    /// If Burn cannot write the records.
    pub fn of<M: Module>(run: &str, losses: &[f32], model: &M, optimizer: &ModuleOptimizer) -> Result<Self> {
        let model = model.clone().into_record().into_bytes()?.to_vec();
        let optimizer = optimizer.into_bytes()?.to_vec();
        Ok(Self { run: run.to_string(), step: losses.len(), losses: losses.to_vec(), model, optimizer })
    }

    /// Model and optimiser as they were, put into ones that were made alike.
    ///
    /// # Errors
    /// If the records are not of this model.
    pub fn restore<M: Module>(&self, model: M, optimizer: ModuleOptimizer) -> Result<(M, ModuleOptimizer)> {
        let record = ModuleRecord::from_bytes(Bytes::from_bytes_vec(self.model.clone()))?;
        let optimizer = optimizer.from_bytes(Bytes::from_bytes_vec(self.optimizer.clone()))?;
        Ok((model.try_load_record(record)?, optimizer))
    }

    /// Writes it; whoever looks meanwhile sees the old one or the whole new one.
    ///
    /// # Errors
    /// If it cannot be written; the old one stands then.
    pub fn write(&self, path: &Path) -> Result<()> {
        let losses: Vec<u8> = self.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
        let lengths = [losses.len(), self.model.len(), self.optimizer.len()];
        let header = serde_json::to_vec(&Header { run: self.run.clone(), step: self.step, lengths })?;
        let length = (header.len() as u64).to_le_bytes();
        write_atomically(path, &[MAGIC, &length, &header, &losses, &self.model, &self.optimizer].concat())
    }

    /// Reads one, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read, or is no checkpoint.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let parsed =
            Self::parse(&bytes).with_context(|| format!("{}: no checkpoint of this program", path.display()))?;
        Ok(Some(parsed))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let rest = bytes.strip_prefix(MAGIC).context("it begins with something else")?;
        let (length, rest) = rest.split_first_chunk::<8>().context("it is cut")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let (header, mut rest) = rest.split_at_checked(length).context("it is cut")?;
        let Header { run, step, lengths } = serde_json::from_slice(header)?;
        let mut part = |length: usize| -> Result<&[u8]> {
            let (part, after) = rest.split_at_checked(length).context("it is cut")?;
            rest = after;
            Ok(part)
        };
        let (losses, model, optimizer) = (part(lengths[0])?, part(lengths[1])?.to_vec(), part(lengths[2])?.to_vec());
        let (losses, odd) = losses.as_chunks::<4>();
        let losses: Vec<f32> = losses.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if !rest.is_empty() || !odd.is_empty() || losses.len() != step {
            bail!("its parts do not fit together");
        }
        Ok(Self { run, step, losses, model, optimizer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let losses = vec![0.1, f32::MIN_POSITIVE, 1.0 / 3.0];
        Checkpoint { run: "{\"a\": 0.1}".into(), step: 3, losses, model: vec![1; 100], optimizer: vec![2; 50] }
    }

    #[test]
    fn what_is_written_is_read_to_the_bit_and_nothing_else_is_left() {
        let folder = std::env::temp_dir().join(format!("attn-checkpoint-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("c");
        assert_eq!(Checkpoint::read(&path).unwrap(), None);
        checkpoint().write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), Some(checkpoint()));
        let longer = Checkpoint { step: 4, losses: vec![0.0; 4], ..checkpoint() };
        longer.write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), Some(longer));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        // Every cut of the file is told from a whole one.
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(Checkpoint::read(&path).is_err(), "{length} bytes were taken for a whole one");
        }
        fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(Checkpoint::read(&path).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
