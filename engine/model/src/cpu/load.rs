//! From a model's files to one rank's decoder, row by row into packed form.

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use berth_engine_cpu::attention::{KvCache, Scoring};
use berth_engine_cpu::matrix::{Form, Matrix, PackError, Row, RowError};
use berth_engine_cpu::team::Team;
use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::decoder::{Decoder, Layer, Tables};
use super::feed_forward::{FeedForward, Gated, Mixture};
use super::heads::{HeadNorms, Heads};
use super::memory::{attention_shape, need_of_all_ranks, need_of_rank};
use super::spec::{
    FeedForwardSpec, GatedSpec, LayerSpec, MatrixSpec, Part, Unserved, part_of_rank, tables,
    vocab_of_rank,
};
use crate::backend::{CacheShape, LoadProgress, Shard, StepError};
use crate::fit::{CannotFit, MemoryNeed, check_memory, check_shape};
use crate::frequencies::Frequencies;
use crate::source::{LayerWeight, ModelSource, ReadError, Weight};

/// Why a rank cannot load its part of the model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There cannot be such a rank, or too little memory is left.
    #[error(transparent)]
    CannotFit(#[from] CannotFit),
    /// There are no kernels for it.
    #[error("loading {model}")]
    Unserved {
        /// The model's name.
        model: String,
        /// What there is no kernel for.
        #[source]
        source: Unserved,
    },
    /// A weight cannot be read.
    #[error("loading {model}")]
    Read {
        /// The model's name.
        model: String,
        /// What went wrong.
        #[source]
        source: Box<ReadError>,
    },
    /// A matrix cannot be packed.
    #[error("packing {tensor} of {model}")]
    Pack {
        /// The model's name.
        model: String,
        /// The matrix's first tensor.
        tensor: String,
        /// What went wrong.
        #[source]
        source: Box<PackError<RowFailure>>,
    },
    /// The rank's worker threads could not be started.
    #[error("starting worker threads of rank {rank}")]
    Threads {
        /// The rank.
        rank: usize,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another rank failed to load.
    #[error("loading with the other ranks")]
    Peer(#[source] StepError),
}

/// Why a row cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum RowFailure {
    /// The files changed or the disk failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It does not fit its form.
    #[error(transparent)]
    Row(#[from] RowError),
}

/// Loads one rank's part.
pub(crate) struct Loader<'a> {
    pub(crate) source: &'a ModelSource,
    pub(crate) shard: Shard,
    pub(crate) cache: CacheShape,
    pub(crate) team: &'a mut Team,
    pub(crate) progress: &'a mut (dyn FnMut(LoadProgress) + Send),
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// Checks what can be known before memory is taken; what this rank will take.
pub(crate) fn check(
    source: &ModelSource,
    shard: Shard,
    cache: CacheShape,
) -> Result<MemoryNeed, LoadError> {
    let config = source.config();
    check_shape(config, shard, cache)?;
    let unserved = |source| LoadError::Unserved {
        model: config.name.clone(),
        source,
    };
    let need = need_of_all_ranks(source, shard.degree, cache).map_err(unserved)?;
    check_memory(config, need)?;
    need_of_rank(source, shard, cache).map_err(unserved)
}

// === impl Loader ===

impl Loader<'_> {
    pub(crate) fn load(mut self) -> Result<Decoder, LoadError> {
        let config = self.source.config();
        let part = part_of_rank(config, self.shard);
        let tables = self.tables(&part)?;
        let layers = (0..config.layer_count)
            .map(|index| self.layer(index, &part))
            .collect::<Result<_, _>>()?;
        Ok(Decoder {
            layers,
            tables,
            final_norm: self.norm(Weight::FinalNorm)?,
            frequencies: Frequencies::new(config),
            local_frequencies: config
                .graph
                .local
                .as_ref()
                .map(|local| Frequencies::of(&local.rope, config.position_count_max)),
            rms_norm_eps: config.rms_norm_eps,
            hidden_size: config.hidden_size,
            activation: config.graph.activation,
            embedding_scale: config.graph.embedding_scale,
            logit_cap: config.graph.logit_cap,
            attention: attention_shape(config, &part, self.cache),
        })
    }

    fn tables(&mut self, part: &Part) -> Result<Tables, LoadError> {
        let config = self.source.config();
        let (embedding, head) = tables(config, part);
        let embedding = self.matrix(&embedding)?;
        let (head, embedding) = match head {
            Some(head) => (self.matrix(&head)?, Some(embedding)),
            None => (embedding, None),
        };
        let degree = self.shard.degree;
        let by_rank = (0..degree).map(|rank| vocab_of_rank(config, Shard { rank, degree }));
        Ok(Tables {
            by_rank: by_rank.collect(),
            head,
            embedding,
        })
    }

    fn layer(&mut self, index: usize, part: &Part) -> Result<Layer, LoadError> {
        let config = self.source.config();
        let (spec, graph) = (LayerSpec::new(config, part, index), &config.graph);
        let at = |weight| Weight::Layer(index, weight);
        let local = graph.local_of(index);
        let plain = Scoring::plain(config.head_dim);
        let (after_attention, after_mlp) = if graph.norms_after {
            (
                Some(self.norm(at(LayerWeight::AfterAttention))?),
                Some(self.norm(at(LayerWeight::AfterMlp))?),
            )
        } else {
            (None, None)
        };
        Ok(Layer {
            attention_norm: self.norm(at(LayerWeight::AttentionNorm))?,
            qkv: self.matrix(&spec.qkv)?,
            heads: self.heads(index, part)?,
            scoring: Scoring {
                scale: graph.query_scale.unwrap_or(plain.scale),
                cap: graph.score_cap,
                window: local.map(|local| local.window),
            },
            is_local: local.is_some(),
            output: self.matrix(&spec.output)?,
            after_attention,
            mlp_norm: self.norm(at(LayerWeight::MlpNorm))?,
            feed_forward: self.feed_forward(index, &spec.feed_forward)?,
            after_mlp,
            cache: KvCache::new(attention_shape(config, part, self.cache)),
        })
    }

    fn heads(&mut self, index: usize, part: &Part) -> Result<Heads, LoadError> {
        let config = self.source.config();
        let at = |weight| Weight::Layer(index, weight);
        let mut heads = Heads {
            bias: None,
            norms: None,
        };
        if config.graph.qkv_bias {
            let mut bias = self.part_of_vector(at(LayerWeight::QueryBias), &part.query)?;
            for weight in [LayerWeight::KeyBias, LayerWeight::ValueBias] {
                bias.extend(self.part_of_vector(at(weight), &part.kv)?);
            }
            heads.bias = Some(bias);
        }
        if config.graph.head_norms {
            heads.norms = Some(HeadNorms {
                query: self.norm(at(LayerWeight::QueryNorm))?,
                key: self.norm(at(LayerWeight::KeyNorm))?,
                eps: config.rms_norm_eps,
            });
        }
        Ok(heads)
    }

    fn feed_forward(
        &mut self,
        index: usize,
        spec: &FeedForwardSpec,
    ) -> Result<FeedForward, LoadError> {
        let experts = self.source.config().graph.experts_of(index);
        match (spec, experts) {
            (FeedForwardSpec::Mixture { router, experts }, Some(shape)) => {
                Ok(FeedForward::Mixture(Mixture {
                    shape: shape.clone(),
                    router: self.matrix(router)?,
                    experts: experts
                        .iter()
                        .map(|expert| self.gated(expert))
                        .collect::<Result<_, _>>()?,
                }))
            }
            (FeedForwardSpec::Plain(gated), _) => self.gated(gated).map(FeedForward::Plain),
            (FeedForwardSpec::Mixture { .. }, None) => {
                unreachable!("a mixture is only specified where the config has experts")
            }
        }
    }

    fn gated(&mut self, spec: &GatedSpec) -> Result<Gated, LoadError> {
        Ok(Gated {
            gate_up: self.matrix(&spec.gate_up)?,
            down: self.matrix(&spec.down)?,
        })
    }

    fn matrix(&mut self, spec: &MatrixSpec) -> Result<Matrix, LoadError> {
        let source = self.source;
        let model = || source.config().name.clone();
        let form = spec
            .form(source, self.shard.degree)
            .map_err(|source| LoadError::Unserved {
                model: model(),
                source,
            })?;
        let row = |output: usize, to: &mut Row<'_>| pack_row(source, spec, output, to);
        let matrix =
            Matrix::pack(form, spec.shape(), self.team, &row).map_err(|error| LoadError::Pack {
                model: model(),
                tensor: source.name_of(spec.rows[0].0),
                source: Box::new(error),
            })?;
        self.report(matrix.bytes() as u64);
        Ok(matrix)
    }

    /// Weights of a norm.
    fn norm(&mut self, weight: Weight) -> Result<Vec<f32>, LoadError> {
        let offset = self.source.config().graph.norm_offset;
        let length = weight.shape(self.source.config())[0];
        let mut norm = self.part_of_vector(weight, &(0..length))?;
        norm.iter_mut().for_each(|element| *element += offset);
        Ok(norm)
    }

    fn part_of_vector(
        &mut self,
        weight: Weight,
        part: &Range<usize>,
    ) -> Result<Vec<f32>, LoadError> {
        let read = || {
            let decode = |source| ReadError::Decode {
                name: self.source.name_of(weight),
                source,
            };
            let vector = self.source.rows(weight, 0..1)?;
            vector
                .flatten_all()
                .and_then(|vector| vector.to_vec1::<f32>())
                .map_err(decode)
        };
        let vector = read().map_err(|error| LoadError::Read {
            model: self.source.config().name.clone(),
            source: Box::new(error),
        })?;
        let vector = vector[part.clone()].to_vec();
        self.report(size_of_val(vector.as_slice()) as u64);
        Ok(vector)
    }

    fn report(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        (self.progress)(LoadProgress {
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
        });
    }
}

thread_local! {
    /// A worker's stored bytes of a row, and their values.
    static ROW: RefCell<(Vec<u8>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

fn pack_row(
    source: &ModelSource,
    spec: &MatrixSpec,
    output: usize,
    to: &mut Row<'_>,
) -> Result<(), RowFailure> {
    let (weight, row) = spec.row(output);
    let encoding = source.encoding(weight);
    let is_block = encoding.block_size() > 1;
    ROW.with_borrow_mut(|(bytes, values)| {
        if is_block && to.form() == Form::Bf16 {
            source.row_values(weight, row, values)?;
            return Ok(to.write_f32(&values[spec.columns.clone()])?);
        }
        source.row_bytes(weight, row, &spec.columns, bytes)?;
        Ok(write(encoding, bytes, values, to)?)
    })
}

/// F32 and F16 are rounded to bf16; codes are held as they are stored.
fn write(
    encoding: GgmlDType,
    bytes: &[u8],
    values: &mut Vec<f32>,
    to: &mut Row<'_>,
) -> Result<(), RowError> {
    let (pairs, _) = bytes.as_chunks::<2>();
    values.clear();
    match encoding {
        GgmlDType::Q8_0 => return to.write_q8_0(bytes),
        GgmlDType::Q5_0 => return to.write_q8_0(&q5_0_as_q8_0(bytes)),
        GgmlDType::Q4_0 => return to.write_q4_0(bytes),
        GgmlDType::Q4_1 => return to.write_q4_1(bytes),
        GgmlDType::BF16 => {
            return to.write_bf16(pairs.iter().map(|pair| bf16::from_le_bytes(*pair)));
        }
        GgmlDType::F16 => {
            values.extend(pairs.iter().map(|pair| f16::from_le_bytes(*pair).to_f32()));
        }
        _ => {
            let (fours, _) = bytes.as_chunks::<4>();
            values.extend(fours.iter().map(|four| f32::from_le_bytes(*four)));
        }
    }
    to.write_f32(values)
}

/// Blocks of a scale, 32 fifth bits and 32 codes of 4 bits, less 16: the same scale and values
/// with 8 bits each (`dequantize_row_q5_0` of ggml).
pub(super) fn q5_0_as_q8_0(blocks: &[u8]) -> Vec<u8> {
    let (blocks, _) = blocks.as_chunks::<22>();
    let mut out = Vec::with_capacity(blocks.len() * 34);
    for block in blocks {
        let fifths = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        out.extend(&block[..2]);
        let low = block[6..].iter().map(|pair| pair & 0x0f);
        let high = block[6..].iter().map(|pair| pair >> 4);
        for (index, code) in low.chain(high).enumerate() {
            let fifth = if fifths >> index & 1 == 1 { 16 } else { 0 };
            out.push((code | fifth).wrapping_sub(16));
        }
    }
    out
}
