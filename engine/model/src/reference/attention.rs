//! Attention of one part: its query heads over its one key and value head.

use candle_core::{Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use rayon::prelude::*;

use super::cache::{Context, PartCache};
use super::plan::{Plan, Rows};
use super::product::{rows_times, weighted_sums};

/// What one part brings to attention for all rows of a step; `(rows, width)` each, f32,
/// contiguous, keys and queries already rotated.
#[derive(Debug)]
pub(crate) struct Projected {
    /// `heads * head_dim` wide.
    pub(crate) queries: Tensor,
    /// `head_dim` wide.
    pub(crate) keys: Tensor,
    /// `head_dim` wide.
    pub(crate) values: Tensor,
}

/// Writes keys and values to the cache and attends: `(rows, heads * head_dim)`.
///
/// A row sees exactly the positions up to its own, gathered in order, so neither the batch nor
/// the cut of a prefill into chunks nor the choice of blocks can change it.
pub(crate) fn attend(plan: &Plan, cache: &PartCache, step: &Projected) -> Result<Tensor> {
    let mut rows = Vec::with_capacity(plan.tokens.len());
    for sequence in &plan.sequences {
        cache.write(sequence, &step.keys, &step.values)?;
        let context = cache.context(sequence)?;
        let attended: Vec<Tensor> = (0..sequence.count)
            .into_par_iter()
            .map(|index| attend_row(sequence, index, &context, &step.queries))
            .collect::<Result<_>>()?;
        rows.extend(attended);
    }
    Tensor::cat(&rows, 0)
}

fn attend_row(
    sequence: &Rows,
    index: usize,
    context: &Context,
    queries: &Tensor,
) -> Result<Tensor> {
    let visible = sequence.first_position + index + 1;
    let keys = context.keys.narrow(0, 0, visible)?;
    let values = context.values.narrow(0, 0, visible)?;
    let head_dim = keys.dim(1)?;
    let query = queries.narrow(0, sequence.first_row + index, 1)?;
    let heads = query.reshape(((), head_dim))?;
    let scale = 1.0 / f64::sqrt(u32::try_from(head_dim).expect("heads are narrow").into());
    let scores = rows_times(&heads, &keys)?.affine(scale, 0.0)?;
    weighted_sums(&softmax_last_dim(&scores)?, &values)?.reshape((1, ()))
}
