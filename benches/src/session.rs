//! A whole run: the peaks, then each shape checked, weighed and timed, then the peaks again.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::alloc::Watch;
use crate::backend::{Backend, Memory};
use crate::check::check;
use crate::contestants::{Contestant, Outcome, Peers, enter};
use crate::guard::guarded;
use crate::inputs::Inputs;
use crate::machine;
use crate::measure::{Effort, Times, measure, warm_up};
use crate::oracle::Expected;
use crate::peaks::{DevicePeaks, Peaks, Reading};
use crate::progress::Progress;
use crate::report::{Machine, Report, Row, Torch};
use crate::resident::Resident;
use crate::shapes::{Dtype, Shape, Suite};

/// What to run.
pub struct Session {
    /// Backends on which ours runs.
    pub backends: Vec<Backend>,
    /// The shapes, in order; those of a type that no backend has are passed by.
    pub shapes: Vec<Shape>,
    /// Whose operations are peers.
    pub peers: Peers,
    /// What the name of a shape must hold, if anything; `x` stands for `×`.
    pub only: Option<String>,
    /// Fewer rounds, smaller buffers.
    pub quick: bool,
    /// Threads of the global pool.
    pub threads: usize,
}

impl Session {
    /// Runs everything; `keep` is given the report so far after each shape, so that a run that is cut short leaves something.
    ///
    /// # Errors
    /// Where no shape is left to run, or `keep` fails. A shape that ours fails on is told in the [`Run`].
    pub fn run(&self, mut keep: impl FnMut(&Report) -> Result<()>) -> Result<Run> {
        let shapes: Vec<&Shape> = self
            .shapes
            .iter()
            .filter(|shape| self.backends.iter().any(|b| b.has_dtype(shape.dtype)))
            .filter(|shape| self.only.as_ref().is_none_or(|part| holds(&shape.to_string(), part)))
            .collect();
        ensure!(!shapes.is_empty(), "no shape of these suites and backends has {:?} in its name", self.only);
        let mut dtypes: Vec<Dtype> = shapes.iter().map(|shape| shape.dtype).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        let mut progress = Progress::new(shapes.len() + 2);
        progress.step("the machine's peaks");
        let peaks = Peaks::measure(self.threads, self.quick);
        let devices = self.device_peaks(&dtypes, &progress);
        let mut report = Report { machine: self.machine(&peaks, devices.clone()), rows: Vec::new() };
        let mut wrong = Vec::new();
        for shape in shapes {
            progress.step(&format!("{} {shape}", shape.suite.name()));
            match self.shape(shape, &mut progress) {
                Ok(mut rows) => report.rows.append(&mut rows),
                Err(error) => {
                    progress.note(&format!("{error:#}"));
                    wrong.push(format!("{error:#}"));
                }
            }
            report.relate();
            keep(&report)?;
        }
        progress.step("the machine's peaks again");
        let peaks = peaks.max(Peaks::measure(self.threads, self.quick));
        let again = self.device_peaks(&dtypes, &progress);
        let devices = devices.into_iter().zip(again).map(|(before, after)| before.max(after)).collect();
        progress.finish();
        report.machine = self.machine(&peaks, devices);
        report.relate();
        Ok(Run { report, wrong })
    }

    fn is_in_host_memory(&self, row: &Row) -> bool {
        let mut of_row = self.backends.iter().filter(|backend| backend.name() == row.backend);
        of_row.any(|backend| backend.memory() != Memory::Device)
    }

    /// The limits of each device with memory of its own, in the order of the backends.
    fn device_peaks(&self, dtypes: &[Dtype], progress: &Progress) -> Vec<DevicePeaks> {
        let devices = self.backends.iter().filter(|backend| backend.memory() == Memory::Device);
        devices.map(|&backend| DevicePeaks::measure(backend, dtypes, |note| progress.note(note))).collect()
    }

    /// One shape: a row for ours on each backend.
    fn shape(&self, shape: &Shape, progress: &mut Progress) -> Result<Vec<Row>> {
        let inputs = Inputs::of(shape);
        let expected = Expected::of(shape, &inputs);
        let entered = enter(shape, &inputs, &self.backends, self.peers)?;
        drop(inputs);
        let effort = match self.quick || shape.suite == Suite::Sweep {
            true => Effort::QUICK,
            false if entered.iter().all(Contestant::queues) => Effort::DEVICE,
            false => Effort::FULL,
        };
        let mut contestants = Vec::new();
        let mut firsts = Vec::new();
        for contestant in entered {
            let first = try_out(shape, &contestant, progress, || self.first_call(shape, &expected, &contestant))?;
            contestant.tidy_up();
            if let Some(first) = first {
                contestants.push(contestant);
                firsts.push(first);
            }
        }
        let mut repeats = Vec::new();
        let mut warm = Vec::new();
        for (contestant, first) in contestants.into_iter().zip(firsts) {
            if let Some(calls) = try_out(shape, &contestant, progress, || warm_up(&contestant, effort))? {
                repeats.push(calls);
                warm.push((contestant, first));
            }
        }
        let (contestants, firsts): (Vec<_>, Vec<_>) = warm.into_iter().unzip();
        let is_read = shape.suite == Suite::Decode && contestants.iter().any(|contestant| !contestant.queues());
        let mut reading = is_read.then(|| Reading::new(self.threads));
        let (mut times, read_gbps) = measure(&contestants, &repeats, effort, reading.as_mut())?;
        if shape.suite == Suite::Sweep && is_behind(&contestants, &times) {
            (times, _) = measure(&contestants, &repeats, Effort::AGAIN, None)?;
        }
        let mut rows = rows(shape, &contestants, &firsts, &times);
        for row in rows.iter_mut().filter(|row| self.is_in_host_memory(row)) {
            row.read_gbps = read_gbps;
        }
        for contestant in &contestants {
            contestant.tidy_up();
        }
        Ok(rows)
    }

