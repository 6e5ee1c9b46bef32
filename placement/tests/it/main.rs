//! Placement seen from outside: stories on known machines, and its promises on random ones.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot read its own fixture fails its test"
)]

mod brute;
mod cpus;
mod graphs;
mod instances;
mod kubelet;
mod machines;
mod optimal;
mod pods;
mod recorded;
mod refusals;
mod wiring;
