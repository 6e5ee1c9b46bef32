//! `berth-engine bench kernels`: each product as a fraction of what the machine could do just then.
//!
//! Shared hosts halve a machine's second core and double its bandwidth for seconds. So each slice
//! of a product is timed beside the register peak and the read bandwidth, and dropped where all
//! cores together do not have what one of them has by itself.

use std::fs;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use berth_engine_cpu::matrix::{BLOCK, Form, Matrix, PackError, Row, RowError};
use berth_engine_cpu::probe::{peak_ops_per_second, read_bytes_per_second};
use berth_engine_cpu::product::Products;
use berth_engine_cpu::team::Team;
use berth_engine_cpu::tier::Tier;
use half::{bf16, f16};
use serde_json::{Value, json};

use crate::args::KernelArgs;

/// `(outputs, inputs)`: the MLP of Qwen2-0.5B up and down, its attention, SmolLM2-135M's MLP.
const SHAPES: [(usize, usize); 4] = [(4864, 896), (896, 896), (896, 4864), (576, 1536)];
const ROWS: [usize; 7] = [1, 4, 8, 16, 32, 64, 512];
const FORMS: [Form; 4] = [Form::Bf16, Form::Int8, Form::Int4, Form::Int4Min];

/// Several times the largest caches that are seen on machines of few cores.
const COLD_BYTES: usize = 256 << 20;
/// How long each probe runs.
const PROBE: Duration = Duration::from_millis(50);
/// How long a product is repeated in one slice.
const SLICE: Duration = Duration::from_millis(50);
/// Below this part of what each core has alone, the host has given a core away.
const TOGETHER_MIN: f64 = 0.9;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no thread, or it cannot be pinned.
    #[error("starting threads")]
    Threads(#[source] io::Error),
    /// Memory, that is.
    #[error("packing weights to measure with")]
    Pack(#[from] PackError<RowError>),
    /// Nobody takes the result.
    #[error("writing the result")]
    Write(#[source] io::Error),
}

/// What is measured with.
struct Bench {
    tier: Tier,
    alone: Team,
    together: Team,
    products: Products,
    /// For the bandwidth.
    words: Vec<u64>,
}

/// One form, shape and number of rows.
struct Cell {
    form: Form,
    outputs: usize,
    inputs: usize,
    rows: usize,
    slices: Vec<Slice>,
    dropped: usize,
}

/// Per second, over all cores.
#[derive(Clone, Copy)]
struct Slice {
    products: f64,
    peak_ops: f64,
    read_bytes: f64,
}

/// Measures, and prints one JSON object.
///
/// # Errors
/// When there is no memory or no thread.
pub fn kernels(args: &KernelArgs) -> Result<(), Error> {
    let load_before = load();
    let mut bench = Bench::new(args.cpu_tier)?;
    let mut cells = vec![];
    for form in FORMS.into_iter().filter(|form| args.measures(*form)) {
        for shape in SHAPES {
            cells.extend(bench.shape(form, shape, args)?);
        }
    }
    let result = json!({
        "tier": bench.tier.name(),
        "cpus": bench.together.cpus(),
        "kernels": bench.products.kernels().to_string(),
        "load": [load_before, load()],
        "slices": args.slices,
        "cells": cells.iter().map(Cell::render).collect::<Vec<_>>(),
    });
    writeln!(io::stdout(), "{result}").map_err(Error::Write)
}

// === impl Bench ===

impl Bench {
    fn new(tier: Option<Tier>) -> Result<Self, Error> {
        let alone = Team::new(Some(1)).map_err(Error::Threads)?;
        let together = Team::new(None).map_err(Error::Threads)?;
        let tier = tier.unwrap_or_else(Tier::best);
        Ok(Self {
            tier,
            alone,
            together,
            products: Products::new(tier),
            words: vec![1; COLD_BYTES / size_of::<u64>()],
        })
    }

    /// All numbers of rows of one shape.
    fn shape(
        &mut self,
        form: Form,
        (outputs, inputs): (usize, usize),
        args: &KernelArgs,
    ) -> Result<Vec<Cell>, Error> {
        // As many as the caches cannot hold, so that weights come from memory as in a model.
        let copies = COLD_BYTES.div_ceil(form.bytes(outputs, inputs));
        let matrices = (0..copies)
            .map(|_| pack(&mut self.together, form, (outputs, inputs)))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = ROWS.into_iter().filter(|rows| args.measures_rows(*rows));
        let cell = |rows| Cell {
            form,
            outputs,
            inputs,
            rows,
            slices: vec![],
            dropped: 0,
        };
        let mut cells: Vec<Cell> = rows.map(cell).collect();
        // Slices of one cell lie apart, so that a bad second is no cell's own.
        for _ in 0..args.slices {
            for cell in &mut cells {
                match self.slice(cell, &matrices) {
                    Some(slice) => cell.slices.push(slice),
                    None => cell.dropped += 1,
                }
            }
        }
        Ok(cells)
    }

    /// `None` where the host had given cores away.
    fn slice(&mut self, cell: &Cell, matrices: &[Matrix]) -> Option<Slice> {
        let (tier, words) = (self.tier, &self.words);
        let _pinned = self.together.pin_caller();
        let one = peak_ops_per_second(&mut self.alone, tier, cell.form, PROBE);
        let all = peak_ops_per_second(&mut self.together, tier, cell.form, PROBE);
        let read_bytes = read_bytes_per_second(&mut self.together, tier, words, PROBE);
        let products = self.products_per_second(cell, matrices);
        let (one, peak_ops) = (one.unwrap_or(f64::NAN), all.unwrap_or(f64::NAN));
        let fair = one * exact(self.together.worker_count()) * TOGETHER_MIN;
        // A tier without a peak has nothing to be dropped by.
        let is_away = peak_ops < fair;
        (!is_away).then_some(Slice {
            products,
            peak_ops,
            read_bytes,
        })
    }

    fn products_per_second(&mut self, cell: &Cell, matrices: &[Matrix]) -> f64 {
        let x = vec![0.5; cell.rows * cell.inputs];
        let mut out = vec![0.0; cell.rows * cell.outputs];
        let mut next = matrices.iter().cycle();
        let mut once = || {
            if let Some(matrix) = next.next() {
                self.products
                    .product(&mut self.together, matrix, &x, &mut out);
            }
        };
        // The first takes memory for the activations.
        once();
        let (started, mut count) = (Instant::now(), 0);
        while started.elapsed() < SLICE {
            once();
            count += 1;
        }
        exact(count) / started.elapsed().as_secs_f64()
    }
}

fn pack(
    team: &mut Team,
    form: Form,
    (outputs, inputs): (usize, usize),
) -> Result<Matrix, PackError<RowError>> {
    let values = vec![bf16::from_f32(0.5); inputs];
    let scale = f16::from_f32(0.25).to_le_bytes();
    let blocks = |code_bytes: usize, halves: usize| {
        let block: Vec<u8> = scale
            .repeat(halves)
            .into_iter()
            .chain(vec![0x35; code_bytes])
            .collect();
        block.repeat(inputs / BLOCK)
    };
    let (q8_0, q4_0, q4_1) = (blocks(32, 1), blocks(16, 1), blocks(16, 2));
    let write = |_: usize, row: &mut Row<'_>| match form {
        Form::Bf16 => row.write_bf16(values.iter().copied()),
        Form::Int8 => row.write_q8_0(&q8_0),
        Form::Int4 => row.write_q4_0(&q4_0),
        Form::Int4Min => row.write_q4_1(&q4_1),
    };
    Matrix::pack(form, (outputs, inputs), team, &write)
}

// === impl Cell ===

impl Cell {
    fn ops(&self) -> f64 {
        2.0 * exact(self.rows) * exact(self.outputs) * exact(self.inputs)
    }

    fn bytes(&self) -> f64 {
        exact(self.form.bytes(self.outputs, self.inputs))
    }

    fn render(&self) -> Value {
        let each = |figure: &dyn Fn(&Slice) -> f64| median(self.slices.iter().map(figure));
        let of_peak = |slice: &Slice| slice.products * self.ops() / slice.peak_ops;
        let of_read = |slice: &Slice| slice.products * self.bytes() / slice.read_bytes;
        json!({
            "form": self.form.name(),
            "outputs": self.outputs,
            "inputs": self.inputs,
            "rows": self.rows,
            "slices": self.slices.len(),
            "dropped": self.dropped,
            "ofPeak": each(&of_peak),
            "ofBandwidth": each(&of_read),
            "gigaOpsPerSecond": each(&|slice| slice.products * self.ops() / 1e9),
            "gigabytesPerSecond": each(&|slice| slice.products * self.bytes() / 1e9),
            "peakGigaOpsPerSecond": each(&|slice| slice.peak_ops / 1e9),
            "readGigabytesPerSecond": each(&|slice| slice.read_bytes / 1e9),
        })
    }
}

/// Rounded to a thousandth; absent where there is nothing, or no number.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2)?;
    Some((middle * 1e3).round() / 1e3)
}

/// Of the last minute, where the kernel tells.
fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and sizes far below 2^52"
)]
fn exact(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_a_middle_value_and_absent_without_any() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([f64::NAN, 0.12345].into_iter()), Some(0.123));
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn weights_of_every_form_are_packed() {
        let mut team = Team::new(Some(1)).unwrap();
        for form in FORMS {
            let matrix = pack(&mut team, form, (70, 64)).unwrap();
            let mut row = [0.0; 64];
            matrix.row(69, &mut row);
            assert!(row.iter().all(|value| *value != 0.0), "{form}");
        }
    }
}
