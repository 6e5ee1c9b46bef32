//! What ranks exchange during a step, each sum and each row in one order.

use std::ops::Range;

use crate::backend::StepError;
use crate::seat::Seat;

/// Adds up what each rank has in `mine`, in rank order; all ranks get the same.
pub(crate) fn add_up(seat: &Seat, mine: &mut [f32]) -> Result<(), StepError> {
    if seat.is_alone() {
        return Ok(());
    }
    let all = seat.gather(mine.to_vec())?;
    let mut ranks = all.chunks_exact(mine.len());
    if let Some(first) = ranks.next() {
        mine.copy_from_slice(first);
    }
    for rank in ranks {
        for (sum, element) in mine.iter_mut().zip(rank) {
            *sum += element;
        }
    }
    Ok(())
}

/// Puts rows that ranks brought, each those of its own tokens in the step's order, where their
/// tokens are. `to`: a row for each token, and its width.
pub(crate) fn in_token_order(
    by_rank: &[Range<usize>],
    tokens: &[usize],
    brought: &[f32],
    (to, width): (&mut [f32], usize),
) {
    let mut brought = brought.chunks_exact(width);
    for range in by_rank {
        let rows = tokens.iter().zip(to.chunks_exact_mut(width));
        for ((_, row), from) in rows
            .filter(|(token, _)| range.contains(token))
            .zip(&mut brought)
        {
            row.copy_from_slice(from);
        }
    }
}

/// Whole rows of logits, from what ranks brought: `(rows, its tokens)` of each rank in turn.
pub(crate) fn join_columns(
    by_rank: &[Range<usize>],
    brought: &[f32],
    row_count: usize,
) -> Vec<f32> {
    let mut whole = Vec::with_capacity(brought.len());
    for row in 0..row_count {
        let mut start = 0;
        for tokens in by_rank {
            let from = start + row * tokens.len();
            whole.extend_from_slice(&brought[from..from + tokens.len()]);
            start += row_count * tokens.len();
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_of_all_ranks_go_where_they_belong() {
        let by_rank = [0..2, 2..5];
        let mut rows = [0.0; 8];
        let brought = [10.0, 11.0, 0.0, 1.0, 40.0, 41.0, 20.0, 21.0];
        in_token_order(&by_rank, &[1, 4, 0, 2], &brought, (&mut rows, 2));
        assert_eq!(rows, [10.0, 11.0, 40.0, 41.0, 0.0, 1.0, 20.0, 21.0]);
        let brought = [0.0, 1.0, 10.0, 11.0, 2.0, 3.0, 4.0, 12.0, 13.0, 14.0];
        let joined = join_columns(&by_rank, &brought, 2);
        assert_eq!(
            joined,
            [0.0, 1.0, 2.0, 3.0, 4.0, 10.0, 11.0, 12.0, 13.0, 14.0]
        );
    }
}
