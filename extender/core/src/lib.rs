//! The extender's decisions, without any I/O or clock: what the cluster looks like, which nodes fit a
//! pod, and which GPUs a bind gives it.
//!
//! ```text
//! objects ─► index ─snapshot─► decide: filter, prioritize, preempt
//!              ▲                  │
//!              └──── reserve ◄── bind
//! ```
//!
//! Whoever feeds it says what time it is, so that everything can be played again.

#![forbid(unsafe_code)]

pub mod bind;
pub mod budgets;
pub mod decide;
pub mod explain;
pub mod fence;
mod freshness;
pub mod gauges;
mod gone;
pub mod group;
pub mod held;
pub mod hints;
pub mod index;
mod interned;
pub mod leader;
pub mod node;
pub mod nominated;
mod occupancy;
pub mod pod;
pub mod preempt;
pub mod record;
pub mod repack;
pub mod replay;
mod reservations;
pub mod score;
pub mod script;
pub mod sent;
mod silent;
pub mod simulate;
pub mod situation;
pub mod snapshot;
mod standings;
pub mod waiting;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
