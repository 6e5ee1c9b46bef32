//! The stories: what a user of the loop sees, on a real control plane.

mod api_server;
mod crashes;
mod engine;
mod failover;
mod policies;
mod preemption;
mod quads;
mod rbac;
mod silence;
