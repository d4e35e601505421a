//! What a run found, as data (`bench.json`), as a page (`bench.html`) and as a table in the terminal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::contestants::OURS_IN_F32;
use crate::measure::Times;
use crate::peaks::DevicePeaks;
use crate::shapes::{Dtype, Shape, Suite};

mod html;
mod scale;
mod sweep;
mod table;

pub use html::html;
pub use table::tables;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// One row a shape and backend, in the order in which they ran.
    pub rows: Vec<Row>,
}

/// The machine, with the limits measured in the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// CPUs that the process may use.
    pub cores: usize,
    /// Threads that were used.
    pub threads: usize,
    /// f32 multiply-adds of all threads, GFLOP/s.
    pub fma_peak_gflops: f64,
    /// bf16 dot products of all threads, GFLOP/s; null where the CPU has none.
    pub bf16_peak_gflops: Option<f64>,
    /// Reading memory with all threads, GB/s.
    pub read_gbps: f64,
    /// Bytes that were read to find it.
    pub read_buffer_bytes: u64,
    /// The instruction set that the CPU kernels choose here.
    pub isa: String,
    /// Operating system.
    pub os: String,
    /// When.
    pub date: String,
    /// Whether it was a first look (`--quick`).
    pub quick: bool,
    /// The peers' release.
    pub burn: String,
    /// The limits of devices with memory of their own on which ours ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DevicePeaks>,
    /// What PyTorch reached, where `torch_sdpa.py` ran.
    #[serde(flatten)]
    pub torch: Torch,
}

/// What PyTorch says and reaches on a CUDA device; fields `torch_…` of the machine, all absent where it did not run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Torch {
    /// PyTorch's release.
    #[serde(rename = "torch_version", default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The device's name.
    #[serde(rename = "torch_device", default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The kernels among which its attention chose.
    #[serde(rename = "torch_backends", default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<String>,
    /// Its matrix product 8192³ in f16, TFLOP/s.
    #[serde(rename = "torch_matmul_f16_tflops", default, skip_serializing_if = "Option::is_none")]
    pub matmul_f16_tflops: Option<f64>,
    /// Its matrix product 8192³ in bf16, TFLOP/s.
    #[serde(rename = "torch_matmul_bf16_tflops", default, skip_serializing_if = "Option::is_none")]
    pub matmul_bf16_tflops: Option<f64>,
    /// Its `tensor + 1` of 2 GiB, GB/s read and written.
    #[serde(rename = "torch_copy_gbps", default, skip_serializing_if = "Option::is_none")]
    pub copy_gbps: Option<f64>,
}

impl Machine {
    /// The limit of a row, in the unit of its [`speed`](Row::speed).
    ///
    /// On a CPU: bf16 dot products for bf16 where there are such, f32 multiply-adds for other arithmetic, reading memory beside it
    /// for decode. On a device: matrix products of the row's type, copying for decode; by Burn, or by PyTorch where that ran on the
    /// device of the same name and is faster. None where it was not measured.
    pub fn peak(&self, row: &Row) -> Option<f64> {
        let Some(device) = self.devices.iter().find(|device| device.backend == row.backend) else {
            return Some(match (row.gbps, self.bf16_peak_gflops) {
                (Some(_), _) => row.read_gbps.unwrap_or(self.read_gbps),
                (None, Some(bf16)) if row.dtype == Dtype::Bf16.name() => bf16,
                _ => self.fma_peak_gflops,
            });
        };
        let is_torchs = self.torch.device.as_ref() == Some(&device.name);
        let torch = is_torchs.then_some(&self.torch);
        let (by_burn, by_torch) = if row.gbps.is_some() {
            (device.copy_gbps, torch.and_then(|torch| torch.copy_gbps))
        } else {
            let by_burn = device.matmul_tflops.get(&row.dtype).copied();
            let by_torch = torch.and_then(|torch| match row.dtype.as_str() {
                "f16" => torch.matmul_f16_tflops,
                "bf16" => torch.matmul_bf16_tflops,
                _ => None,
            });
            (by_burn.map(|t| t * 1e3), by_torch.map(|t| t * 1e3))
        };
        [by_burn, by_torch].into_iter().flatten().reduce(f64::max)
    }
}

