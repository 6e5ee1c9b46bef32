//! Kernels against a naive oracle and against each other, to the bit.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::matrix::BLOCK;

const FORMS: [Form; 4] = [Form::Bf16, Form::Int8, Form::Int4, Form::Int4Min];

/// One product: what is multiplied.
#[derive(Clone, Debug)]
struct Case {
    form: Form,
    rows: usize,
    outputs: usize,
    inputs: usize,
    seed: u64,
    kind: Kind,
    chunk_bytes: usize,
}

/// Where numbers come from.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// As in models.
    Plain,
    /// So small that scales in f16 are denormal.
    Tiny,
    /// Any exponent: denormals, zeros, products that overflow and underflow.
    Wild,
}

/// Numbers from a seed (splitmix64, as the engine's sampler).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ z >> 31) >> 32).expect("32 bits")
    }

    fn value(&mut self, kind: Kind) -> f32 {
        let bits = self.next();
        match kind {
            Kind::Plain => f32::from_bits(0x3f80_0000 | bits >> 9) * 2.0 - 3.0,
            Kind::Tiny => self.value(Kind::Plain) * 1.0e-4,
            Kind::Wild if bits.is_multiple_of(9) => 0.0,
            Kind::Wild => {
                // Of one exponent in 13 either side of where products leave the normal range.
                let exponent =
                    [1, 40, 60, 63, 64, 65, 100, 127, 150, 188, 190, 192][bits as usize % 12];
                f32::from_bits(bits & 0x807f_ffff | exponent << 23)
            }
        }
    }
}

impl Case {
    fn x(&self) -> Vec<f32> {
        let mut numbers = Numbers(self.seed);
        let len = self.rows * self.inputs;
        (0..len).map(|_| numbers.value(self.kind)).collect()
    }

    fn weights(&self, output: usize) -> Vec<f32> {
        let mut numbers = Numbers(self.seed ^ (output as u64 + 1) << 32);
        let kind = match self.kind {
            // A scale in f16 cannot be that great.
            Kind::Wild if self.form != Form::Bf16 => Kind::Tiny,
            kind => kind,
        };
        (0..self.inputs).map(|_| numbers.value(kind)).collect()
    }

    fn pack(&self, team: &mut Team) -> Matrix {
        let shape = (self.outputs, self.inputs);
        Matrix::pack(self.form, shape, team, &|output, row| {
            row.write_f32(&self.weights(output))
        })
        .expect("packed")
    }

    fn run(&self, tier: Tier, workers: usize) -> Vec<u32> {
        let mut team = Team::new(Some(workers)).expect("threads");
        let matrix = self.pack(&mut team);
        let mut out = vec![f32::NAN; self.rows * self.outputs];
        let tuning = Tuning {
            chunk_bytes: self.chunk_bytes,
            ahead_bytes: self.chunk_bytes % 7 * 64,
        };
        let kernels = Kernels {
            tuning,
            ..Kernels::of(tier)
        };
        Products::with(kernels).product(&mut team, &matrix, &self.x(), &mut out);
        bits(&out)
    }

    /// The arithmetic of the module's documentation, one output at a time.
    fn oracle(&self) -> Vec<u32> {
        let mut team = Team::new(Some(1)).expect("threads");
        let matrix = self.pack(&mut team);
        let x = self.x();
        let mut out = vec![0.0; self.rows * self.outputs];
        for (row, out) in out.chunks_exact_mut(self.outputs).enumerate() {
            let x = &x[row * self.inputs..(row + 1) * self.inputs];
            for (output, out) in out.iter_mut().enumerate() {
                let mut weights = vec![0.0; self.inputs];
                matrix.row(output, &mut weights);
                *out = if self.form == Form::Bf16 {
                    dot_bf16(x, &weights)
                } else {
                    dot_codes(self.form, x, &self.weights(output), &weights)
                };
            }
        }
        bits(&out)
    }
}

/// NaNs are all alike.
fn bits(values: &[f32]) -> Vec<u32> {
    let one = |value: &f32| {
        if value.is_nan() {
            f32::NAN.to_bits()
        } else {
            value.to_bits()
        }
    };
    values.iter().map(one).collect()
}

/// Denormals are zero, with their sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() {
        0.0_f32.copysign(x)
    } else {
        x
    }
}

fn dot_bf16(x: &[f32], weights: &[f32]) -> f32 {
    let mut sum = 0.0_f32;
    for pair in 0..x.len().div_ceil(2) {
        for input in [pair * 2 + 1, pair * 2] {
            let x = x
                .get(input)
                .map_or(0.0, |x| half::bf16::from_f32(*x).to_f32());
            let w = weights.get(input).copied().unwrap_or(0.0);
            sum = flush(flush(x).mul_add(flush(w), sum));
        }
    }
    sum
}

