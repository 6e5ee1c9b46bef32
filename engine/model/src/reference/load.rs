//! From a model's files to one rank's decoder, dequantised to f32 chunk by chunk.

use std::ops::Range;

use candle_core::{Result as TensorResult, Tensor};

use super::cache::PartCache;
use super::decoder::{Decoder, Layer, LayerPart, Vocab};
use super::linear::{Linear, chunks};
use super::memory::{need_of_all_ranks, need_of_rank};
use super::shard::{Part, parts_of_rank, vocab_of_rank};
use crate::backend::{CacheShape, LoadProgress, Shard, StepError};
use crate::config::ModelConfig;
use crate::fit::{CannotFit, check_memory, check_shape};
use crate::frequencies::Frequencies;
use crate::source::{LayerWeight, ModelSource, ReadError, Weight};

/// Why a rank cannot load its part of the model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There cannot be such a rank, or too little memory is left.
    #[error(transparent)]
    CannotFit(#[from] CannotFit),
    /// It is of a family that the reference backend does not compute.
    #[error(
        "loading {model}: it has {what}, which the reference backend does not compute; use \
         --backend cpu"
    )]
    Family {
        /// The model's name.
        model: String,
        /// What Llama has not.
        what: &'static str,
    },
    /// The files changed or the disk failed.
    #[error("loading {model}")]
    Read {
        /// The model's name.
        model: String,
        /// What went wrong.
        #[source]
        source: Box<ReadError>,
    },
    /// The tensor library failed.
    #[error("building tensors of {model}")]
    Compute {
        /// The model's name.
        model: String,
        /// The library's own error.
        #[source]
        source: candle_core::Error,
    },
    /// The rank's worker threads could not be started.
    #[error("starting worker threads of rank {rank}")]
    Threads {
        /// The rank.
        rank: usize,
        /// The pool's own error.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
    /// Another rank failed to load.
    #[error("loading with the other ranks")]
    Peer(#[source] StepError),
}

/// Loads one rank's parts.
pub(crate) struct Loader<'a> {
    source: &'a ModelSource,
    shard: Shard,
    cache: CacheShape,
    progress: &'a mut (dyn FnMut(LoadProgress) + Send),
    done_bytes: u64,
    total_bytes: u64,
}

/// What the helpers below can meet; the model's name is added at the top.
enum Failure {
    Read(ReadError),
    Compute(candle_core::Error),
}

/// Checks what can be known before memory is taken.
pub(crate) fn check(
    config: &ModelConfig,
    shard: Shard,
    cache: CacheShape,
) -> Result<(), LoadError> {
    check_shape(config, shard, cache)?;
    if let Some(what) = config.beyond_llama() {
        let model = config.name.clone();
        return Err(LoadError::Family { model, what });
    }
    check_memory(config, need_of_all_ranks(config, cache))?;
    Ok(())
}

// === impl Loader ===

impl<'a> Loader<'a> {
    pub(crate) fn new(
        source: &'a ModelSource,
        shard: Shard,
        cache: CacheShape,
        progress: &'a mut (dyn FnMut(LoadProgress) + Send),
    ) -> Self {
        let total_bytes = need_of_rank(source.config(), shard, cache).weight_bytes;
        Self {
            source,
            shard,
            cache,
            progress,
            done_bytes: 0,
            total_bytes,
        }
    }

    pub(crate) fn load(mut self) -> Result<Decoder, LoadError> {
        let model = || self.source.config().name.clone();
        self.decoder().map_err(|failure| match failure {
            Failure::Read(source) => LoadError::Read {
                model: model(),
                source: Box::new(source),
            },
            Failure::Compute(source) => LoadError::Compute {
                model: model(),
                source,
            },
        })
    }

    fn decoder(&mut self) -> Result<Decoder, Failure> {
        let config = self.source.config();
        let parts = parts_of_rank(config, self.shard);
        let vocab = self.vocab(&parts)?;
        let layers = (0..config.layer_count)
            .map(|index| self.layer(index, &parts))
            .collect::<Result<_, _>>()?;
        Ok(Decoder {
            layers,
            vocab,
            final_norm: self.vector(Weight::FinalNorm)?,
            frequencies: Frequencies::new(config),
            rms_norm_eps: config.rms_norm_eps,
        })
    }

