//! The proof by simulation: the extender's real decisions, played through seeded interleavings of
//! everything that can go wrong around them.
//!
//! ```text
//! seed ─► setting ─► events ─► everything gets well ─► every pod that fits is bound
//!                      │
//!                      └─ after each: no GPU twice, no wrong answer, no GPU out of count
//! ```
//!
//! A world holds an API server (`api`), extenders (`extender`: the decisions of
//! `berth_extender_core` behind a model of watches and client), schedulers and machines. Nothing in it
//! waits: what a program would wait for is an event, and time is a number. The same seed is the same
//! world, so a failure is a seed, and `berth-proof replay SEED` tells its story, cut to the fewest
//! events that still break the promise.
//!
//! # What is assumed
//!
//! * A watch shows the changes of its kind in order; what two watches show is in no order.
//! * A watch lags at most [`world::LAG_MAX_MS`], or stalls: for seconds or minutes it shows nothing, and
//!   nobody notices.
//! * A read of a pod shows what was at one moment between its beginning and its end.
//! * A binding takes effect within the time that its extender gave the API server, and
//!   [`world::COMMIT_MAX_MS`], or never.
//! * A pod's object goes after its kubelet has ended it. (Deleting with no grace breaks this.)
//! * Two schedulers on the same nodes share one extender.

#![forbid(unsafe_code)]

pub mod api;
pub mod check;
pub mod confirm;
pub mod election;
pub mod event;
pub mod extender;
pub mod machine;
pub mod quiet;
pub mod rng;
pub mod run;
pub mod sabotage;
pub mod scheduler;
pub mod setting;
pub mod stock;
pub mod world;
