//! A whole run: the peaks, then each shape checked, weighed and timed, then the peaks again.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::alloc::Watch;
use crate::backend::{Backend, Memory};
use crate::check::check;
use crate::contestants::{Contestant, Outcome, enter};
use crate::inputs::Inputs;
use crate::machine;
use crate::measure::{Effort, Times, measure};
use crate::oracle::Expected;
use crate::peaks::Peaks;
use crate::progress::Progress;
use crate::report::{Machine, Report, Row};
use crate::resident::Resident;
use crate::shapes::{Shape, Suite, suite};

/// What to run.
pub struct Session {
    /// Backends on which ours runs.
    pub backends: Vec<Backend>,
    /// Suites, in order.
    pub suites: Vec<Suite>,
    /// What the name of a shape must hold, if anything; `x` stands for `×`.
    pub only: Option<String>,
    /// Fewer rounds, smaller buffers.
    pub quick: bool,
    /// Threads of the global pool.
    pub threads: usize,
}

impl Session {
    /// Runs everything.
    ///
    /// # Errors
    /// A wrong answer of ours, or a call that fails.
    pub fn run(&self) -> Result<Report> {
        let shapes: Vec<Shape> = self
            .suites
            .iter()
            .flat_map(|&s| suite(s))
            .filter(|shape| self.backends.iter().any(|b| b.has_dtype(shape.dtype)))
            .filter(|shape| self.only.as_ref().is_none_or(|part| holds(&shape.to_string(), part)))
            .collect();
        ensure!(!shapes.is_empty(), "no shape of these suites and backends has {:?} in its name", self.only);
        let mut progress = Progress::new(shapes.len() + 2);
        progress.step("the machine's peaks");
        let mut peaks = Peaks::measure(self.threads, self.quick);
        let mut rows = Vec::new();
        for shape in &shapes {
            progress.step(&format!("{} {shape}", shape.suite.name()));
            rows.append(&mut self.shape(shape, &mut progress)?);
        }
        progress.step("the machine's peaks again");
        peaks = peaks.max(Peaks::measure(self.threads, self.quick));
        progress.finish();
        for row in &mut rows {
            row.relate(&peaks);
        }
        Ok(Report { machine: self.machine(&peaks), rows })
    }

    /// One shape: a row for ours on each backend.
    fn shape(&self, shape: &Shape, progress: &mut Progress) -> Result<Vec<Row>> {
        let inputs = Inputs::of(shape);
        let expected = Expected::of(shape, &inputs);
        let mut contestants = Vec::new();
        let mut firsts = Vec::new();
        for contestant in enter(shape, &inputs, &self.backends)? {
            match self.first_call(shape, &expected, &contestant) {
                Ok(first) => {
                    contestants.push(contestant);
                    firsts.push(first);
                }
                Err(error) if contestant.is_ours() => {
                    let backend = contestant.backend;
                    return Err(error.context(format!("{shape} on {backend}: ours")));
                }
                // A peer that answers something else is no peer of this shape: it gets no time, and the run says why.
                Err(error) => progress.note(&format!("{shape}: {} left out: {error:#}", contestant.name)),
            }
        }
        drop(inputs);
        let effort = if self.quick { Effort::QUICK } else { Effort::FULL };
        let times = measure(&contestants, effort)?;
        Ok(rows(shape, &contestants, &firsts, &times))
    }

    /// The first call, in threads that have never run anything: checks the answer and weighs the workspace.
    ///
    /// New threads, because what a kernel keeps for its next call in thread-local memory would weigh nothing otherwise.
    fn first_call(&self, shape: &Shape, expected: &Expected, contestant: &Contestant) -> Result<First> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build().context("starting threads")?;
        pool.broadcast(|_| ());
        let watch = Watch::start();
        let outcome: Outcome = pool.install(|| contestant.run())?;
        let seen = watch.stop();
        let error_share = check(shape, expected, &outcome)?;
        drop(outcome);
        let peak = match contestant.backend.memory() {
            Memory::Counted => Some(seen.peak),
            Memory::Process => resident(contestant)?,
            Memory::Device => None,
        };
        Ok(First { workspace_bytes: peak.map(|peak| peak.saturating_sub(shape.output_bytes())), error_share })
    }

    fn machine(&self, peaks: &Peaks) -> Machine {
        Machine {
            cpu: machine::cpu_name(),
            cores: machine::cores(),
            threads: self.threads,
            fma_peak_gflops: peaks.fma_gflops,
            bf16_peak_gflops: peaks.bf16_gflops,
            read_gbps: peaks.read_gbps,
            read_buffer_bytes: peaks.read_buffer,
            isa: attn_cpu::Isa::detect().name().to_string(),
            os: std::env::consts::OS.to_string(),
            date: machine::now(),
            quick: self.quick,
            burn: BURN.to_string(),
        }
    }
}

/// The release of Burn whose operations are the peers, and the features that make them fast.
const BURN: &str =
    if cfg!(feature = "x86-v4") { "0.22.1, features rayon, simd, x86-v4" } else { "0.22.1, features rayon, simd" };

/// The growth of the process's resident memory in a call; the first is over, which brought code and threads with it.
fn resident(contestant: &Contestant) -> Result<Option<u64>> {
    let watch = Resident::start();
    let outcome = contestant.run()?;
    let seen = watch.and_then(Resident::stop);
    drop(outcome);
    Ok(seen)
}

/// What the first call of a contestant showed.
struct First {
    workspace_bytes: Option<u64>,
    error_share: f64,
}

/// A row for each of ours, with all the peers' times.
fn rows(shape: &Shape, contestants: &[Contestant], firsts: &[First], times: &[Times]) -> Vec<Row> {
    let all = || contestants.iter().zip(firsts).zip(times);
    let peers: BTreeMap<String, f64> =
        all().filter(|((c, _), _)| !c.is_ours()).map(|((c, _), t)| (c.name.to_string(), t.median)).collect();
    let peers_workspace: BTreeMap<String, u64> = all()
        .filter(|((c, _), _)| !c.is_ours())
        .filter_map(|((c, f), _)| Some((c.name.to_string(), f.workspace_bytes?)))
        .collect();
    all()
        .filter(|((c, _), _)| c.is_ours())
        .map(|((contestant, first), times)| {
            let mut row = Row::new(shape, contestant.backend.name(), times);
            if let Some(planned) = &contestant.planned {
                row.kernel = Some(planned.kernel.clone());
                row.planned_workspace_bytes = Some(planned.workspace_bytes);
            }
            row.peers = peers.clone();
            row.workspace_bytes = first.workspace_bytes;
            row.peers_workspace_bytes = peers_workspace.clone();
            row.error_share = first.error_share;
            row
        })
        .collect()
}

/// Whether the name of a shape holds `part`, typed with `x` or with `×`.
fn holds(name: &str, part: &str) -> bool {
    name.replace('×', "x").contains(&part.replace('×', "x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_found_by_a_part_of_its_name() {
        let causal = suite(Suite::Prefill).into_iter().find(|shape| shape.causal).expect("one is causal");
        let name = causal.to_string();
        assert!(holds(&name, "1024x64") && holds(&name, "1024×64") && holds(&name, "causal"), "{name}");
        assert!(!holds(&name, "4096x64"), "{name}");
    }
}
