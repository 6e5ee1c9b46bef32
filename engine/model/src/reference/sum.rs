//! Sums over the parts of all ranks, in the order that one rank alone would have.

use candle_core::{Device, Tensor};

use crate::backend::StepError;
use crate::seat::Seat;

/// The sum over all parts of all ranks, in the order of the parts. Part 0 comes first and the
/// others are added one by one, whatever the number of ranks.
///
/// * `mine`: this rank's parts, `(rows, width)` each, f32. Same shape out.
pub(crate) fn sum_parts(seat: &Seat, mine: &[Tensor], layer: usize) -> Result<Tensor, StepError> {
    let compute = |source| StepError::Compute { layer, source };
    let (rows, width) = mine[0].dims2().map_err(compute)?;
    let parts = seat.gather(flat(mine).map_err(compute)?)?;
    let add = || {
        let parts = Tensor::from_vec(parts, ((), rows, width), &Device::Cpu)?;
        let first = parts.get(0)?;
        (1..parts.dim(0)?).try_fold(first, |sum, part| sum + parts.get(part)?)
    };
    add().map_err(compute)
}

/// The elements of all tensors, one tensor after the other.
pub(crate) fn flat(tensors: &[Tensor]) -> candle_core::Result<Vec<f32>> {
    let mut all = Vec::new();
    for tensor in tensors {
        all.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}
