//! Which matrices a rank holds: what each is put together from, and in which form it is packed.

use std::fmt;
use std::ops::Range;

use berth_engine_cpu::matrix::{BLOCK, Form};
use candle_core::quantized::GgmlDType;

use crate::backend::Shard;
use crate::config::ModelConfig;
use crate::source::{LayerWeight, ModelSource, Weight};
use berth_engine_cpu::share::share;

/// What one rank computes, as ranges of the whole model's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) kv_head_count: usize,
    /// Outputs of the query projection, inputs of the output projection.
    pub(crate) query: Range<usize>,
    /// Outputs of the key and of the value projection.
    pub(crate) kv: Range<usize>,
    /// Outputs of gate and up, inputs of down.
    pub(crate) intermediate: Range<usize>,
    /// The same of each expert.
    pub(crate) expert_intermediate: Range<usize>,
    /// Tokens whose embedding and logit it holds.
    pub(crate) vocab: Range<usize>,
}

/// One packed matrix.
#[derive(Clone, Debug)]
pub(crate) struct MatrixSpec {
    /// Rows of these weights, one after the other.
    pub(crate) rows: Vec<(Weight, Range<usize>)>,
    /// Columns of each.
    pub(crate) columns: Range<usize>,
}

/// The matrices of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) qkv: MatrixSpec,
    pub(crate) output: MatrixSpec,
    pub(crate) feed_forward: FeedForwardSpec,
}

/// The matrices of a feed-forward block.
#[derive(Clone, Debug)]
pub(crate) enum FeedForwardSpec {
    Plain(GatedSpec),
    Mixture {
        router: MatrixSpec,
        experts: Vec<GatedSpec>,
    },
}

/// The matrices of one gated block.
#[derive(Clone, Debug)]
pub(crate) struct GatedSpec {
    pub(crate) gate_up: MatrixSpec,
    pub(crate) down: MatrixSpec,
}

/// Weights that are held in one form, over all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// How they are packed.
    pub form: Form,
    /// How the files have them, as GGUF calls it.
    pub stored_as: Vec<String>,
    /// Memory that they take.
    pub bytes: u64,
}

/// Why a model is not one for this backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// There is no kernel for a weight as it is stored.
    #[error(
        "tensor {name} is stored as {encoding}, which no form of the CPU backend's weights holds"
    )]
    Encoding {
        /// The tensor.
        name: String,
        /// GGUF's name of how it is stored.
        encoding: String,
    },
    /// Blocks of a quantised weight cannot be cut.
    #[error(
        "tensor {name} cannot be cut for {degree} ranks at multiples of {BLOCK} columns, which its \
         blocks need; fewer ranks may do"
    )]
    Cut {
        /// The tensor.
        name: String,
        /// Ranks.
        degree: usize,
    },
}

/// The form that holds weights stored like this: exactly, where there is one. Those of the K
/// family, whose scales are products, and of Q5_1 are rounded to bf16, as F32 and F16 are.
pub(crate) fn form_of(encoding: GgmlDType) -> Option<Form> {
    match encoding {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => Some(Form::Bf16),
        GgmlDType::Q8_0 | GgmlDType::Q5_0 => Some(Form::Int8),
        GgmlDType::Q4_0 => Some(Form::Int4),
        GgmlDType::Q4_1 => Some(Form::Int4Min),
        GgmlDType::Q5_1
        | GgmlDType::Q2K
        | GgmlDType::Q3K
        | GgmlDType::Q4K
        | GgmlDType::Q5K
        | GgmlDType::Q6K => Some(Form::Bf16),
        _ => None,
    }
}

/// The form that holds weights of both, when they are multiplied at once.
fn joined(first: Form, second: Form) -> Form {
    match (first, second) {
        _ if first == second => first,
        (Form::Int4, Form::Int8) | (Form::Int8, Form::Int4) => Form::Int8,
        _ => Form::Bf16,
    }
}

/// The part of rank `shard.rank`; when heads do not divide, lower ranks hold one more. Row
/// parallel weights are cut at multiples of [`BLOCK`] where they have as many blocks as ranks.
pub(crate) fn part_of_rank(config: &ModelConfig, shard: Shard) -> Part {
    let Shard { rank, degree } = shard;
    let heads = share(config.kv_head_count, degree, rank);
    let group = config.heads_per_group() * config.head_dim;
    Part {
        kv_head_count: heads.len(),
        query: heads.start * group..heads.end * group,
        kv: heads.start * config.head_dim..heads.end * config.head_dim,
        intermediate: share_in_blocks(config.intermediate_size, degree, rank),
        expert_intermediate: match &config.graph.experts {
            Some(experts) => share_in_blocks(experts.intermediate_size, degree, rank),
            None => 0..0,
        },
        vocab: vocab_of_rank(config, shard),
    }
}

/// The tokens of rank `shard.rank`.
pub(crate) fn vocab_of_rank(config: &ModelConfig, shard: Shard) -> Range<usize> {
    share(config.vocab_size, shard.degree, shard.rank)
}

