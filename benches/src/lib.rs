//! Benchmarks of attention beside the operations of Burn.
//!
//! The binary `attn-bench` times ours and Burn's own operation by turns, checks every answer first, relates speeds to the
//! machine's measured peaks and writes a report. The criterion benches (`cargo bench -p attn-benches`) run the CPU kernels
//! on the same [`shapes`], for whoever works on them.
//!
//! ```text
//! shapes    what is timed, and how much work it is      machine, peaks    where it runs, and its limits
//! inputs    the numbers                                 measure           time, by turns
//! oracle    the right answer, and how far off is fine   alloc, resident   memory, of Rust's allocator and of the process
//! contestants, backend   ours and Burn's operation      session           a whole run
//! check     answer against oracle                       report, progress  JSON, page, table; how far it is
//! guard     panics of others as errors
//! ```

pub mod alloc;
pub mod backend;
pub mod check;
pub mod contestants;
pub mod guard;
pub mod inputs;
pub mod machine;
pub mod measure;
pub mod oracle;
pub mod peaks;
pub mod progress;
pub mod report;
pub mod resident;
pub mod session;
pub mod shapes;