    /// The first call, in threads that have never run anything: checks the answer and weighs the workspace.
    ///
    /// New threads, because what a kernel keeps for its next call in thread-local memory would weigh nothing otherwise. A device
    /// is called from this thread, as later: it keeps memory for each thread that calls it.
    fn first_call(&self, shape: &Shape, expected: &Expected, contestant: &Contestant) -> Result<First> {
        if contestant.queues() {
            let error_share = check(shape, expected, &contestant.run()?, contestant.is_ours())?;
            return Ok(First { workspace_bytes: None, error_share });
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build().context("starting threads")?;
        pool.broadcast(|_| ());
        let watch = Watch::start();
        let outcome: Outcome = pool.install(|| contestant.run())?;
        let seen = watch.stop();
        let error_share = check(shape, expected, &outcome, contestant.is_ours())?;
        drop(outcome);
        let peak = match contestant.backend.memory() {
            Memory::Counted => Some(seen.peak),
            Memory::Process => resident(contestant)?,
            Memory::Device => None,
        };
        Ok(First { workspace_bytes: peak.map(|peak| peak.saturating_sub(shape.output_bytes())), error_share })
    }

    fn machine(&self, peaks: &Peaks, devices: Vec<DevicePeaks>) -> Machine {
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
            devices,
            torch: Torch::default(),
        }
    }
}

/// What a run found.
pub struct Run {
    /// The report.
    pub report: Report,
    /// Where ours was wrong or failed: shapes that have no row.
    pub wrong: Vec<String>,
}

/// What `call` of a contestant gives. A peer that answers something else, fails or panics is no peer of this shape: it gets no
/// time, and the run says why.
fn try_out<T>(
    shape: &Shape,
    contestant: &Contestant,
    progress: &Progress,
    call: impl FnOnce() -> Result<T>,
) -> Result<Option<T>> {
    if contestant.is_ours() {
        return call().map(Some).with_context(|| format!("{shape} on {}: ours", contestant.backend));
    }
    Ok(guarded(call)
        .inspect_err(|error| progress.note(&format!("{shape}: {} left out: {error:#}", contestant.name)))
        .ok())
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

/// Whether some peer was faster than one of ours.
fn is_behind(contestants: &[Contestant], times: &[Times]) -> bool {
    let of =
        |ours: bool| contestants.iter().zip(times).filter(move |(c, _)| c.is_ours() == ours).map(|(_, t)| t.median);
    of(false).fold(f64::INFINITY, f64::min) < of(true).fold(0.0, f64::max)
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
    #[cfg(feature = "cpu")]
    use crate::contestants::{OURS, OURS_IN_F32};
    use crate::shapes::suite;

    #[cfg(feature = "cpu")]
    #[test]
    fn decode_of_a_half_type_stands_beside_ours_in_f32() {
        let decode = suite(Suite::Decode).into_iter().find(|shape| shape.dtype == Dtype::Bf16).expect("one is bf16");
        let names = |dtype| {
            let shape = Shape { dtype, key_len: 64, ..decode };
            let entered = enter(&shape, &Inputs::of(&shape), &[Backend::Flex], Peers::Near).expect("all can be set up");
            entered.iter().map(|contestant| contestant.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Dtype::Bf16).iter().filter(|name| **name == OURS_IN_F32).count(), 1);
        assert_eq!(names(Dtype::Bf16)[0], OURS);
        assert!(!names(Dtype::F32).contains(&OURS_IN_F32));
    }

    #[test]
    fn a_shape_is_found_by_a_part_of_its_name() {
        let causal = suite(Suite::Prefill).into_iter().find(|shape| shape.causal).expect("one is causal");
        let name = causal.to_string();
        assert!(holds(&name, "1024x64") && holds(&name, "1024×64") && holds(&name, "causal"), "{name}");
        assert!(!holds(&name, "4096x64"), "{name}");
    }
}
