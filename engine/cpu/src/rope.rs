//! Rotary position embedding (Su et al. 2021): turns pairs of channels, which lie apart by half of
//! those that are turned; a head's later channels may be left as they are.

/// Cosines and sines of each row of a step.
#[derive(Clone, Debug, Default)]
pub struct Angles {
    pair_count: usize,
    magnitude: f32,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

// === impl Angles ===

impl Angles {
    /// For heads of which the first `pair_count` pairs are turned, and multiplied with
    /// `magnitude`; no rows yet.
    #[must_use]
    pub fn new(pair_count: usize, magnitude: f32) -> Self {
        Self {
            pair_count,
            magnitude,
            ..Self::default()
        }
    }

    /// Forgets all rows; their memory is used again.
    pub fn clear(&mut self) {
        self.cos.clear();
        self.sin.clear();
    }

    /// Adds a row whose pairs turn by these angles, radians.
    pub fn push(&mut self, angles: impl Iterator<Item = f32>) {
        for angle in angles.take(self.pair_count) {
            self.cos.push(angle.cos() * self.magnitude);
            self.sin.push(angle.sin() * self.magnitude);
        }
    }

    /// Writes the head `from` of row number `row`, turned and times `scale`, to `to`.
    #[inline(always)]
    pub(crate) fn turn(&self, row: usize, from: &[f32], scale: f32, to: &mut [f32]) {
        let half = self.pair_count;
        let (cos, sin) = (
            &self.cos[row * half..][..half],
            &self.sin[row * half..][..half],
        );
        let (turned, kept) = from.split_at(2 * half);
        let (to_turned, to_kept) = to.split_at_mut(2 * half);
        for (to, kept) in to_kept.iter_mut().zip(kept) {
            *to = kept * scale;
        }
        let (low, high) = turned.split_at(half);
        let (to_low, to_high) = to_turned.split_at_mut(half);
        let channels = low.iter().zip(high).zip(cos.iter().zip(sin));
        for (((a, b), (cos, sin)), (low, high)) in channels.zip(to_low.iter_mut().zip(to_high)) {
            *low = (a * cos - b * sin) * scale;
            *high = (b * cos + a * sin) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_half_a_head_apart_turn_by_their_row_s_angles() {
        let mut angles = Angles::new(2, 1.0);
        angles.push([9.0, 9.0].into_iter());
        angles.push([std::f32::consts::FRAC_PI_2, 0.0].into_iter());
        let mut head = [0.0; 4];
        angles.turn(1, &[1.0, 2.0, 3.0, 4.0], 2.0, &mut head);
        let expected = [-6.0, 4.0, 2.0, 8.0];
        for (found, expected) in head.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{head:?}");
        }
        angles.clear();
        angles.push([0.0, 0.0].into_iter());
        angles.turn(0, &[1.0, 2.0, 3.0, 4.0], 1.0, &mut head);
        assert_eq!(head, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn later_channels_are_kept_and_turned_ones_are_magnified() {
        let mut angles = Angles::new(1, 1.5);
        angles.push([0.0].into_iter());
        let mut head = [0.0; 4];
        angles.turn(0, &[1.0, 2.0, 3.0, 4.0], 2.0, &mut head);
        assert_eq!(head, [3.0, 6.0, 6.0, 8.0]);
    }
}
