//! Tiny models of every family: near what Hugging Face transformers says, and the same bits
//! however work is cut.
//!
//! `tests/golden/make_families.py` made what is expected. A golden file has a model's config, the
//! names and shapes of its tensors, prompts with the greedy tokens after them, and some logits;
//! weights are made here as they were made there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use berth_engine_core::batch::{BlockId, StepSequence, TokenId};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use tempfile::TempDir;

use super::*;
use crate::collective::SharedMemory;
use crate::tiny;
use gguf::AsGguf;

mod gguf;

const GOLDENS: [(&str, &str); 13] = [
    (
        "llama3",
        include_str!("../../tests/golden/families/llama3.json"),
    ),
    (
        "mistral",
        include_str!("../../tests/golden/families/mistral.json"),
    ),
    (
        "qwen2",
        include_str!("../../tests/golden/families/qwen2.json"),
    ),
    (
        "qwen2-yarn",
        include_str!("../../tests/golden/families/qwen2-yarn.json"),
    ),
    (
        "qwen3",
        include_str!("../../tests/golden/families/qwen3.json"),
    ),
    (
        "gemma2",
        include_str!("../../tests/golden/families/gemma2.json"),
    ),
    (
        "gemma3",
        include_str!("../../tests/golden/families/gemma3.json"),
    ),
    (
        "phi3",
        include_str!("../../tests/golden/families/phi3.json"),
    ),
    (
        "phi3-short",
        include_str!("../../tests/golden/families/phi3-short.json"),
    ),
    (
        "phi3-long",
        include_str!("../../tests/golden/families/phi3-long.json"),
    ),
    (
        "mixtral",
        include_str!("../../tests/golden/families/mixtral.json"),
    ),
    (
        "qwen3moe",
        include_str!("../../tests/golden/families/qwen3moe.json"),
    ),
    (
        "qwen3moe-mixed",
        include_str!("../../tests/golden/families/qwen3moe-mixed.json"),
    ),
];

/// Logits in bf16 differ from those in f32 by this part of their spread at most: weights are
/// exact, activations, keys and values are rounded.
const TOLERANCE: f32 = 0.1;
/// The same where transformers rounds as the CPU backend does: what is left is the order of sums,
/// and the rounding of values that lie between two.
const TOLERANCE_ROUNDED: f32 = 0.01;

const CACHE: CacheShape = CacheShape {
    block_size: 16,
    block_count: 8,
};

#[derive(Deserialize)]
struct Golden {
    config: serde_json::Value,
    tensors: BTreeMap<String, Vec<usize>>,
    /// Where GGUF knows the family.
    gguf: Option<AsGguf>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: Vec<TokenId>,
    tokens: Vec<TokenId>,
    /// In f32, by position, of the first case only.
    #[serde(default)]
    logits: BTreeMap<usize, Vec<f32>>,
    /// With activations, keys and values rounded to bf16.
    #[serde(default)]
    rounded: BTreeMap<usize, Vec<f32>>,
}

/// A golden model on disk, which goes with its folder.
pub(super) struct Model {
    pub(super) name: &'static str,
    cases: Vec<Case>,
    pub(super) source: ModelSource,
    _folder: TempDir,
}

/// A rank that is fed tokens.
struct Reader {
    backend: CpuBackend,
    read: usize,
}

// === impl Model ===

impl Model {
    fn open((name, json): (&'static str, &str)) -> Self {
        let golden: Golden = serde_json::from_str(json).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self {
            name,
            source: golden.source(folder.path()),
            cases: golden.cases,
            _folder: folder,
        }
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        GOLDENS.into_iter().map(Self::open)
    }
}

// === impl Golden ===

impl Golden {
    /// The model, written to a folder.
    fn source(&self, folder: &Path) -> ModelSource {
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        write_tensors(folder, self);
        ModelSource::open(folder).unwrap()
    }

    /// What a tensor's elements lie around, and how far: `spread` of the script.
    fn spread(&self, name: &str, shape: &[usize]) -> (f32, f32) {
        let is = |field: &str| self.config[field].as_bool().unwrap_or(false);
        let is_gemma = self.config["model_type"]
            .as_str()
            .unwrap()
            .starts_with("gemma");
        if name.ends_with("norm.weight") {
            return (if is_gemma { 0.0 } else { 1.0 }, 1.0);
        }
        if is("tie_word_embeddings") && name.contains("embed_tokens") {
            return (0.0, 0.25);
        }
        let is_wide = ["embed_tokens", "lm_head"]
            .iter()
            .any(|part| name.contains(part));
        let is_wide = is_wide || name.ends_with("gate.weight") || shape.len() == 1;
        (0.0, if is_wide { 1.0 } else { 0.5 })
    }

