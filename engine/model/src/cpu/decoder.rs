//! One rank's decoder: embedding, layers, output projection, a step's rows at a time.

use std::ops::Range;

use berth_engine_core::batch::{BlockCopy, StepSequence};
use berth_engine_cpu::attention::{
    Attention, AttentionShape, Columns, KvCache, Projected, Scoring,
};
use berth_engine_cpu::cap::soft_cap;
use berth_engine_cpu::matrix::Matrix;
use berth_engine_cpu::norm::RmsNorm;
use berth_engine_cpu::product::{Kernels, Products};
use berth_engine_cpu::rope::Angles;
use berth_engine_cpu::rows::{each_pair_of_rows, each_row};
use berth_engine_cpu::team::Team;
use berth_engine_cpu::tier::Tier;

use super::exchange::{add_up, in_token_order};
use super::feed_forward::{FeedForward, Means, Scratch};
use super::heads::Heads;
use crate::backend::StepError;
use crate::config::Activation;
use crate::frequencies::Frequencies;
use crate::seat::Seat;

/// One rank's part of the model.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) layers: Vec<Layer>,
    pub(crate) tables: Tables,
    /// `hidden_size` long.
    pub(crate) final_norm: Vec<f32>,
    pub(crate) frequencies: Frequencies,
    /// Of layers that see a window, where there are some.
    pub(crate) local_frequencies: Option<Frequencies>,
    pub(crate) rms_norm_eps: f32,
    pub(crate) hidden_size: usize,
    pub(crate) activation: Activation,
    pub(crate) embedding_scale: f32,
    pub(crate) logit_cap: Option<f32>,
    pub(crate) attention: AttentionShape,
}

/// A decoder layer with its keys and values; norms are `hidden_size` long.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) qkv: Matrix,
    pub(crate) heads: Heads,
    pub(crate) scoring: Scoring,
    /// It sees a window.
    pub(crate) is_local: bool,
    pub(crate) output: Matrix,
    /// Of what attention adds.
    pub(crate) after_attention: Option<Vec<f32>>,
    pub(crate) mlp_norm: Vec<f32>,
    pub(crate) feed_forward: FeedForward,
    /// Of what the feed-forward block adds.
    pub(crate) after_mlp: Option<Vec<f32>>,
    pub(crate) cache: KvCache,
}

/// Embedding and output projection, cut by tokens.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Tokens of each rank, in rank order.
    pub(crate) by_rank: Vec<Range<usize>>,
    pub(crate) head: Matrix,
    /// None where it is the output projection.
    pub(crate) embedding: Option<Matrix>,
}

/// What computes: threads, kernels, and memory that is used again in each step.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) team: Team,
    pub(crate) tier: Tier,
    products: Products,
    attention: Attention,
    angles: Angles,
    local_angles: Angles,
    buffers: Buffers,
    scratch: Scratch,
    /// Of each row.
    tokens: Vec<usize>,
}

/// Row-major matrices with a row for each token of a step; they only grow.
#[derive(Debug, Default)]
struct Buffers {
    /// The residual stream.
    x: Vec<f32>,
    /// What is to be added to it.
    delta: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    /// Rows that are sampled.
    sampled: Vec<f32>,
    logits: Vec<f32>,
}

// === impl Decoder ===

impl Decoder {
    /// Everything that rows are multiplied with, in the order of a step.
    pub(crate) fn matrices(&self) -> Vec<&Matrix> {
        let mut all = Vec::new();
        for layer in &self.layers {
            all.extend([&layer.qkv, &layer.output]);
            layer.feed_forward.add_matrices(&mut all);
        }
        all.push(&self.tables.head);
        all
    }

    /// Computes the rows of all sequences, up to the last norm; they stay in `machine`.
    pub(crate) fn forward(
        &mut self,
        sequences: &[StepSequence],
        machine: &mut Machine,
        seat: &Seat,
    ) -> Result<(), StepError> {
        machine.start(sequences, self);
        self.embed(machine, seat)?;
        machine.scale_embeddings(self.embedding_scale);
        for layer in 0..self.layers.len() {
            self.attention(layer, sequences, machine, seat)?;
            self.mlp(layer, machine, seat)?;
        }
        machine.add_and_norm(&self.final_norm, self.rms_norm_eps);
        Ok(())
    }