    fn vocab(&mut self, parts: &[Part]) -> Result<Vocab, Failure> {
        let config = self.source.config();
        let embedding = self.vocab_parts(Weight::Embedding, parts)?;
        let (head, embedding) = if config.tied_embeddings {
            (embedding, None)
        } else {
            (self.vocab_parts(Weight::Head, parts)?, Some(embedding))
        };
        let degree = self.shard.degree;
        let by_rank = (0..degree)
            .map(|rank| vocab_of_rank(config, Shard { rank, degree }))
            .collect();
        Ok(Vocab {
            by_rank,
            head,
            embedding,
            hidden_size: config.hidden_size,
        })
    }

    fn vocab_parts(&mut self, weight: Weight, parts: &[Part]) -> Result<Vec<Linear>, Failure> {
        parts
            .iter()
            .map(|part| self.rows(weight, part.vocab.clone()))
            .collect()
    }

    fn layer(&mut self, index: usize, parts: &[Part]) -> Result<Layer, Failure> {
        let at = |weight| Weight::Layer(index, weight);
        let mut ranges = |range: fn(&Part) -> Range<usize>, weight| {
            self.columns(at(weight), &parts.iter().map(range).collect::<Vec<_>>())
        };
        let outputs = ranges(|part| part.query.clone(), LayerWeight::Output)?;
        let downs = ranges(|part| part.intermediate.clone(), LayerWeight::Down)?;
        let parts = parts
            .iter()
            .zip(outputs.into_iter().zip(downs))
            .map(|(part, (output, down))| {
                Ok(LayerPart {
                    query: self.heads(at(LayerWeight::Query), part.query.clone())?,
                    key: self.heads(at(LayerWeight::Key), part.kv.clone())?,
                    value: self.heads(at(LayerWeight::Value), part.kv.clone())?,
                    output,
                    gate: self.rows(at(LayerWeight::Gate), part.intermediate.clone())?,
                    up: self.rows(at(LayerWeight::Up), part.intermediate.clone())?,
                    down,
                    cache: PartCache::new(self.cache, self.source.config().head_dim)?,
                })
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Layer {
            attention_norm: self.vector(at(LayerWeight::AttentionNorm))?,
            mlp_norm: self.vector(at(LayerWeight::MlpNorm))?,
            parts,
        })
    }

    /// A run of rows of a matrix.
    fn rows(&mut self, weight: Weight, rows: Range<usize>) -> Result<Linear, Failure> {
        self.read(weight, chunks(rows, 1))
    }

    /// The same, in chunks of whole heads.
    fn heads(&mut self, weight: Weight, rows: Range<usize>) -> Result<Linear, Failure> {
        self.read(weight, chunks(rows, self.source.config().head_dim))
    }

    fn read(
        &mut self,
        weight: Weight,
        chunks: impl Iterator<Item = Range<usize>>,
    ) -> Result<Linear, Failure> {
        let tensors = chunks
            .map(|rows| Ok(self.source.rows(weight, rows)?))
            .collect::<Result<Vec<_>, Failure>>()?;
        self.report(&tensors);
        Ok(Linear::new(tensors)?)
    }

    /// Runs of columns of a matrix with `hidden_size` rows, one for each range.
    fn columns(&mut self, weight: Weight, ranges: &[Range<usize>]) -> Result<Vec<Linear>, Failure> {
        let mut parts = vec![Vec::new(); ranges.len()];
        for rows in chunks(0..self.source.config().hidden_size, 1) {
            let slab = self.source.rows(weight, rows)?;
            for (part, range) in parts.iter_mut().zip(ranges) {
                part.push(columns(&slab, range)?);
            }
        }
        parts
            .into_iter()
            .map(|tensors| {
                self.report(&tensors);
                Ok(Linear::new(tensors)?)
            })
            .collect()
    }

    fn vector(&mut self, weight: Weight) -> Result<Tensor, Failure> {
        let vector = self.source.rows(weight, 0..1)?.flatten_all()?;
        self.report(std::slice::from_ref(&vector));
        Ok(vector)
    }

    fn report(&mut self, loaded: &[Tensor]) {
        let elements: usize = loaded.iter().map(Tensor::elem_count).sum();
        self.done_bytes += elements as u64 * 4;
        let (done_bytes, total_bytes) = (self.done_bytes, self.total_bytes);
        (self.progress)(LoadProgress {
            done_bytes,
            total_bytes,
        });
    }
}

fn columns(slab: &Tensor, range: &Range<usize>) -> TensorResult<Tensor> {
    slab.narrow(1, range.start, range.len())?.contiguous()
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(error)
    }
}
