//! What goes into a matrix comes out of it.

use half::{bf16, f16};

use super::*;

fn pack(
    form: Form,
    shape: (usize, usize),
    rows: &(dyn Fn(usize, &mut Row<'_>) -> Result<(), RowError> + Sync),
) -> Result<Matrix, PackError<RowError>> {
    Matrix::pack(form, shape, &mut Team::new(Some(2)).expect("threads"), rows)
}

fn row(matrix: &Matrix, output: usize) -> Vec<f32> {
    let mut row = vec![0.0; matrix.inputs()];
    matrix.row(output, &mut row);
    row
}

/// Bytes that differ from output to output.
fn noise(output: usize, len: usize) -> Vec<u8> {
    let byte = |index: usize| (output * 131 + index * 29 + index / 7) % 256;
    (0..len)
        .map(|index| u8::try_from(byte(index)).expect("a byte"))
        .collect()
}

/// A GGUF block with a scale and perhaps a minimum in front.
fn block(output: usize, halves: &[f32], code_bytes: usize) -> Vec<u8> {
    let halves = halves
        .iter()
        .flat_map(|half| f16::from_f32(*half).to_le_bytes());
    halves.chain(noise(output, code_bytes)).collect()
}

#[test]
fn bf16_values_come_back_to_the_bit_at_any_shape() {
    for (outputs, inputs) in [(1, 1), (64, 2), (65, 33), (130, 7)] {
        let value = |output: usize, input: usize| {
            bf16::from_bits(u16::try_from((output * 997 + input * 31) % 0x7f80).expect("16 bits"))
        };
        let matrix = pack(Form::Bf16, (outputs, inputs), &|output, row| {
            let values: Vec<bf16> = (0..inputs).map(|input| value(output, input)).collect();
            row.write_bf16(values.iter().copied())
        })
        .expect("packed");
        assert_eq!(matrix.bytes(), Form::Bf16.bytes(outputs, inputs));
        for output in 0..outputs {
            let expected: Vec<f32> = (0..inputs).map(|i| value(output, i).to_f32()).collect();
            assert_eq!(row(&matrix, output), expected);
        }
    }
}

#[test]
fn q8_0_blocks_keep_their_values() {
    let matrix = pack(Form::Int8, (70, 32), &|output, row| {
        row.write_q8_0(&block(output, &[0.25], 32))
    })
    .expect("packed");
    for output in 0..70 {
        let expected = noise(output, 32)
            .into_iter()
            .map(|code| 0.25 * f32::from(code.cast_signed()));
        assert_eq!(row(&matrix, output), expected.collect::<Vec<_>>());
    }
}

#[test]
fn q4_0_blocks_keep_their_values_in_4_and_in_8_bits() {
    for form in [Form::Int4, Form::Int8] {
        let matrix = pack(form, (3, 64), &|output, row| {
            let blocks = [block(output, &[-0.5], 16), block(output + 9, &[3.0], 16)];
            row.write_q4_0(&blocks.concat())
        })
        .expect("packed");
        for output in 0..3 {
            let expected = |output: usize, scale: f32, input: usize| {
                let byte = noise(output, 16)[input % 16];
                let code = if input < 16 { byte & 15 } else { byte >> 4 };
                scale * (f32::from(code) - 8.0)
            };
            let first = (0..32).map(|input| expected(output, -0.5, input));
            let all = first.chain((0..32).map(|input| expected(output + 9, 3.0, input)));
            assert_eq!(row(&matrix, output), all.collect::<Vec<_>>());
        }
    }
}

#[test]
fn q4_1_blocks_keep_their_values() {
    let matrix = pack(Form::Int4Min, (65, 32), &|output, row| {
        row.write_q4_1(&block(output, &[0.5, -2.75], 16))
    })
    .expect("packed");
    for output in [0, 31, 64] {
        let bytes = noise(output, 16);
        let codes = bytes.iter().map(|byte| byte & 15);
        let codes = codes.chain(bytes.iter().map(|byte| byte >> 4));
        let expected = codes.map(|code| 0.5 * f32::from(code) - 2.75);
        assert_eq!(row(&matrix, output), expected.collect::<Vec<_>>());
    }
}

#[test]
fn values_are_quantised_to_within_half_a_step() {
    let values: Vec<f32> = (0_u8..64)
        .map(|i| (f32::from(i) * 0.7).sin() * 3.0)
        .collect();
    for (form, step) in [
        (Form::Int8, 3.0 / 127.0),
        // The side without the 17th code has less room, hence a whole step.
        (Form::Int4, 2.0 * 3.0 / 8.0),
        (Form::Int4Min, 6.0 / 15.0),
    ] {
        let matrix = pack(form, (1, 64), &|_, row| row.write_f32(&values)).expect("packed");
        for (held, value) in row(&matrix, 0).into_iter().zip(&values) {
            let error = (held - value).abs();
            assert!(error <= step * 0.502, "{form}: {value} is held as {held}");
        }
    }
}

#[test]
fn a_block_of_zeros_is_held_as_zeros() {
    for form in [Form::Int8, Form::Int4, Form::Int4Min] {
        let matrix = pack(form, (1, 32), &|_, row| row.write_f32(&[0.0; 32])).expect("packed");
        assert!(row(&matrix, 0).iter().all(|value| *value == 0.0));
    }
}

#[test]
fn what_a_form_cannot_hold_is_refused_with_the_reason() {
    let error = pack(Form::Int8, (1, 33), &|_, _| Ok(())).expect_err("33 inputs");
    assert_eq!(
        error.to_string(),
        "int8 needs a multiple of 32 inputs, not 33"
    );
    let of_row = |form, write: &(dyn Fn(&mut Row<'_>) -> Result<(), RowError> + Sync)| match pack(
        form,
        (1, 32),
        &|_, row| write(row),
    )
    .expect_err("a row")
    {
        PackError::Row { output: 0, source } => source.to_string(),
        other => other.to_string(),
    };
    assert_eq!(
        of_row(Form::Int4, &|row| row.write_q8_0(&[0; 34])),
        "Q8_0 blocks cannot be held as int4"
    );
    assert_eq!(
        of_row(Form::Int8, &|row| row.write_q8_0(&[0; 68])),
        "64 values for a row of 32"
    );
    assert_eq!(
        of_row(Form::Int8, &|row| row.write_f32(&[f32::NAN; 32])),
        "the weights of block 0 cannot be held by codes and a scale in f16"
    );
    assert_eq!(
        of_row(Form::Int4, &|row| row.write_f32(&[1.0e9; 32])),
        "the weights of block 0 cannot be held by codes and a scale in f16"
    );
}

#[test]
fn of_several_rows_that_fail_the_first_is_named() {
    let error = pack(Form::Bf16, (300, 2), &|output, row| {
        let values = if output % 100 == 99 { 3 } else { 2 };
        row.write_f32(&[1.0; 3][..values])
    });
    let error = error.expect_err("rows of the wrong length");
    assert_eq!(error.to_string(), "packing output 99");
}