    /// `elements` of the script.
    fn elements(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let (around, scale) = self.spread(name, shape);
        let mut state = name.bytes().fold(2_166_136_261_u32, |state, byte| {
            (state ^ u32::from(byte)).wrapping_mul(16_777_619)
        });
        (0..shape.iter().product())
            .map(|_| around + tiny::random(&mut state) * scale)
            .collect()
    }
}

fn write_tensors(folder: &Path, golden: &Golden) {
    let encoded: Vec<_> = golden
        .tensors
        .iter()
        .map(|(name, shape)| {
            let bytes = tiny::encode(&golden.elements(name, shape), Dtype::BF16);
            (name, shape, bytes)
        })
        .collect();
    let views = encoded.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::BF16, (*shape).clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

// === impl Reader ===

impl Reader {
    fn new(source: &ModelSource, tier: Tier, thread_count: usize) -> Self {
        let shard = Shard { rank: 0, degree: 1 };
        let seat = Seat::new(shard, Arc::new(SharedMemory::new(1)));
        let kernels = KernelChoice::Fixed(Kernels::of(tier));
        let setup = Setup {
            cache: CACHE,
            kernels,
        };
        let backend = CpuBackend::load_on(source, seat, setup, thread_count, &mut |_| {});
        Self {
            backend: backend.unwrap(),
            read: 0,
        }
    }

    /// Logits of each of these tokens, which come after those read.
    fn read(&mut self, tokens: &[TokenId]) -> Vec<Vec<f32>> {
        let step = [StepSequence {
            id: SequenceId(1),
            tokens: tokens.to_vec(),
            first_position: self.read,
            blocks: [5, 0, 3, 7, 1].map(BlockId).to_vec(),
            sample: None,
        }];
        let CpuBackend {
            decoder,
            machine,
            seat,
            vocab_size,
            ..
        } = &mut self.backend;
        let _pinned = machine.team.pin_caller();
        decoder.forward(&step, machine, seat).unwrap();
        let rows: Vec<usize> = (0..tokens.len()).collect();
        decoder.logits(&rows, machine);
        self.read += tokens.len();
        let logits = machine.logits_mut().1;
        logits
            .chunks_exact(*vocab_size)
            .map(<[f32]>::to_vec)
            .collect()
    }

    /// Logits of all tokens, read so many at a time.
    fn read_in_chunks(&mut self, tokens: &[TokenId], chunk: usize) -> Vec<Vec<f32>> {
        tokens
            .chunks(chunk)
            .flat_map(|some| self.read(some))
            .collect()
    }
}

fn best(logits: &[f32]) -> TokenId {
    let best = (0..).zip(logits).max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.unwrap().0
}

/// Standard deviation.
fn spread(values: &[f32]) -> f32 {
    let count = f32::from(u16::try_from(values.len()).unwrap());
    let mean = values.iter().sum::<f32>() / count;
    (values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f32>()
        / count)
        .sqrt()
}

/// How far logits are from those expected at some positions, as a part of their spread.
fn distance(logits: &[Vec<f32>], expected: &BTreeMap<usize, Vec<f32>>) -> f32 {
    let of_row = |(position, expected): (&usize, &Vec<f32>)| {
        let pairs = logits[*position].iter().zip(expected);
        let worst = pairs.fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
        worst / spread(expected)
    };
    expected.iter().map(of_row).fold(0.0, f32::max)
}

#[test]
fn logits_are_near_those_of_transformers() {
    let mut is_near = true;
    for model in Model::all() {
        let case = &model.cases[0];
        assert!(case.logits.len() == 2 && case.rounded.len() == 2);
        let mut reader = Reader::new(&model.source, Tier::best(), 2);
        let logits = reader.read_in_chunks(&case.prompt, 11);
        let plain = distance(&logits, &case.logits);
        let rounded = distance(&logits, &case.rounded);
        println!("{}: off by {plain:.4}, rounded {rounded:.5}", model.name);
        is_near &= plain <= TOLERANCE && rounded <= TOLERANCE_ROUNDED;
    }
    assert!(is_near, "one of these is off by more than it may");
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for model in Model::all() {
        for case in &model.cases {
            let mut reader = Reader::new(&model.source, Tier::best(), 2);
            let mut logits = reader.read_in_chunks(&case.prompt, 11);
            let mut tokens = Vec::new();
            for _ in 0..case.tokens.len() {
                let next = best(logits.last().unwrap());
                tokens.push(next);
                logits = reader.read(&[next]);
            }
            assert_eq!(
                tokens, case.tokens,
                "{}: after {:?}",
                model.name, case.prompt
            );
        }
    }
}

#[test]
fn every_tier_thread_count_and_chunk_size_gives_the_same_bits_in_every_family() {
    for model in Model::all() {
        let prompt = &model.cases[0].prompt;
        let whole = Reader::new(&model.source, Tier::Portable, 1).read_in_chunks(prompt, 64);
        for (tier, (thread_count, chunk)) in
            Tier::here()
                .into_iter()
                .zip([(2, 1), (1, 7), (2, 13), (1, 5), (2, 3)])
        {
            let mut reader = Reader::new(&model.source, tier, thread_count);
            let cut = reader.read_in_chunks(prompt, chunk);
            assert!(cut == whole, "{}: {tier} in chunks of {chunk}", model.name);
        }
    }
}
