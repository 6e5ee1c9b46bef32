//! FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv), over texts and numbers: the same on every
//! machine, and in every build. Enough to tell things apart; nothing relies on it against an adversary.
//!
//! Numbers are taken in whole, not byte by byte: a record has thousands.

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// What was taken in so far.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(u64);

// === impl Fnv ===

impl Default for Fnv {
    fn default() -> Self {
        Self(BASIS)
    }
}

impl Fnv {
    /// Its length first, so that what follows is not taken for part of it.
    pub fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    /// In whole.
    pub fn number(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(PRIME);
        // A product's low bits know nothing of its high ones.
        self.0 = mixed ^ (mixed >> 32);
    }

    /// The hash of what was taken in.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.0
    }

    /// As they are, without their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        self.0 = bytes.iter().fold(self.0, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_in_as_fnv_1a_takes_them() {
        let mut hash = Fnv::default();
        hash.bytes(b"foobar");
        assert_eq!(
            hash.finish(),
            0x8594_4171_f739_67e8,
            "from the algorithm's own test vectors"
        );
    }

    #[test]
    fn texts_that_are_cut_elsewhere_are_told_apart() {
        let hash = |texts: [&str; 2]| {
            let mut hash = Fnv::default();
            texts.into_iter().for_each(|text| hash.text(text));
            hash.finish()
        };
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
    }
}
