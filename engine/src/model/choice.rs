//! Which backend runs a model, and how a rank loads it.

use std::fmt;
use std::sync::Arc;

use berth_engine_model::backend::{Backend, CacheShape, Collective, LoadProgress, Shard};
use berth_engine_model::config::ModelConfig;
use berth_engine_model::cpu::{self, CpuBackend, KernelChoice, Setup, Tier, Unserved};
use berth_engine_model::reference::{self, ReferenceBackend};
use berth_engine_model::source::ModelSource;

use super::Error;
use crate::args::{self, ModelArgs};
use crate::rank::{BackendError, LoadBackend};

/// The backend that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Our own kernels.
    Cpu(KernelChoice),
    /// candle in f32.
    Reference,
}

/// Chooses what `args` ask for, and says in one line what and why.
///
/// # Errors
/// When a backend was asked for by name that cannot run the model as asked.
pub(crate) fn choose(
    args: &ModelArgs,
    source: &ModelSource,
    degree: usize,
) -> Result<Choice, Error> {
    let is_f32 = args.dtype != "auto";
    match args.backend {
        args::Backend::Reference if has_kernels(args) => Err(Error::KernelsOfReference),
        args::Backend::Reference if at_load(args) => Err(Error::QuantizedReference),
        args::Backend::Reference => Ok(Choice::Reference),
        args::Backend::Auto if is_f32 && at_load(args) => Err(Error::QuantizedReference),
        args::Backend::Cpu if is_f32 => Err(Error::NotF32),
        args::Backend::Auto if is_f32 => Ok(reference(&"--dtype asks for float32")),
        args::Backend::Cpu => cpu(args, source, degree).map_err(Error::Unserved),
        args::Backend::Auto => match cpu(args, source, degree) {
            Err(unserved) if at_load(args) => Err(Error::Unserved(unserved)),
            Err(unserved) => Ok(reference(&unserved)),
            Ok(choice) => Ok(choice),
        },
    }
}

fn cpu(args: &ModelArgs, source: &ModelSource, degree: usize) -> Result<Choice, Unserved> {
    let held = cpu::serves(source, degree)?;
    let held: Vec<String> = held.iter().map(ToString::to_string).collect();
    let kernels = match args.cpu_kernels {
        Some(kernels) => KernelChoice::Fixed(kernels),
        None => KernelChoice::Calibrated(args.cpu_tier.unwrap_or_else(Tier::best)),
    };
    let tier = kernels.tier();
    tracing::info!(
        "backend cpu: kernels of tier {tier}, weights held as {}",
        held.join(", ")
    );
    Ok(Choice::Cpu(kernels))
}

/// Weights are to be quantised while they are loaded.
fn at_load(args: &ModelArgs) -> bool {
    use args::Quantization::{Int4, Int8};
    matches!(args.quantization, Some(Int8 | Int4))
}

fn has_kernels(args: &ModelArgs) -> bool {
    args.cpu_tier.is_some() || args.cpu_kernels.is_some()
}

fn reference(reason: &dyn fmt::Display) -> Choice {
    tracing::warn!("backend reference, which is correct rather than fast: {reason}");
    Choice::Reference
}

// === impl Choice ===

impl Choice {
    /// As the flag calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Reference => "reference",
        }
    }

    /// Whose instructions are used, where that is a choice.
    pub(crate) fn tier(self) -> Option<&'static str> {
        match self {
            Self::Cpu(kernels) => Some(kernels.tier().name()),
            Self::Reference => None,
        }
    }

    /// Tokens of a step where nothing is said.
    pub(crate) fn step_tokens(self) -> usize {
        match self {
            Self::Cpu(_) => 2048,
            Self::Reference => 128,
        }
    }

    /// Bytes that a block of the KV cache takes over all layers and ranks.
    pub(crate) fn block_bytes(self, config: &ModelConfig, block_size: usize) -> u64 {
        match self {
            Self::Cpu(_) => cpu::block_bytes(config, block_size),
            Self::Reference => reference::block_bytes(config, block_size),
        }
    }

    /// Bytes that the weights take over all ranks.
    pub(crate) fn weight_bytes(self, source: &ModelSource, degree: usize) -> Result<u64, Error> {
        match self {
            Self::Cpu(_) => cpu::weight_bytes(source, degree).map_err(Error::Unserved),
            Self::Reference => Ok(reference::weight_bytes(source.config())),
        }
    }

    /// Loads a rank's part on the rank's thread.
    pub(crate) fn loader(self, source: Arc<ModelSource>, cache: CacheShape) -> Arc<LoadBackend> {
        Arc::new(move |shard: Shard, collective: Arc<dyn Collective>| {
            let mut shown = 0;
            let mut show = |progress: LoadProgress| show_progress(shard.rank, progress, &mut shown);
            match self {
                Self::Cpu(kernels) => {
                    let setup = Setup { cache, kernels };
                    let loaded = CpuBackend::load(&source, shard, setup, collective, &mut show);
                    boxed(loaded.inspect(|backend| {
                        let kernels = backend.kernels();
                        tracing::info!("rank {} computes with {kernels}", shard.rank);
                    }))
                }
                Self::Reference => boxed(ReferenceBackend::load(
                    &source, shard, cache, collective, &mut show,
                )),
            }
        })
    }
}

fn boxed<B: Backend + 'static, E: Into<BackendError>>(
    loaded: Result<B, E>,
) -> Result<Box<dyn Backend>, BackendError> {
    match loaded {
        Ok(backend) => Ok(Box::new(backend)),
        Err(error) => Err(error.into()),
    }
}

/// A line for each tenth, by rank 0.
fn show_progress(rank: usize, progress: LoadProgress, shown_tenths: &mut u64) {
    let tenths = progress.done_bytes.saturating_mul(10) / progress.total_bytes.max(1);
    if rank == 0 && tenths > *shown_tenths {
        *shown_tenths = tenths;
        tracing::info!("loading weights: {} %", tenths * 10);
    }
}
