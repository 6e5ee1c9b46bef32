//! The decision: does a claim fit, how good is it, which GPUs, why.
//!
//! Pure functions over what an agent published: no I/O, no clock, no randomness. The same machine,
//! free set and claim give the same answer on every replica, and offline from a record.
//!
//! # What is best
//!
//! Sets are compared by, in this order:
//!
//! 1. **Requirements**: model, memory, `link` with `require`, `numa: single`. What does not meet
//!    them is never chosen.
//! 2. **The link wish** (`link` with `prefer`): a set whose every pair has that link comes first.
//! 3. **Bandwidth** ([`Bandwidth`]). Where NVLinks join the set: the least of its GPUs' NVLink
//!    budgets and the global minimum cut of its NVLink graph. A set that NVLink does not join comes
//!    after every one that it does; among those the worst PCIe ancestor decides (a pair joined by
//!    NVLink has none), then the least generation × width.
//! 4. **NUMA nodes** spanned, fewer first, unless the policy is `any`.
//! 5. **Distance to an RDMA card**, where `nic: near` asks for it.
//! 6. **What is left behind**: least NVLink, then least PCIe closeness, then fewest neighbours on
//!    its NUMA nodes cut off from the GPUs that stay free. One GPU so goes where it breaks least.
//! 7. **Lowest index**, compared position by position.
//!
//! Of m groups the worst is as good as it can be; within that, groups are chosen one after the
//! other, each the best of what is left. Ranks follow the ring whose weakest edge is best, ties
//! lexicographic, from the lowest index.
//!
//! # Bounds
//!
//! Sets are tried exhaustively while there are at most [`search::SETS_MAX`] of them, which holds for
//! any size up to 16 GPUs; above, sets are grown from each GPU. Rings are exact up to
//! [`ring::EXACT_MAX`] GPUs. A machine's GPUs beyond the first [`GPUS_MAX`] are not placed on.

#![forbid(unsafe_code)]

mod cpu_ranks;
mod machine;
mod memo;
mod place;
mod pod;
mod quality;
mod refusal;
pub mod ring;
pub mod search;
mod set;
mod shape;
mod want;

pub use cpu_ranks::place_cpus;
pub use machine::{Machine, Shapes};
pub use place::{Placement, place};
pub use pod::{PodFit, PodPlacement, fit_pod, place_pod};
pub use quality::Bandwidth;
pub use refusal::Refusal;
pub use set::{GPUS_MAX, GpuSet};
pub use shape::Shape;
