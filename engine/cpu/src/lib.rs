//! The engine's kernels for CPUs: packed weights, products, attention, a team of pinned
//! threads.
//!
//! ```text
//! Matrix::pack ─► panels of 64 outputs, in huge pages, first touched by the worker that reads them
//! Team::run    ─► stages of pieces, on workers that each have a CPU of their own; who is there does them
//! Products     ─► activations converted once, then each worker's outputs, by the tier's kernels
//! Attention    ─► paged keys and values in bf16, tiles of 32 positions, splits of 512, in order
//! ```
//!
//! **Exactness is the contract.** Each form of weights has one arithmetic and one order in which
//! an output is summed up ([`product`] and [`attention`] state them), so every [`Tier`](tier::Tier) gives the same
//! bits, and a row's bits depend neither on how many rows or threads there are nor on where the
//! row stands. Only which bits a NaN has is left open.
//!
//! Floating point state: inside [`Team::run`](team::Team::run) every worker, the caller included,
//! treats denormal numbers as zero and flushes results that would be denormal (x86: DAZ and FTZ),
//! as the bf16 instructions do.
//!
//! Nothing here knows models, files or HTTP; nothing on the hot path allocates or locks.

pub mod activation;
pub mod attention;
pub mod calibrate;
pub mod cap;
pub mod matrix;
pub mod norm;
pub mod probe;
pub mod product;
pub mod rope;
pub mod rows;
pub mod share;
pub mod softmax;
pub mod team;
pub mod tier;

mod exp;
mod lanes;
mod memory;
mod parts;
