//! Rows of matrices, worked on by a team.
#![allow(
    unsafe_code,
    reason = "workers write rows of one matrix, each of them by one alone"
)]

use crate::parts::Parts;
use crate::team::{Piece, Pieces, Stage, Team};

/// Calls `work` with each row of a row-major matrix and its number; each worker's own are
/// a run of rows. `width`: elements of a row.
///
/// # Panics
/// When the elements are not whole rows, or `work` panics.
pub fn each_row<T: Send>(
    team: &mut Team,
    elements: &mut [T],
    width: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let count = row_count(elements, width);
    let rows = Parts::of(elements);
    let one = |piece: Piece| {
        let row = piece.index;
        // SAFETY: each row is one piece.
        work(row, unsafe { rows.part(row * width..(row + 1) * width) });
    };
    team.run(&[Stage {
        pieces: Pieces::Even(count),
        work: &one,
    }]);
}

/// As [`each_row`], with the rows of two matrices, which are of the same number.
///
/// # Panics
/// As there, or when the numbers of rows differ.
pub fn each_pair_of_rows<T: Send, U: Send>(
    team: &mut Team,
    (first, first_width): (&mut [T], usize),
    (second, second_width): (&mut [U], usize),
    work: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    let count = row_count(first, first_width);
    assert_eq!(
        count,
        row_count(second, second_width),
        "as many rows in each"
    );
    let (first, second) = (Parts::of(first), Parts::of(second));
    let one = |piece: Piece| {
        let row = piece.index;
        // SAFETY: each row is one piece.
        let mine = unsafe { first.part(row * first_width..(row + 1) * first_width) };
        // SAFETY: as above.
        let other = unsafe { second.part(row * second_width..(row + 1) * second_width) };
        work(row, mine, other);
    };
    team.run(&[Stage {
        pieces: Pieces::Even(count),
        work: &one,
    }]);
}

fn row_count<T>(elements: &[T], width: usize) -> usize {
    assert!(
        width > 0 && elements.len().is_multiple_of(width),
        "whole rows of {width} elements"
    );
    elements.len() / width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_worked_on_once_whoever_has_it() {
        for worker_count in 1..4 {
            let mut team = Team::new(Some(worker_count)).unwrap();
            let (mut first, mut second) = (vec![0; 5 * 3], vec![0; 5]);
            each_row(&mut team, &mut first, 3, |row, elements| {
                elements.iter_mut().for_each(|element| *element += row);
            });
            let rows: Vec<usize> = (0..5).flat_map(|row| [row; 3]).collect();
            assert_eq!(first, rows);
            each_pair_of_rows(
                &mut team,
                (&mut first, 3),
                (&mut second, 1),
                |row, mine, other| {
                    mine[0] = 100;
                    other[0] = mine[2] * 10 + row;
                },
            );
            assert_eq!(second, [0, 11, 22, 33, 44]);
        }
    }
}
