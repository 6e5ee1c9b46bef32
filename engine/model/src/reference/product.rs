//! The two products of the decoder, as candle operations: rows times a matrix, and a weighted
//! sum of rows.
//!
//! candle's own `matmul` is not used. It asks `/proc/cpuinfo` for the number of cores at every
//! call (four fifths of a decode step when measured), and its kernels differ by instruction set
//! and shape. Here each output has one order of summation, on every machine.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Partial sums of a dot product: element `k` goes to lane `k % LANES`. Four vectors of plain
/// SSE2, so that one sum need not wait for the one before.
const LANES: usize = 16;
/// Matrix rows, some 20 KB, that stay in the nearest cache while the rows of a prefill go by.
const ROWS_AT_ONCE: usize = 8;

/// Every row of `x` times the transposed `matrix`.
///
/// * `x`: `(rows, inputs)`, `matrix`: `(outputs, inputs)`; out: `(rows, outputs)`. f32,
///   contiguous.
pub(crate) fn rows_times(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(matrix, &RowsTimes)
}

/// The rows of `values`, weighted by each row of `weights` and added in order.
///
/// * `weights`: `(rows, count)`, `values`: `(count, width)`; out: `(rows, width)`. f32,
///   contiguous.
pub(crate) fn weighted_sums(weights: &Tensor, values: &Tensor) -> Result<Tensor> {
    weights.apply_op2_no_bwd(values, &WeightedSums)
}

struct RowsTimes;

struct WeightedSums;

/// A contiguous f32 matrix.
struct Matrix<'a> {
    elements: &'a [f32],
    rows: usize,
    columns: usize,
}

// === impl RowsTimes ===

impl CustomOp2 for RowsTimes {
    fn name(&self) -> &'static str {
        "rows-times"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        matrix: &CpuStorage,
        matrix_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Matrix::new(x, x_layout)?;
        let matrix = Matrix::new(matrix, matrix_layout)?;
        if x.columns != matrix.columns {
            bail!("rows of {} times rows of {}", x.columns, matrix.columns);
        }
        let mut out = vec![0.0; x.rows * matrix.rows];
        for (block, rows) in matrix
            .elements
            .chunks(ROWS_AT_ONCE * matrix.columns)
            .enumerate()
        {
            for (x, out) in x.iter().zip(out.chunks_exact_mut(matrix.rows)) {
                let out = &mut out[block * ROWS_AT_ONCE..];
                for (out, row) in out.iter_mut().zip(rows.chunks_exact(matrix.columns)) {
                    *out = dot(x, row);
                }
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((x.rows, matrix.rows))))
    }
}

// === impl WeightedSums ===

impl CustomOp2 for WeightedSums {
    fn name(&self) -> &'static str {
        "weighted-sums"
    }

    fn cpu_fwd(
        &self,
        weights: &CpuStorage,
        weights_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weights = Matrix::new(weights, weights_layout)?;
        let values = Matrix::new(values, values_layout)?;
        if weights.columns != values.rows {
            bail!("{} weights for {} rows", weights.columns, values.rows);
        }
        let mut out = vec![0.0; weights.rows * values.columns];
        for (weights, out) in weights.iter().zip(out.chunks_exact_mut(values.columns)) {
            for (weight, row) in weights.iter().zip(values.iter()) {
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
        }
        Ok((
            CpuStorage::F32(out),
            Shape::from((weights.rows, values.columns)),
        ))
    }
}

// === impl Matrix ===

impl<'a> Matrix<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (rows, columns) = layout.shape().dims2()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a product of a matrix that is not contiguous");
        };
        if rows == 0 || columns == 0 {
            bail!("a product of an empty matrix");
        }
        Ok(Self {
            elements: &storage.as_slice::<f32>()?[start..end],
            rows,
            columns,
        })
    }

    fn iter(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        self.elements.chunks_exact(self.columns)
    }
}

/// Lanes are filled with `k` ascending, then added in halves.
fn dot(x: &[f32], row: &[f32]) -> f32 {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (row, row_rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (x, row) in x.iter().zip(row) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * row[lane];
        }
    }
    for ((sum, x), element) in sums.iter_mut().zip(x_rest).zip(row_rest) {
        *sum += x * element;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn matrix(rows: usize, columns: usize, elements: &[i8]) -> Tensor {
        let elements = elements
            .iter()
            .cycle()
            .take(rows * columns)
            .map(|&e| f32::from(e));
        Tensor::from_vec(elements.collect(), (rows, columns), &Device::Cpu).unwrap()
    }

    proptest! {
        /// Sums of small whole numbers are exact, so that any right order agrees.
        #[test]
        fn products_are_those_of_candle(
            (rows, outputs, inputs) in (1_usize..5, 1_usize..11, 1_usize..40),
            elements in prop::collection::vec(-9_i8..10, 1..97),
        ) {
            let x = matrix(rows, inputs, &elements);
            let w = matrix(outputs, inputs, &elements[elements.len() / 2..]);
            let expected = x.matmul(&w.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
            prop_assert_eq!(rows_times(&x, &w).unwrap().to_vec2::<f32>().unwrap(), expected);
            let values = w.t().unwrap().contiguous().unwrap();
            let expected = x.matmul(&values).unwrap().to_vec2::<f32>().unwrap();
            prop_assert_eq!(weighted_sums(&x, &values).unwrap().to_vec2::<f32>().unwrap(), expected);
        }
    }

    #[test]
    fn a_row_among_others_has_the_bits_of_the_row_alone() {
        let fractions = |rows, columns| {
            let whole = matrix(rows, columns, &[3, -7, 11, 13, -17, 19, 23]);
            whole.affine(1.0 / 31.0, 0.1).unwrap()
        };
        let (x, w) = (fractions(6, 45), fractions(13, 45));
        let together = rows_times(&x, &w).unwrap().to_vec2::<f32>().unwrap();
        for (row, expected) in together.iter().enumerate() {
            let alone = rows_times(&x.narrow(0, row, 1).unwrap(), &w).unwrap();
            assert_eq!(&alone.to_vec2::<f32>().unwrap()[0], expected);
        }
    }
}