/// `held` are `weights` as the matrix gives them back.
fn dot_codes(form: Form, x: &[f32], weights: &[f32], held: &[f32]) -> f32 {
    let mut sum = 0.0_f32;
    for block in 0..x.len() / BLOCK {
        let at = block * BLOCK..(block + 1) * BLOCK;
        let (x, weights, held) = (&x[at.clone()], &weights[at.clone()], &held[at]);
        let greatest = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let is_zero = greatest < 2.0_f32.powi(-110);
        let scale_x = if is_zero { 0.0 } else { greatest / 127.0 };
        let inverse = if is_zero { 0.0 } else { 127.0 / greatest };
        let codes_x: Vec<f32> = x.iter().map(|x| (x * inverse).round_ties_even()).collect();
        let (scale_w, minimum) = scale_of(form, weights);
        let dot = held.iter().zip(&codes_x).map(|(held, x)| {
            let code = if scale_w == 0.0 {
                0.0
            } else {
                ((held - minimum) / scale_w).round()
            };
            code * x
        });
        sum = dot.sum::<f32>().mul_add(scale_x * scale_w, sum);
        if form == Form::Int4Min {
            sum = minimum.mul_add(scale_x * codes_x.iter().sum::<f32>(), sum);
        }
    }
    sum
}

/// As `Row::write_f32` chooses them.
fn scale_of(form: Form, weights: &[f32]) -> (f32, f32) {
    let far = |a: f32, b: &f32| if b.abs() > a.abs() { *b } else { a };
    let farthest = weights.iter().fold(0.0, far);
    let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (scale, minimum) = match form {
        Form::Int8 => (farthest.abs() / 127.0, 0.0),
        Form::Int4 => (farthest / -8.0, 0.0),
        Form::Int4Min | Form::Bf16 => ((high - low) / 15.0, low),
    };
    (
        f16::from_f32(scale).to_f32(),
        f16::from_f32(minimum).to_f32(),
    )
}

fn case() -> impl Strategy<Value = Case> {
    let form = prop::sample::select(&FORMS);
    let kind = prop::sample::select(&[Kind::Plain, Kind::Tiny, Kind::Wild]);
    let chunk_bytes = prop::sample::select(&[1, 5000, 1 << 20]);
    (
        form,
        1..20_usize,
        1..200_usize,
        1..100_usize,
        (any::<u64>(), kind, chunk_bytes),
    )
        .prop_map(
            |(form, rows, outputs, inputs, (seed, kind, chunk_bytes))| Case {
                form,
                rows,
                outputs,
                inputs: if form == Form::Bf16 {
                    inputs
                } else {
                    inputs.div_ceil(16) * BLOCK
                },
                seed,
                kind,
                chunk_bytes,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever the shape, the tier and the number of threads, each output is the oracle's.
    #[test]
    fn every_tier_gives_the_oracles_bits(case in case()) {
        let expected = case.oracle();
        for tier in Tier::here() {
            for workers in [1, 3] {
                let got = case.run(tier, workers);
                let wrong = got.iter().zip(&expected).position(|(got, right)| got != right);
                prop_assert_eq!(wrong, None, "{} with {} workers", tier, workers);
            }
        }
    }

    /// A row's bits do not depend on which rows are computed with it.
    #[test]
    fn a_row_alone_has_the_bits_that_it_has_among_others(case in case()) {
        for tier in Tier::here() {
            let mut team = Team::new(Some(1)).expect("threads");
            let matrix = case.pack(&mut team);
            let mut products = Products::new(tier);
            let x = case.x();
            let mut together = vec![0.0; case.rows * case.outputs];
            products.product(&mut team, &matrix, &x, &mut together);
            for row in 0..case.rows {
                let mut alone = vec![0.0; case.outputs];
                let x = &x[row * case.inputs..(row + 1) * case.inputs];
                products.product(&mut team, &matrix, x, &mut alone);
                let of_row = &together[row * case.outputs..(row + 1) * case.outputs];
                prop_assert_eq!(bits(&alone), bits(of_row), "row {} on {}", row, tier);
            }
        }
    }
}

#[test]
fn a_value_that_is_not_a_number_spoils_its_own_row_only() {
    for form in FORMS {
        for tier in Tier::here() {
            let mut team = Team::new(Some(1)).expect("threads");
            let matrix = Matrix::pack(form, (5, 32), &mut team, &|_, row| {
                row.write_f32(&[1.0; 32])
            })
            .expect("packed");
            let mut x = vec![1.0; 64];
            x[40] = f32::NAN;
            let mut out = vec![0.0; 10];
            Products::new(tier).product(&mut team, &matrix, &x, &mut out);
            assert!(
                out[..5].iter().all(|value| value.is_finite()),
                "{form} {tier}"
            );
            assert!(out[5..].iter().all(|value| value.is_nan()), "{form} {tier}");
        }
    }
}

#[test]
fn no_rows_and_no_outputs_are_no_work() {
    let mut team = Team::new(Some(2)).expect("threads");
    for (outputs, x) in [(3, vec![]), (0, vec![1.0; 4])] {
        let matrix = Matrix::pack(Form::Bf16, (outputs, 4), &mut team, &|_, row| {
            row.write_f32(&[1.0; 4])
        })
        .expect("packed");
        Products::new(Tier::best()).product(&mut team, &matrix, &x, &mut []);
    }
}
