//! The contract: what a node is, what a pod asks, what was decided, and how each is written.
//!
//! Every other crate meets here; nobody else knows an annotation's spelling or a label's form.
//! No I/O, no clock, no client: plain types with encode and decode.
//!
//! * [`node`]: [`NodeTopology`](node::NodeTopology), what an agent publishes about its machine
//! * [`claim`]: what a pod asks for
//! * [`assignment`]: which devices each rank was given
//! * [`places`]: where each rank of one container runs, from what it was told
//! * [`raw`]: what NVML, sysfs and hwloc answered, before anything is derived from it

#![forbid(unsafe_code)]

pub mod allocation;
pub mod assignment;
#[cfg(feature = "kubernetes")]
pub mod claim;
pub mod cpus;
#[cfg(feature = "kubernetes")]
pub mod crd;
pub mod details;
pub mod fnv;
pub mod gpu;
#[cfg(feature = "kubernetes")]
pub mod hash;
pub mod ids;
pub mod kubelet;
#[cfg(feature = "kubernetes")]
pub mod labels;
#[cfg(feature = "kubernetes")]
pub mod lease;
pub mod link;
#[cfg(feature = "kubernetes")]
pub mod matrix;
pub mod names;
pub mod nic;
#[cfg(feature = "kubernetes")]
pub mod node;
pub mod numa;
mod open_enum;
pub mod places;
pub mod quantity;
pub mod raw;
