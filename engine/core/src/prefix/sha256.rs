//! SHA-256 (FIPS 180-4): names cached blocks, so that nobody can make two texts share one.
//!
//! Our own, because this crate has no dependencies; a block of 32 tokens takes about a microsecond.

const BLOCK_BYTES: usize = 64;

/// Square roots of the first eight primes, 32 bits of the fraction.
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Cube roots of the first 64 primes, likewise.
#[rustfmt::skip]
const ROUNDS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// A digest being computed.
pub(super) struct Sha256 {
    state: [u32; 8],
    pending: [u8; BLOCK_BYTES],
    pending_count: usize,
    total_bytes: u64,
}

// === impl Sha256 ===

impl Sha256 {
    pub(super) fn new() -> Self {
        Self {
            state: START,
            pending: [0; BLOCK_BYTES],
            pending_count: 0,
            total_bytes: 0,
        }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let count = bytes.len().min(BLOCK_BYTES - self.pending_count);
            let (now, later) = bytes.split_at(count);
            self.pending[self.pending_count..][..count].copy_from_slice(now);
            self.pending_count += count;
            if self.pending_count == BLOCK_BYTES {
                compress(&mut self.state, &self.pending);
                self.pending_count = 0;
            }
            bytes = later;
        }
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        let total_bits = self.total_bytes * 8;
        // A one bit, zeros up to the end of a block but for its last eight bytes, the length.
        let end = [0x80].iter().chain([0; BLOCK_BYTES].iter());
        let used = (self.pending_count + 1) % BLOCK_BYTES;
        let zero_count = (2 * BLOCK_BYTES - 8 - used) % BLOCK_BYTES;
        let padding: Vec<u8> = end.take(1 + zero_count).copied().collect();
        self.update(&padding);
        self.update(&total_bits.to_be_bytes());
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

fn compress(state: &mut [u32; 8], block: &[u8; BLOCK_BYTES]) {
    let words = schedule(block);
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (word, constant) in words.iter().zip(ROUNDS) {
        let sum_1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let first = h
            .wrapping_add(sum_1)
            .wrapping_add(choice)
            .wrapping_add(constant)
            .wrapping_add(*word);
        let sum_0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let second = sum_0.wrapping_add(majority);
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    for (sum, part) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *sum = sum.wrapping_add(part);
    }
}

fn schedule(block: &[u8; BLOCK_BYTES]) -> [u32; 64] {
    let mut words = [0; 64];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for index in 16..64 {
        let (early, late) = (words[index - 15], words[index - 2]);
        let small_0 = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
        let small_1 = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
        words[index] = words[index - 16]
            .wrapping_add(small_0)
            .wrapping_add(words[index - 7])
            .wrapping_add(small_1);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(message: &[u8], piece_bytes: usize) -> String {
        let mut digest = Sha256::new();
        message
            .chunks(piece_bytes)
            .for_each(|piece| digest.update(piece));
        let digest = digest.finish();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// NIST's example values of FIPS 180-4.
    #[test]
    fn digests_are_the_published_ones() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(b"abc", 3), abc);
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(b"", 1), nothing);
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        let expected = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
        assert_eq!(hex(two_blocks, 56), expected);
        let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(hex(&[b'a'; 1_000_000], 999), million);
    }

    #[test]
    fn how_a_message_is_cut_does_not_matter() {
        let message: Vec<u8> = (0..200).collect();
        let whole = hex(&message, 200);
        for piece_bytes in 1..130 {
            assert_eq!(hex(&message, piece_bytes), whole);
        }
    }
}
