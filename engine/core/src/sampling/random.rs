//! Random numbers that are a function of (seed, counter): Philox4x32-10 (Salmon et al. 2011).
//!
//! Without state, so a token's number depends neither on the batch nor on a preemption.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUND_COUNT: usize = 10;

/// A number in `0.0..1.0`, uniform over the multiples of 2⁻⁵³.
pub(super) fn uniform(seed: u64, counter: u64) -> f64 {
    let [counter_low, counter_high] = halves(counter);
    let [a, b, ..] = philox([counter_low, counter_high, 0, 0], halves(seed));
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in f64")]
    let numerator = bits as f64;
    numerator / (1_u64 << 53) as f64
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUND_COUNT {
        let [low_0, high_0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let [low_1, high_1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [
            high_1 ^ counter[1] ^ key[0],
            low_1,
            high_0 ^ counter[3] ^ key[1],
            low_0,
        ];
        key = [
            key[0].wrapping_add(KEY_STEPS[0]),
            key[1].wrapping_add(KEY_STEPS[1]),
        ];
    }
    counter
}

/// Low, then high.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves are what is wanted"
)]
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' Random123 library (its `kat_vectors`).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn numbers_are_below_one_and_centred() {
        let numbers: Vec<f64> = (0..4096).map(|counter| uniform(7, counter)).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = numbers.iter().sum::<f64>() / 4096.0;
        assert!((mean - 0.5).abs() < 0.03, "mean {mean}");
    }
}
