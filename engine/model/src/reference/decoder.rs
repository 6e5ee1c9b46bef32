//! The decoder: embedding, layers, output projection, over the parts that a rank holds.
//!
//! Everything between two exchanges is computed part by part with the same calls and shapes at
//! every number of ranks, and row by row within them.

use std::ops::Range;

use berth_engine_core::batch::BlockCopy;
use candle_core::{Result, Tensor};
use candle_nn::ops::{rms_norm, silu};
use rayon::prelude::*;

use super::attention::{Projected, attend};
use super::cache::PartCache;
use super::linear::Linear;
use super::plan::Plan;
use super::rope::Rotation;
use super::sum::{flat, sum_parts};
use crate::backend::StepError;
use crate::frequencies::Frequencies;
use crate::seat::Seat;

/// One rank's parts of the model.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) layers: Vec<Layer>,
    pub(crate) vocab: Vocab,
    /// `(hidden)`.
    pub(crate) final_norm: Tensor,
    pub(crate) frequencies: Frequencies,
    pub(crate) rms_norm_eps: f32,
}

/// A decoder layer; norms are `(hidden)`.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Tensor,
    pub(crate) mlp_norm: Tensor,
    pub(crate) parts: Vec<LayerPart>,
}

/// One KV head with its query heads, and a slice of the feed-forward block.
#[derive(Debug)]
pub(crate) struct LayerPart {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) cache: PartCache,
}

/// Embedding and output projection, cut by tokens.
#[derive(Debug)]
pub(crate) struct Vocab {
    /// Tokens of each rank, in rank order.
    pub(crate) by_rank: Vec<Range<usize>>,
    /// This rank's output projection, a part each.
    pub(crate) head: Vec<Linear>,
    /// This rank's embedding; none where it is the output projection.
    pub(crate) embedding: Option<Vec<Linear>>,
    pub(crate) hidden_size: usize,
}

// === impl Decoder ===

impl Decoder {
    /// Computes the rows of `plan`. Rank 0 gets the logits of the sampled rows, whole
    /// vocabulary each; other ranks get none.
    pub(crate) fn forward(
        &self,
        plan: &Plan,
        seat: &Seat,
    ) -> std::result::Result<Vec<Vec<f32>>, StepError> {
        let mut x = self.vocab.embed(plan, seat)?;
        let before = |source| StepError::Compute { layer: 0, source };
        let rotation = Rotation::at(&plan.positions, &self.frequencies).map_err(before)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let compute = |source| StepError::Compute {
                layer: index,
                source,
            };
            let attended = self
                .attention(layer, &x, plan, &rotation)
                .map_err(compute)?;
            x = (x + sum_parts(seat, &attended, index)?).map_err(compute)?;
            let transformed = self.mlp(layer, &x).map_err(compute)?;
            x = (x + sum_parts(seat, &transformed, index)?).map_err(compute)?;
        }
        if plan.sampled_rows.is_empty() {
            return Ok(Vec::new());
        }
        let after = |source| StepError::Compute {
            layer: self.layers.len(),
            source,
        };
        let logits = self.logits(&x, plan).map_err(after)?;
        let joined = Tensor::cat(&logits, 1)
            .and_then(|all| flat(&[all]))
            .map_err(after)?;
        self.vocab
            .gather_logits(joined, plan.sampled_rows.len(), seat)
    }

    /// Copies blocks of every layer's keys and values, one after the other.
    pub(crate) fn copy_blocks(&self, copies: &[BlockCopy]) -> std::result::Result<(), StepError> {
        for (index, layer) in self.layers.iter().enumerate() {
            let caches = layer.parts.iter().map(|part| &part.cache);
            let all = caches.flat_map(|cache| copies.iter().map(move |copy| cache.copy(*copy)));
            all.into_iter()
                .collect::<Result<()>>()
                .map_err(|source| StepError::Compute {
                    layer: index,
                    source,
                })?;
        }
        Ok(())
    }

    /// Each part's output of attention, `(rows, hidden)`.
    fn attention(
        &self,
        layer: &Layer,
        x: &Tensor,
        plan: &Plan,
        rotation: &Rotation,
    ) -> Result<Vec<Tensor>> {
        let x = rms_norm(x, &layer.attention_norm, self.rms_norm_eps)?;
        let attend = |part: &LayerPart| {
            let step = Projected {
                queries: rotation.turn(&part.query.forward(&x)?)?,
                keys: rotation.turn(&part.key.forward(&x)?)?,
                values: part.value.forward(&x)?,
            };
            part.output.forward(&attend(plan, &part.cache, &step)?)
        };
        layer.parts.par_iter().map(attend).collect()
    }

    /// Each part's output of the feed-forward block, `(rows, hidden)`.
    fn mlp(&self, layer: &Layer, x: &Tensor) -> Result<Vec<Tensor>> {
        let x = rms_norm(x, &layer.mlp_norm, self.rms_norm_eps)?;
        let transform = |part: &LayerPart| {
            let gate = silu(&part.gate.forward(&x)?)?;
            part.down.forward(&(gate * part.up.forward(&x)?)?)
        };
        layer.parts.par_iter().map(transform).collect()
    }

    /// This rank's share of the sampled rows' logits, `(rows, tokens)` for each part.
    fn logits(&self, x: &Tensor, plan: &Plan) -> Result<Vec<Tensor>> {
        let sampled = Tensor::new(plan.sampled_rows.as_slice(), x.device())?;
        let x = rms_norm(
            &x.index_select(&sampled, 0)?,
            &self.final_norm,
            self.rms_norm_eps,
        )?;
        self.vocab
            .head
            .par_iter()
            .map(|part| part.forward(&x))
            .collect()
    }
}

