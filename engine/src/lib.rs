//! Serves tokens: the OpenAI API, the step loop, pinned ranks, metrics.
//!
//! ```text
//! http ─► app ─► step_loop ─► team ─► rank 0, 1, … (each its own pinned thread and backend)
//!   ▲                │
//!   └── generation ◄─┘ tokens
//! ```

pub mod args;
pub mod bench;
pub mod serve;

mod app;
mod assign;
mod budget;
mod generation;
mod http;
mod lifecycle;
mod metrics;
mod model;
mod pace;
mod pin;
mod rank;
mod step_loop;
mod team;