/// One shape on one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `prefill`, `decode` or `train`.
    pub suite: String,
    /// The backend that ours ran on.
    pub backend: String,
    /// Element type.
    pub dtype: String,
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// G.
    pub kv_heads: usize,
    /// Sq.
    pub query_len: usize,
    /// Sk.
    pub key_len: usize,
    /// D.
    pub head_dim: usize,
    /// E, if not D.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    /// Causality.
    pub causal: bool,
    /// Keys seen before a query's position, if windowed.
    pub window_left: Option<usize>,
    /// Keys seen after it, if windowed.
    pub window_right: Option<usize>,
    /// The scale, if not 1/√D.
    pub scale: Option<f64>,
    /// The softcap, if any.
    pub softcap: Option<f64>,
    /// Sizes in one word.
    pub sizes: String,
    /// Options in words.
    pub options: String,
    /// The kernel that served ours.
    pub kernel: Option<String>,
    /// Median of ours, milliseconds.
    pub ours_ms: f64,
    /// Fastest turn of ours.
    pub ours_min_ms: f64,
    /// Slowest turn of ours.
    pub ours_max_ms: f64,
    /// Rounds that the medians are of.
    pub rounds: usize,
    /// Median of each peer that can do the shape, milliseconds; in decode of half types that of ours in f32 besides, `ours-f32`.
    pub peers: BTreeMap<String, f64>,
    /// Useful operations, in 10⁹.
    pub gflop: f64,
    /// Useful operations of ours a second, in 10⁹.
    pub gflops: f64,
    /// Bytes of keys and values of ours a second, in 10⁹; decode only.
    pub gbps: Option<f64>,
    /// What reading memory gave by turns beside it, the median in GB/s; decode on a CPU only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_gbps: Option<f64>,
    /// The share of [the row's peak](Machine::peak); null where that was not measured.
    pub peak_share: Option<f64>,
    /// Measured: the most bytes alive during a call of ours beyond its inputs and results; on LibTorch, which allocates by
    /// itself, the growth of the process's resident memory beyond the results. Null where the system does not tell.
    pub workspace_bytes: Option<u64>,
    /// What ours said beforehand that it would be.
    pub planned_workspace_bytes: Option<u64>,
    /// The measured workspace of each peer.
    pub peers_workspace_bytes: BTreeMap<String, u64>,
    /// The largest error of ours as a share of its bound.
    pub error_share: f64,
}

impl Row {
    /// A row of ours with its own times; peers, peak and memory are the caller's to add.
    pub fn new(shape: &Shape, backend: &str, times: &Times) -> Self {
        let per_second = 1e-9 / (times.median * 1e-3);
        Self {
            suite: shape.suite.name().to_string(),
            backend: backend.to_string(),
            dtype: shape.dtype.name().to_string(),
            batch: shape.batch,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            query_len: shape.query_len,
            key_len: shape.key_len,
            head_dim: shape.head_dim,
            value_dim: shape.extras.value_dim,
            causal: shape.causal,
            window_left: shape.window.map(|w| w.left),
            window_right: shape.window.map(|w| w.right),
            scale: shape.scale,
            softcap: shape.softcap,
            sizes: shape.sizes(),
            options: shape.options(),
            kernel: None,
            ours_ms: times.median,
            ours_min_ms: times.min,
            ours_max_ms: times.max,
            rounds: times.rounds,
            peers: BTreeMap::new(),
            gflop: shape.flops() * 1e-9,
            gflops: shape.flops() * per_second,
            gbps: (shape.suite == Suite::Decode).then(|| shape.kv_bytes() as f64 * per_second),
            read_gbps: None,
            peak_share: None,
            workspace_bytes: None,
            planned_workspace_bytes: None,
            peers_workspace_bytes: BTreeMap::new(),
            error_share: f64::NAN,
        }
    }

    /// How often faster than the peer ours is.
    pub fn ratio(&self, peer: &str) -> Option<f64> {
        self.peers.get(peer).map(|ms| ms / self.ours_ms)
    }

    /// How often faster than the fastest peer ours is; none where no peer can do the shape.
    pub fn lead(&self) -> Option<f64> {
        self.ratio(self.rival()?)
    }

    /// The fastest peer. Ours in f32 is none.
    pub fn rival(&self) -> Option<&str> {
        let others = self.peers.iter().filter(|(name, _)| *name != OURS_IN_F32);
        others.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(name, _)| name.as_str())
    }

    /// The speed of ours in the suite's unit: GB/s of decode, GFLOP/s otherwise.
    pub fn speed(&self) -> f64 {
        self.gbps.unwrap_or(self.gflops)
    }
}

impl Report {
    /// Every peer that some row has, by name.
    pub fn peers(&self) -> Vec<String> {
        let mut names: Vec<String> = self.rows.iter().flat_map(|r| r.peers.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Relates every row's speed to its peak.
    pub fn relate(&mut self) {
        for row in &mut self.rows {
            row.peak_share = self.machine.peak(row).map(|peak| row.speed() / peak);
        }
    }

    /// Reads `bench.json` of `folder`, of this release or an earlier one.
    ///
    /// # Errors
    /// Where the file can't be read or is no report.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("bench.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
    }

    /// Writes `bench.json` and `bench.html` into `folder`, making it if need be.
    ///
    /// # Errors
    /// Where a file can't be written; the file that stood there before is then still whole.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
        let json = serde_json::to_string_pretty(self).context("writing the report as JSON")?;
        replace(&folder.join("bench.json"), &(json + "\n"))?;
        replace(&folder.join("bench.html"), &html(self))
    }
}

/// Writes a file beside and renames it into place, so that no reader ever sees half of it.
fn replace(path: &Path, content: &str) -> Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    });
    if written.is_err() {
        // The error that counts is the first; a half-written file beside is not left behind if it can be helped.
        let _ = std::fs::remove_file(&beside);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests;
