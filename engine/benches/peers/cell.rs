//! What is measured.

/// One figure of both engines.
#[derive(Debug)]
pub(crate) struct Cell {
    /// On the command line and in the result.
    pub(crate) name: &'static str,
    pub(crate) phase: Phase,
    /// Sequences at a time.
    pub(crate) concurrency: usize,
    /// Prompt tokens of each.
    pub(crate) input_len: usize,
    /// Tokens that each gets.
    pub(crate) output_len: usize,
}

/// Which tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Prefill,
    Decode,
}

const fn decode(name: &'static str, concurrency: usize, input_len: usize) -> Cell {
    Cell {
        name,
        phase: Phase::Decode,
        concurrency,
        input_len,
        output_len: 64,
    }
}

pub(crate) const CELLS: [Cell; 4] = [
    Cell {
        name: "prefill-512",
        phase: Phase::Prefill,
        concurrency: 1,
        input_len: 512,
        output_len: 1,
    },
    decode("decode-1", 1, 16),
    decode("decode-8", 8, 128),
    decode("decode-16", 16, 128),
];