    /// Copies blocks of every layer's keys and values, one after the other.
    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        for layer in &mut self.layers {
            copies.iter().for_each(|copy| layer.cache.copy(*copy));
        }
    }

    /// The rows of the step's tokens. Nothing is to be added to them yet.
    fn embed(&self, machine: &mut Machine, seat: &Seat) -> Result<(), StepError> {
        let width = self.hidden_size;
        let Machine {
            team,
            buffers,
            tokens,
            ..
        } = machine;
        buffers.delta.fill(0.0);
        let table = self.tables.embedding.as_ref().unwrap_or(&self.tables.head);
        if seat.is_alone() {
            each_row(team, &mut buffers.x, width, |row, to| {
                table.row(tokens[row], to);
            });
            return Ok(());
        }
        let by_rank = &self.tables.by_rank;
        let mine = &by_rank[seat.shard().rank];
        let rows: Vec<usize> = tokens
            .iter()
            .filter(|token| mine.contains(token))
            .map(|token| token - mine.start)
            .collect();
        let mut brought = vec![0.0; rows.len() * width];
        each_row(team, &mut brought, width, |row, to| {
            table.row(rows[row], to);
        });
        let brought = seat.gather(brought)?;
        in_token_order(by_rank, tokens, &brought, (&mut buffers.x, width));
        Ok(())
    }

    /// Adds what is to be added, and leaves what attention adds.
    fn attention(
        &mut self,
        index: usize,
        sequences: &[StepSequence],
        machine: &mut Machine,
        seat: &Seat,
    ) -> Result<(), StepError> {
        let layer = &mut self.layers[index];
        machine.add_and_norm(&layer.attention_norm, self.rms_norm_eps);
        let Machine {
            team,
            tier,
            products,
            attention,
            angles,
            local_angles,
            buffers,
            ..
        } = machine;
        let stride = layer.qkv.outputs();
        products.product(team, &layer.qkv, &buffers.normed, &mut buffers.qkv);
        let shape = self.attention;
        layer.heads.finish(team, *tier, shape, &mut buffers.qkv);
        let columns = |first| Columns {
            elements: &buffers.qkv,
            stride,
            first,
        };
        let projected = Projected {
            sequences,
            queries: columns(0),
            keys: columns(shape.query_width()),
            values: columns(shape.query_width() + shape.kv_width()),
            angles: if layer.is_local { local_angles } else { angles },
            scoring: layer.scoring,
        };
        attention.write(team, &mut layer.cache, &projected);
        attention.attend(team, &layer.cache, &projected, &mut buffers.attended);
        products.product(team, &layer.output, &buffers.attended, &mut buffers.delta);
        add_up(seat, &mut buffers.delta)?;
        machine.norm_delta(layer.after_attention.as_deref(), self.rms_norm_eps);
        Ok(())
    }

    /// Adds what is to be added, and leaves what the feed-forward block adds.
    fn mlp(&mut self, index: usize, machine: &mut Machine, seat: &Seat) -> Result<(), StepError> {
        let layer = &self.layers[index];
        machine.add_and_norm(&layer.mlp_norm, self.rms_norm_eps);
        let Machine {
            team,
            tier,
            products,
            buffers,
            scratch,
            ..
        } = machine;
        let mut means = Means {
            team,
            tier: *tier,
            products,
            activation: self.activation,
            scratch,
        };
        let Buffers { normed, delta, .. } = buffers;
        layer.feed_forward.compute(&mut means, normed, delta);
        add_up(seat, delta)?;
        machine.norm_delta(layer.after_mlp.as_deref(), self.rms_norm_eps);
        Ok(())
    }

    /// After [`Self::forward`]: this rank's logits of some rows, `(rows, this rank's tokens)`.
    pub(crate) fn logits(&self, rows: &[usize], machine: &mut Machine) {
        let width = self.hidden_size;
        let Machine {
            team,
            tier,
            products,
            buffers,
            ..
        } = machine;
        let Buffers {
            normed,
            sampled,
            logits,
            ..
        } = buffers;
        sampled.clear();
        for row in rows {
            sampled.extend_from_slice(&normed[row * width..(row + 1) * width]);
        }
        logits.resize(rows.len() * self.tables.head.outputs(), 0.0);
        products.product(team, &self.tables.head, sampled, logits);
        if let Some(cap) = self.logit_cap {
            each_row(team, logits, self.tables.head.outputs(), |_, row| {
                soft_cap(*tier, cap, row);
            });
        }
    }
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(team: Team, kernels: Kernels, decoder: &Decoder) -> Self {
        let tier = kernels.codes;
        Self {
            products: Products::with(kernels),
            attention: Attention::new(decoder.attention, tier, team.worker_count()),
            angles: angles(&decoder.frequencies),
            local_angles: angles(
                decoder
                    .local_frequencies
                    .as_ref()
                    .unwrap_or(&decoder.frequencies),
            ),
            buffers: Buffers::default(),
            scratch: Scratch::default(),
            tokens: Vec::new(),
            team,
            tier,
        }
    }

    /// Which kernels compute products.
    pub(crate) fn kernels(&self) -> Kernels {
        self.products.kernels()
    }

    /// Makes room for a step's rows.
    fn start(&mut self, sequences: &[StepSequence], decoder: &Decoder) {
        self.tokens.clear();
        self.angles.clear();
        self.local_angles.clear();
        for sequence in sequences {
            let end = sequence.first_position + sequence.tokens.len();
            for position in sequence.first_position..end {
                self.angles.push(decoder.frequencies.angles(position));
                if let Some(local) = &decoder.local_frequencies {
                    self.local_angles.push(local.angles(position));
                }
            }
            let tokens = sequence.tokens.iter().map(|token| *token as usize);
            self.tokens.extend(tokens);
        }
        let (count, shape) = (self.tokens.len(), decoder.attention);
        let qkv_width = shape.query_width() + 2 * shape.kv_width();
        let Buffers {
            x,
            delta,
            normed,
            qkv,
            attended,
            ..
        } = &mut self.buffers;
        for buffer in [x, delta, normed] {
            buffer.resize(count * decoder.hidden_size, 0.0);
        }
        qkv.resize(count * qkv_width, 0.0);
        attended.resize(count * shape.query_width(), 0.0);
    }

    /// Adds what is to be added to the residual stream, and normalises that.
    fn add_and_norm(&mut self, weight: &[f32], eps: f32) {
        let (tier, width) = (self.tier, weight.len());
        let norm = RmsNorm { tier, weight, eps };
        let Buffers {
            x, delta, normed, ..
        } = &mut self.buffers;
        each_pair_of_rows(
            &mut self.team,
            (x, width),
            (normed, width),
            |row, x, out| {
                let delta = &delta[row * width..(row + 1) * width];
                norm.add(x, delta, out);
            },
        );
    }

    /// Multiplies the rows of the embedding, in families that do.
    fn scale_embeddings(&mut self, scale: f32) {
        let width = self.buffers.x.len() / self.tokens.len().max(1);
        if scale.to_bits() == 1.0_f32.to_bits() {
            return;
        }
        each_row(&mut self.team, &mut self.buffers.x, width, |_, row| {
            row.iter_mut().for_each(|element| *element *= scale);
        });
    }

    /// Normalises what is to be added, in families that do.
    fn norm_delta(&mut self, weight: Option<&[f32]>, eps: f32) {
        let Some(weight) = weight else {
            return;
        };
        let tier = self.tier;
        let norm = RmsNorm { tier, weight, eps };
        each_row(
            &mut self.team,
            &mut self.buffers.delta,
            weight.len(),
            |_, row| {
                norm.normalise(row);
            },
        );
    }

    /// The logits that [`Decoder::logits`] left.
    pub(crate) fn logits_mut(&mut self) -> (&mut Team, &mut Vec<f32>) {
        (&mut self.team, &mut self.buffers.logits)
    }
}

fn angles(frequencies: &Frequencies) -> Angles {
    Angles::new(frequencies.pair_count(), frequencies.magnitude())
}
