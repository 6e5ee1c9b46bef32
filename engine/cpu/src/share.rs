//! How things in a row are shared out.

use std::ops::Range;

/// The `index`th of `count` shares of `total`, as even as they can be, larger ones first.
#[must_use]
pub fn share(total: usize, count: usize, index: usize) -> Range<usize> {
    let (least, more) = (total / count, total % count);
    let start = index * least + index.min(more);
    start..start + least + usize::from(index < more)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_cover_the_whole_in_order_and_differ_by_one_at_most(
            total in 1_usize..5_000,
            count in 1_usize..64,
        ) {
            let shares: Vec<_> = (0..count).map(|index| share(total, count, index)).collect();
            prop_assert_eq!(shares[0].start, 0);
            prop_assert_eq!(shares[count - 1].end, total);
            prop_assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = shares.iter().map(ExactSizeIterator::len);
            prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