fn share_in_blocks(total: usize, degree: usize, rank: usize) -> Range<usize> {
    let is_cut_in_blocks = total.is_multiple_of(BLOCK) && total / BLOCK >= degree;
    let unit = if is_cut_in_blocks { BLOCK } else { 1 };
    let units = share(total / unit, degree, rank);
    units.start * unit..units.end * unit
}

/// The embedding, and the output projection where it is another matrix.
pub(crate) fn tables(config: &ModelConfig, part: &Part) -> (MatrixSpec, Option<MatrixSpec>) {
    let of = |weight| MatrixSpec::new([(weight, part.vocab.clone())], 0..config.hidden_size);
    let head = (!config.tied_embeddings).then(|| of(Weight::Head));
    (of(Weight::Embedding), head)
}

/// Every matrix that a rank holds.
pub(crate) fn all(config: &ModelConfig, part: &Part) -> Vec<MatrixSpec> {
    let (embedding, head) = tables(config, part);
    let layers = (0..config.layer_count).flat_map(|index| {
        let layer = LayerSpec::new(config, part, index);
        [layer.qkv, layer.output]
            .into_iter()
            .chain(layer.feed_forward.into_all())
    });
    [embedding].into_iter().chain(head).chain(layers).collect()
}

/// Elements of all vectors that a rank holds.
pub(crate) fn vector_elements(config: &ModelConfig, part: &Part) -> usize {
    let graph = &config.graph;
    let norms = if graph.norms_after { 4 } else { 2 };
    let mut of_layer = norms * config.hidden_size;
    if graph.qkv_bias {
        of_layer += part.query.len() + 2 * part.kv.len();
    }
    if graph.head_norms {
        of_layer += 2 * config.head_dim;
    }
    config.hidden_size + config.layer_count * of_layer
}

/// Checks that every matrix of every rank can be packed; what there is of each form.
///
/// # Errors
/// Names the first tensor that cannot.
pub(crate) fn check(source: &ModelSource, degree: usize) -> Result<Vec<Held>, Unserved> {
    let mut all_held: Vec<Held> = Vec::new();
    for rank in 0..degree {
        let part = part_of_rank(source.config(), Shard { rank, degree });
        for spec in all(source.config(), &part) {
            let form = spec.form(source, degree)?;
            let index = all_held.iter().position(|held| held.form == form);
            let index = index.unwrap_or_else(|| {
                all_held.push(Held::nothing(form));
                all_held.len() - 1
            });
            all_held[index].add(source, &spec);
        }
    }
    Ok(all_held)
}

// === impl Held ===

