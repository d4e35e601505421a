//! Attention kernels for CPUs, on slices and strides.
//!
//! [`forward`] computes one [`Attention`] problem with the instruction set that the caller names ([`Isa::detect`] gives
//! the fastest one of this machine), [`backward`] its gradients (`backward/mod.rs` tells how). Inputs are strided [`View`]s that
//! are never copied as a whole. The crate knows nothing of tensors; bindings lend it their memory.
//!
//! ```
//! use attn_cpu::{Attention, Band, Isa, View, forward};
//!
//! // One batch entry, one head, two queries, three keys, dimension 2. Causal, aligned at the bottom right.
//! let (query, key, value) = ([1.0_f32, 0.0, 0.0, 1.0], [0.5_f32; 6], [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
//! let bands = [Band { offset: 1, lower: None, upper: Some(0), keys: 3 }];
//! let problem = Attention::plain(
//!     View::contiguous(&query, [1, 1, 2, 2])?,
//!     View::contiguous(&key, [1, 1, 3, 2])?,
//!     View::contiguous(&value, [1, 1, 3, 2])?,
//!     &bands,
//! );
//! let (mut out, mut lse) = ([0.0_f32; 4], [0.0_f32; 2]);
//! forward(&problem, Isa::detect(), &mut out, Some(&mut lse))?;
//! // The keys are equal, so the first query averages two values and the second all three.
//! assert!(out.iter().zip([2.0, 3.0, 3.0, 4.0]).all(|(a, b)| (a - b).abs() < 1e-6));
//! # Ok::<(), attn_cpu::CpuError>(())
//! ```
//!
//! # The algorithm
//!
//! Online softmax over blocks of keys (Milakov and Gimelshein 2018; Dao et al., FlashAttention, 2022), in register
//! tiles like a matrix product of Goto and van de Geijn (2008):
//!
//! ```text
//! for each task: a run of rows of one key/value head                       schedule.rs, in parallel
//!     M, sum, acc = −∞, 0, 0                                               a row each
//!     stage the queries, strip by strip                                    kernel/pack.rs
//!     for each block of up to 512 keys that any row of the task sees:      task/mod.rs
//!         pack the keys into panels [head_dim, 64 keys], widen the values  kernel/pack.rs, task/products.rs
//!         for each strip of 6 rows that sees any of them:
//!             S = q · kᵀ             6 × 64 at a time, in registers        kernel/tile.rs
//!             scale, softcap, ALiBi, bias where there are any              kernel/options.rs
//!             what the band, the mask, the blocks hide ← −∞                kernel/mask.rs
//!             M' = max(M, max S);  P = 2^(S·log₂e − M');  rescale sum      kernel/softmax.rs
//!             acc = 2^(M − M') · acc + P · v     6 × 64 at a time          kernel/tile.rs
//!     out = acc / (sum + sink),  lse = M · ln 2 + ln sum                   task/finish.rs
//! ```
//!
//! How the code departs from it:
//!
//! - **Rows.** The rows of a group of query heads that share a key/value head are taken together, query by query. GQA packs
//!   each key once for all its heads, and one decoded token of a group reads keys and values once.
//! - **Few rows.** A task of up to 16 rows (decoding) takes its scores straight from the keys as they lie, and multiplies the
//!   values as they lie: packing costs more than it saves there (`kernel/dot.rs`, `kernel/lying.rs`). Both read four places of a
//!   block by turns, since a core's prefetchers keep more lines on their way for four streams of addresses than for one.
//! - **Few keys.** Where one vector holds a row's scores, nothing is packed, staged or accumulated in memory: queries, keys and values are
//!   read as they lie, and outputs are written where they go (`task/brief.rs`, `kernel/brief.rs`). A task takes several key/value heads.
//! - **Few tasks, many keys.** The keys of each task are split, and the parts joined by their maxima and sums (`partial.rs`), in the order
//!   of the keys, by whichever thread finds them complete.
//! - **Pairs of bf16.** With AVX512-BF16, what is packed are units of two bf16, and a product is `a₀·b₀ + a₁·b₁ + c` with a sum in f32:
//!   queries and keys lie two dimensions to a unit, weights and values two keys. Nothing is widened, and weights are rounded to bf16 as
//!   the softmax writes them; the LSE, sums and accumulators are f32. Few rows multiply values as they lie: a unit is two dimensions of one
//!   value then, and the weight takes one half of its own unit and 0 the other, once for each of the two.
//! - **Tiles nobody sees** are not visited: a strip's part of a block is cut to the vectors that any of its rows sees, the
//!   product with the values to the very keys. Tiles that all rows see skip hiding, and a problem with nothing but a
//!   positive scale skips the options: the scale goes into the exponent's multiplication.
//! - **Masks.** Groups of 64 keys that no row of a task sees are not packed, those that no row of a strip sees not multiplied, those
//!   that all see not masked: read off the table of a mask by blocks (`task/blocks.rs`), or off the bytes of a mask, which are looked
//!   at once for each strip and block (`task/mask.rs`). A mask alone leaves the scale in the exponent's multiplication.
//! - **Hidden NaN.** A weight of 0 times a hidden NaN would be NaN. Outputs are tested for being finite as they are written;
//!   a task that fails runs again and skips hidden pairs one by one (`task/careful.rs`). Clean inputs pay nothing.
//! - **Base 2.** Maxima are kept in base 2, rounded once; the exponent is one fused multiplication of the raw score. So
//!   weights of all blocks refer to exactly the same maximum, and the LSE, finished in f64, is good for logits of any size.
//! - **Memory.** All scratch of a call is one allocation, whose size follows from the lengths and the number of threads
//!   ([`workspace_bytes`]); threads are forked without another (`workspace.rs`). A tiny call has room for all of it on its stack.
//! - **Threads.** The cut into tasks depends on the problem alone, and a task's order of keys is fixed: the bits of the
//!   result do not depend on the number of threads. Threads take the tasks of one key/value head after another, the costliest first: what
//!   a task packs is then in a cache that the one before has filled, up to a twentieth of a causal problem whose keys and values exceed it.
//!
//! # Instruction sets
//!
//! The kernel is written once, over the trait `Simd` of `simd/mod.rs`; `simd/avx512.rs`, `avx2.rs`, `neon.rs` and
//! `portable.rs` implement it for f32 and f64 (`avx512.rs` once more for pairs of bf16; elsewhere f16 and bf16 are widened to f32 as
//! they are packed or loaded). Inner loops are `Job`s, inlined into the one shell of an instruction set that carries
//! `#[target_feature]`. With the feature `neon-model` the NEON kernel runs on any CPU, on NEON's instructions modelled in plain Rust
//! (`simd/neon_model.rs`): for tests, slowly. The continuous integration runs the tests on an emulated Arm CPU besides.
//!
//! # Constants
//!
//! | constant | value | why |
//! | --- | --- | --- |
//! | `ROWS` × `TILE_VECTORS` | 6 × 4, 6 × 2 | fills the 32 registers of AVX-512 and NEON, or the 16 of AVX2 |
//! | `BLOCK` | 512 keys | scores of a strip in L1, keys and values in L2; 2% over 256 keys |
//! | `BLOCK_BYTES` | 512 KB | keys and values of a block for large dimensions: half an L2 of 1 MB |
//! | `PIECE` | 32 | dimensions of a strip's queries side by side: one stream of addresses, a constant row distance; 64 leaves half unused at 32 |
//! | `STRIDE` | `BLOCK` + 16 | constant row distance of the broadcast operand: one address register; no aliasing at 4 KB |
//! | `TASK_ROWS` | 1024 | rows that share a packed block; their accumulators take 256 KB at value_dim 64 |
//! | `SHORT_ROWS`, `ENOUGH_TASKS` | 192, 32 | shorter tasks where there would be too few for many threads |
//! | `SPLIT_KEYS` | 1024 | fewest keys of a part, where there are fewer than `ENOUGH_TASKS` tasks: accumulators are written and read once more for a thousand keys |
//! | `FEW_ROWS` | 16 | up to there reading keys as they lie was 1.5 times as fast as packing them (f32; with bf16 a tenth slower); more rows were not tried |
//! | `BRIEF_ROWS` | 48 | rows of the heads that a task takes together where one vector holds a row's scores: a head of one row costs half as much |
//! | `STREAMS` | 4 | places read by turns; twice the speed of one where keys come from memory |
//! | `SERIAL_PRODUCTS` | 2²⁰ | below, a second thread takes longer to wake than the work takes |
//! | `SHORT_PRODUCTS` | 2²⁸ | below, up to three milliseconds, the calling thread works beside the pool's (`spread.rs`) |
//!
//! # What was tried and left out
//!
//! - A polynomial of degree 5 for 2ˣ: no faster within the noise, and 1 ulp worse.
//! - Prefetching the next block, the next keys to be packed, or the tile's operand ahead of its use: nothing to 4% on a busy core, up to
//!   6% lost on an idle one. Prefetching while decoding, at any distance and into any level: up to a fifth lost. An address asked for so takes
//!   one of the few places for misses of the first level, and those the core's own prefetchers fill do not.
//! - A cheaper 2ˣ in AVX-512 (`vreduceps` with `vscalefps` on the floor, integer exponents, a table in a register), counted on measured
//!   throughputs and not built: the multipliers' and the adders' instructions are in balance, and each only moves some across.
//! - Staging a strip's queries again for each block, as it was: 1–2% of the whole at head_dim 64.
//! - Clearing the scratch when a call begins: half the time of a decode of 512 keys, and it drives them out of the cache.
//! - Values as they lie by 16 keys of a stream at a time, so that a second pair of rows finds them in the first-level cache: a fifth
//!   slower than whole streams, of which it takes them from the second level.
//! - Values as they lie with a partial last vector: what loads it may be a call, and all accumulators then went through memory. The last
//!   vector overlaps the one before.
//! - Values read as they lie for many rows: allocators give addresses at 16 bytes past a cache line, and every load of a
//!   512-bit vector then touches two lines, 13% of the product. Packing them costs 2–3%.

mod backward;
mod element;
mod error;
mod forward;
mod isa;
mod kernel;
mod math;
mod partial;
mod problem;
mod schedule;
mod scratch;
mod simd;
mod spread;
mod task;
mod view;
mod workspace;

pub use backward::{Gradients, Upstream, Wanted, backward, backward_bytes};
pub use element::Element;
pub use error::CpuError;
pub use forward::{Computed, compute, forward, workspace_bytes};
pub use isa::Isa;
pub use problem::{Attention, Band, Blocks, Dropout, Mask, ScoreMod};
pub use view::View;
