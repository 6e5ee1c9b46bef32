//! One rank's decoder: embedding, layers, output projection, a step's rows at a time.

use std::ops::Range;

use berth_engine_core::batch::StepSequence;
use berth_engine_cpu::activation::silu_mul;
use berth_engine_cpu::attention::{Attention, AttentionShape, Columns, KvCache, Projected};
use berth_engine_cpu::matrix::Matrix;
use berth_engine_cpu::norm::RmsNorm;
use berth_engine_cpu::product::Products;
use berth_engine_cpu::rope::Angles;
use berth_engine_cpu::rows::{each_pair_of_rows, each_row};
use berth_engine_cpu::team::Team;
use berth_engine_cpu::tier::Tier;

use super::exchange::{add_up, in_token_order};
use crate::backend::StepError;
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
    pub(crate) rms_norm_eps: f32,
    pub(crate) hidden_size: usize,
    /// This rank's.
    pub(crate) intermediate_size: usize,
    pub(crate) attention: AttentionShape,
}

/// A decoder layer with its keys and values; norms are `hidden_size` long.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) qkv: Matrix,
    pub(crate) output: Matrix,
    pub(crate) mlp_norm: Vec<f32>,
    pub(crate) gate_up: Matrix,
    pub(crate) down: Matrix,
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
    buffers: Buffers,
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
    gate_up: Vec<f32>,
    gated: Vec<f32>,
    /// Rows that are sampled.
    sampled: Vec<f32>,
    logits: Vec<f32>,
}

// === impl Decoder ===

impl Decoder {
    /// Computes the rows of all sequences, up to the last norm; they stay in `machine`.
    pub(crate) fn forward(
        &mut self,
        sequences: &[StepSequence],
        machine: &mut Machine,
        seat: &Seat,
    ) -> Result<(), StepError> {
        machine.start(sequences, self);
        self.embed(machine, seat)?;
        for layer in 0..self.layers.len() {
            self.attention(layer, sequences, machine, seat)?;
            self.mlp(layer, machine, seat)?;
        }
        machine.add_and_norm(&self.final_norm, self.rms_norm_eps);
        Ok(())
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
            products,
            attention,
            angles,
            buffers,
            ..
        } = machine;
        let stride = layer.qkv.outputs();
        products.product(team, &layer.qkv, &buffers.normed, &mut buffers.qkv);
        let columns = |first| Columns {
            elements: &buffers.qkv,
            stride,
            first,
        };
        let shape = self.attention;
        let projected = Projected {
            sequences,
            queries: columns(0),
            keys: columns(shape.query_width()),
            values: columns(shape.query_width() + shape.kv_width()),
            angles,
        };
        attention.write(team, &mut layer.cache, &projected);
        attention.attend(team, &layer.cache, &projected, &mut buffers.attended);
        products.product(team, &layer.output, &buffers.attended, &mut buffers.delta);
        add_up(seat, &mut buffers.delta)
    }

    /// Adds what is to be added, and leaves what the feed-forward block adds.
    fn mlp(&mut self, index: usize, machine: &mut Machine, seat: &Seat) -> Result<(), StepError> {
        let (layer, width) = (&self.layers[index], self.intermediate_size);
        machine.add_and_norm(&layer.mlp_norm, self.rms_norm_eps);
        let Machine {
            team,
            tier,
            products,
            buffers,
            ..
        } = machine;
        products.product(team, &layer.gate_up, &buffers.normed, &mut buffers.gate_up);
        let gate_up = &buffers.gate_up;
        each_row(team, &mut buffers.gated, width, |row, out| {
            let (gate, up) = gate_up[2 * row * width..][..2 * width].split_at(width);
            silu_mul(*tier, gate, up, out);
        });
        products.product(team, &layer.down, &buffers.gated, &mut buffers.delta);
        add_up(seat, &mut buffers.delta)
    }

    /// After [`Self::forward`]: this rank's logits of some rows, `(rows, this rank's tokens)`.
    pub(crate) fn logits(&self, rows: &[usize], machine: &mut Machine) {
        let width = self.hidden_size;
        let Machine {
            team,
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
    }
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(team: Team, tier: Tier, decoder: &Decoder) -> Self {
        Self {
            products: Products::new(tier),
            attention: Attention::new(decoder.attention, tier, team.worker_count()),
            angles: Angles::new(decoder.frequencies.pair_count()),
            buffers: Buffers::default(),
            tokens: Vec::new(),
            team,
            tier,
        }
    }

    /// Makes room for a step's rows.
    fn start(&mut self, sequences: &[StepSequence], decoder: &Decoder) {
        self.tokens.clear();
        self.angles.clear();
        for sequence in sequences {
            let end = sequence.first_position + sequence.tokens.len();
            for position in sequence.first_position..end {
                self.angles.push(decoder.frequencies.angles(position));
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
            gate_up,
            gated,
            ..
        } = &mut self.buffers;
        for buffer in [x, delta, normed] {
            buffer.resize(count * decoder.hidden_size, 0.0);
        }
        qkv.resize(count * qkv_width, 0.0);
        attended.resize(count * shape.query_width(), 0.0);
        gate_up.resize(2 * count * decoder.intermediate_size, 0.0);
        gated.resize(count * decoder.intermediate_size, 0.0);
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

    /// The logits that [`Decoder::logits`] left.
    pub(crate) fn logits_mut(&mut self) -> (&mut Team, &mut Vec<f32>) {
        (&mut self.team, &mut self.buffers.logits)
    }
}