impl Held {
    fn nothing(form: Form) -> Self {
        Self {
            form,
            stored_as: Vec::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, source: &ModelSource, spec: &MatrixSpec) {
        let (outputs, inputs) = spec.shape();
        self.bytes += self.form.bytes(outputs, inputs) as u64;
        for (weight, _) in &spec.rows {
            let encoding = format!("{:?}", source.encoding(*weight));
            if !self.stored_as.contains(&encoding) {
                self.stored_as.push(encoding);
            }
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (form, megabytes) = (self.form, self.bytes / 1_000_000);
        let stored_as = self.stored_as.join(" and ");
        write!(f, "{form} ({megabytes} MB, stored as {stored_as})")
    }
}

// === impl LayerSpec ===

impl LayerSpec {
    pub(crate) fn new(config: &ModelConfig, part: &Part, index: usize) -> Self {
        let at = |weight| Weight::Layer(index, weight);
        let hidden = 0..config.hidden_size;
        Self {
            qkv: MatrixSpec::new(
                [
                    (at(LayerWeight::Query), part.query.clone()),
                    (at(LayerWeight::Key), part.kv.clone()),
                    (at(LayerWeight::Value), part.kv.clone()),
                ],
                hidden.clone(),
            ),
            output: MatrixSpec::new(
                [(at(LayerWeight::Output), hidden.clone())],
                part.query.clone(),
            ),
            feed_forward: match config.graph.experts_of(index) {
                None => {
                    let weights = [LayerWeight::Gate, LayerWeight::Up, LayerWeight::Down];
                    let inner = part.intermediate.clone();
                    FeedForwardSpec::Plain(GatedSpec::new(weights.map(at), hidden, inner))
                }
                Some(experts) => FeedForwardSpec::Mixture {
                    router: MatrixSpec::new(
                        [(at(LayerWeight::Router), 0..experts.count)],
                        hidden.clone(),
                    ),
                    experts: (0..experts.count)
                        .map(|expert| {
                            let weights = [
                                LayerWeight::ExpertGate,
                                LayerWeight::ExpertUp,
                                LayerWeight::ExpertDown,
                            ];
                            let weights = weights.map(|of| at(of(expert)));
                            let inner = part.expert_intermediate.clone();
                            GatedSpec::new(weights, hidden.clone(), inner)
                        })
                        .collect(),
                },
            },
        }
    }
}

// === impl FeedForwardSpec ===

impl FeedForwardSpec {
    fn into_all(self) -> Vec<MatrixSpec> {
        match self {
            Self::Plain(gated) => vec![gated.gate_up, gated.down],
            Self::Mixture { router, experts } => {
                let of_experts = experts
                    .into_iter()
                    .flat_map(|expert| [expert.gate_up, expert.down]);
                [router].into_iter().chain(of_experts).collect()
            }
        }
    }
}

// === impl GatedSpec ===

impl GatedSpec {
    fn new([gate, up, down]: [Weight; 3], hidden: Range<usize>, inner: Range<usize>) -> Self {
        Self {
            gate_up: MatrixSpec::new([(gate, inner.clone()), (up, inner.clone())], hidden.clone()),
            down: MatrixSpec::new([(down, hidden)], inner),
        }
    }
}

// === impl MatrixSpec ===

impl MatrixSpec {
    fn new<const N: usize>(rows: [(Weight, Range<usize>); N], columns: Range<usize>) -> Self {
        Self {
            rows: rows.to_vec(),
            columns,
        }
    }

    /// Outputs and inputs.
    pub(crate) fn shape(&self) -> (usize, usize) {
        let outputs = self.rows.iter().map(|(_, rows)| rows.len()).sum();
        (outputs, self.columns.len())
    }

    /// Which row of which weight an output is.
    pub(crate) fn row(&self, mut output: usize) -> (Weight, usize) {
        for (weight, rows) in &self.rows {
            if output < rows.len() {
                return (*weight, rows.start + output);
            }
            output -= rows.len();
        }
        unreachable!("outputs are below the sum of the rows")
    }

    /// The form that it is packed in.
    pub(crate) fn form(&self, source: &ModelSource, degree: usize) -> Result<Form, Unserved> {
        let (first, _) = self.rows[0];
        let mut form = form_of_weight(source, first)?;
        for (weight, _) in &self.rows[1..] {
            form = joined(form, form_of_weight(source, *weight)?);
        }
        if let Some(quantised) = self.quantised(source) {
            return Ok(quantised);
        }
        let Range { start, end } = self.columns;
        if form != Form::Bf16 && !(start.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK)) {
            let name = source.name_of(first);
            return Err(Unserved::Cut { name, degree });
        }
        Ok(form)
    }

    /// What the weights become at load, where that is asked for, they are not quantised yet, and
    /// blocks fit their columns.
    fn quantised(&self, source: &ModelSource) -> Option<Form> {
        let quantization = source.quantization()?;
        let is_plain = |(weight, _): &(Weight, Range<usize>)| {
            let encoding = source.encoding(*weight);
            matches!(encoding, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
        };
        let Range { start, end } = self.columns;
        let fits = start.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK);
        let (first, _) = self.rows[0];
        (fits && self.rows.iter().all(is_plain)).then(|| quantization.form(first))
    }
}

fn form_of_weight(source: &ModelSource, weight: Weight) -> Result<Form, Unserved> {
    let encoding = source.encoding(weight);
    form_of(encoding).ok_or_else(|| Unserved::Encoding {
        name: source.name_of(weight),
        encoding: format!("{encoding:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    #[test]
    fn parts_of_all_ranks_cover_the_model_once() {
        let mut config = tiny::config();
        for intermediate_size in [50, 64, 96, 1536] {
            config.intermediate_size = intermediate_size;
            for degree in 1..=3 {
                let parts: Vec<Part> = (0..degree)
                    .map(|rank| part_of_rank(&config, Shard { rank, degree }))
                    .collect();
                let ranges: [fn(&Part) -> Range<usize>; 4] = [
                    |part| part.query.clone(),
                    |part| part.kv.clone(),
                    |part| part.intermediate.clone(),
                    |part| part.vocab.clone(),
                ];
                for (range, total) in ranges.into_iter().zip([72, 24, intermediate_size, 101]) {
                    assert_eq!(range(&parts[0]).start, 0);
                    assert_eq!(range(&parts[degree - 1]).end, total);
                    let follows = |pair: &[Part]| range(&pair[0]).end == range(&pair[1]).start;
                    assert!(parts.windows(2).all(follows));
                }
            }
        }
    }

    #[test]
    fn row_parallel_weights_are_cut_at_whole_blocks() {
        assert_eq!(share_in_blocks(96, 2, 0), 0..64);
        assert_eq!(share_in_blocks(96, 2, 1), 64..96);
        // Two blocks for three ranks, or no whole blocks.
        assert_eq!(share_in_blocks(64, 3, 0), 0..22);
        assert_eq!(share_in_blocks(50, 2, 1), 25..50);
    }

    #[test]
    fn an_output_is_a_row_of_one_of_the_joined_weights() {
        let part = part_of_rank(&tiny::config(), Shard { rank: 1, degree: 3 });
        let spec = LayerSpec::new(&tiny::config(), &part, 1).qkv;
        assert_eq!(spec.shape(), (24 + 8 + 8, 40));
        let at = |weight| Weight::Layer(1, weight);
        assert_eq!(spec.row(0), (at(LayerWeight::Query), 24));
        assert_eq!(spec.row(23), (at(LayerWeight::Query), 47));
        assert_eq!(spec.row(24), (at(LayerWeight::Key), 8));
        assert_eq!(spec.row(39), (at(LayerWeight::Value), 15));
    }
}
