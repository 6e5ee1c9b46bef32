//! The `berth` program as people and scripts use it: the real binary, its words, its exit codes.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot run the program fails its test"
)]

mod cluster;
mod doctor;
mod machine;
mod place;
mod program;
mod simulate;
mod up;
