//! The scheduler of the engine: sequences, KV blocks, batches, sampling rules.
//!
//! Pure: no tensors, no I/O, no clock, no dependency beyond std. One turn of the engine is
//! [`Scheduler::next`](schedule::Scheduler::next), a backend's step, then
//! [`Scheduler::advance`](schedule::Scheduler::advance).

pub mod batch;
pub mod blocks;
mod cache;
pub mod events;
mod pace;
pub mod policy;
pub mod prefix;
mod queue;
pub mod sampling;
pub mod schedule;
pub mod sequence;
