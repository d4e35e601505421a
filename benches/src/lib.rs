//! Benchmarks of attention beside the operations of Burn.
//!
//! The binary `attn-bench` times ours and Burn's own operation by turns, checks every answer first, relates speeds to the
//! machine's measured peaks and writes a report. The criterion benches (`cargo bench -p attn-benches`) run the CPU kernels
//! on the same [`shapes`], for whoever works on them.
//!
//! ```text
//! shapes    what is timed, and how much work it is      machine, peaks   where it runs, and its limits
//! inputs    the numbers                                 measure, alloc   time by turns; memory
//! oracle    the right answer, and how far off is fine   session          a whole run
//! contestants, backend   ours and Burn's operation      report           JSON, page, table
//! check     answer against oracle                       progress         how far it is
//! ```

pub mod alloc;
pub mod backend;
pub mod check;
pub mod contestants;
pub mod inputs;
pub mod machine;
pub mod measure;
pub mod oracle;
pub mod peaks;
pub mod progress;
pub mod report;
pub mod session;
pub mod shapes;