// === impl Vocab ===

impl Vocab {
    /// The embeddings of the step's tokens, `(rows, hidden)`. Each rank brings the rows of its
    /// own tokens in the order of the step; all put them where they belong.
    fn embed(&self, plan: &Plan, seat: &Seat) -> std::result::Result<Tensor, StepError> {
        let compute = |source| StepError::Compute { layer: 0, source };
        let tokens: Vec<usize> = plan.tokens.iter().map(|&token| token as usize).collect();
        let mine = &self.by_rank[seat.shard().rank];
        let rows: Vec<Tensor> = tokens
            .iter()
            .filter(|token| mine.contains(token))
            .map(|&token| self.embedding_row(token - mine.start))
            .collect::<Result<_>>()
            .map_err(compute)?;
        let brought = seat.gather(flat(&rows).map_err(compute)?)?;
        let mut brought = brought.chunks_exact(self.hidden_size);
        let mut rows = vec![&[][..]; tokens.len()];
        for range in &self.by_rank {
            for (row, _) in tokens
                .iter()
                .enumerate()
                .filter(|(_, token)| range.contains(token))
            {
                rows[row] = brought.next().expect("each rank brings its tokens' rows");
            }
        }
        let shape = (tokens.len(), self.hidden_size);
        Tensor::from_vec(rows.concat(), shape, &candle_core::Device::Cpu).map_err(compute)
    }

    /// The embedding of this rank's token number `index`.
    fn embedding_row(&self, mut index: usize) -> Result<Tensor> {
        for part in self.embedding.as_ref().unwrap_or(&self.head) {
            if index < part.output_count() {
                return part.row(index);
            }
            index -= part.output_count();
        }
        candle_core::bail!("the embedding has no row {index}")
    }

    /// Whole rows of logits on rank 0, none elsewhere. `mine`: this rank's columns of each row.
    fn gather_logits(
        &self,
        mine: Vec<f32>,
        row_count: usize,
        seat: &Seat,
    ) -> std::result::Result<Vec<Vec<f32>>, StepError> {
        let all = seat.gather(mine)?;
        if !seat.is_first() {
            return Ok(Vec::new());
        }
        let mut rows = vec![Vec::new(); row_count];
        let mut rest = all.as_slice();
        for tokens in &self.by_rank {
            let (rank, after) = rest.split_at(row_count * tokens.len());
            for (row, logits) in rows.iter_mut().zip(rank.chunks_exact(tokens.len())) {
                row.extend_from_slice(logits);
            }
            rest = after;
        }
        Ok(rows)
    }
}
