//! One decoder read from a config, its weights, and the backends that run it.

pub mod backend;
pub mod collective;
pub mod config;
pub mod cpu;
pub mod fit;
pub mod quantization;
pub mod reference;
pub mod source;

pub mod available;
mod batch_check;
mod frequencies;
mod seat;

#[cfg(test)]
mod tiny;
