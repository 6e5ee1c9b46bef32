//! The CPU backend on a tiny model: equal to the bit however work is cut, and near the reference.

use berth_engine_core::batch::{SequenceId, TokenId};
use berth_engine_cpu::matrix::Form;
use half::f16;
use safetensors::Dtype;
use tempfile::TempDir;

use super::*;
use crate::collective::SharedMemory;
use crate::fit::CannotFit;
use crate::quantization::Quantization;
use crate::reference::ReferenceBackend;
use crate::source::Weight;
use crate::tiny::{self, Text, batch};

const CACHE: CacheShape = CacheShape {
    block_size: 4,
    block_count: 64,
};

/// How a run is computed.
#[derive(Clone, Copy, Debug)]
struct How {
    degree: usize,
    thread_count: usize,
    tier: Tier,
}

const ALONE: How = How {
    degree: 1,
    thread_count: 1,
    tier: Tier::Portable,
};

/// The tiny model in every form that there are kernels for; none is left where it is dropped.
fn sources() -> Vec<(&'static str, TempDir, ModelSource)> {
    let folder = |dtype| {
        let folder = tempfile::tempdir().unwrap();
        tiny::write_folder(folder.path(), dtype);
        let source = ModelSource::open(folder.path()).unwrap();
        (folder, source)
    };
    let gguf = |kind| {
        let folder = tempfile::tempdir().unwrap();
        let source = ModelSource::open(&tiny::write_quantised(folder.path(), kind)).unwrap();
        (folder, source)
    };
    let (bf16, q8_0, q4_0, q4_1) = (folder(Dtype::BF16), gguf(8), gguf(2), gguf(3));
    vec![
        ("bf16", bf16.0, bf16.1),
        ("Q8_0", q8_0.0, q8_0.1),
        ("Q4_0", q4_0.0, q4_0.1),
        ("Q4_1", q4_1.0, q4_1.1),
    ]
}

/// The tiny model in types that are repacked.
fn repacked() -> Vec<(&'static str, TempDir, ModelSource)> {
    let gguf = |name, kind: fn(&str) -> u32| {
        let folder = tempfile::tempdir().unwrap();
        let source = ModelSource::open(&tiny::write_mixed(folder.path(), kind)).unwrap();
        (name, folder, source)
    };
    vec![
        gguf("Q5_0", |_| 6),
        gguf("Q5_1", |_| 7),
        gguf("Q2_K", |_| 10),
        gguf("Q3_K", |_| 11),
        gguf("Q4_K", |_| 12),
        gguf("Q5_K", |_| 13),
        gguf("Q6_K", |_| 14),
        // As files of small models have it; then two that no form of codes holds together.
        gguf("Q5_0 with Q8_0", |name| {
            if name.contains("attn_v") { 8 } else { 6 }
        }),
        gguf("Q4_0 with Q4_1", |name| {
            if name.contains("attn_v") { 3 } else { 2 }
        }),
    ]
}

/// The tiny model in F16, quantised while it is loaded.
fn quantised_at_load() -> Vec<(&'static str, TempDir, ModelSource)> {
    let all = [
        ("F16 as int8", Quantization::Int8),
        ("F16 as int4", Quantization::Int4),
    ];
    let open = |(name, quantization)| {
        let folder = tempfile::tempdir().unwrap();
        let mut source = ModelSource::open(&tiny::write_quantised(folder.path(), 1)).unwrap();
        source.quantise(quantization);
        (name, folder, source)
    };
    all.map(open).into()
}

fn setup(cache: CacheShape, tier: Tier) -> Setup {
    let kernels = KernelChoice::Fixed(Kernels::of(tier));
    Setup { cache, kernels }
}

/// Runs the batches; what rank 0 sampled.
fn run(source: &ModelSource, how: How, batches: &[StepBatch]) -> Vec<Vec<Sampled>> {
    let How {
        degree,
        thread_count,
        tier,
    } = how;
    let setup = setup(CACHE, tier);
    on_ranks(degree, |shard, collective| {
        let seat = Seat::new(shard, collective);
        let mut backend =
            CpuBackend::load_on(source, seat, setup, thread_count, &mut |_| {}).unwrap();
        batches
            .iter()
            .map(|batch| backend.step(batch).unwrap())
            .collect()
    })
}

/// What rank 0 returns; the others return no samples.
fn on_ranks(
    degree: usize,
    rank: impl Fn(Shard, Arc<dyn Collective>) -> Vec<Vec<Sampled>> + Sync,
) -> Vec<Vec<Sampled>> {
    let collective: Arc<dyn Collective> = Arc::new(SharedMemory::new(degree));
    thread::scope(|scope| {
        let (rank, collective) = (&rank, &collective);
        let others: Vec<_> = (1..degree)
            .map(|other| {
                let shard = Shard {
                    rank: other,
                    degree,
                };
                scope.spawn(move || rank(shard, Arc::clone(collective)))
            })
            .collect();
        let samples = rank(Shard { rank: 0, degree }, Arc::clone(collective));
        for other in others {
            let samples = other.join().unwrap();
            assert!(samples.iter().all(Vec::is_empty), "only rank 0 samples");
        }
        samples
    })
}

/// The samples of the sequence with this id, by the number of its tokens computed.
fn of(samples: &[Vec<Sampled>], id: u64) -> Vec<Sampled> {
    let own = samples.iter().flatten();
    own.filter(|sampled| sampled.id == SequenceId(id))
        .cloned()
        .collect()
}

#[test]
fn every_tier_thread_count_and_chunk_size_gives_the_same_bits() {
    for (name, _folder, source) in sources().into_iter().chain(quantised_at_load()) {
        let text = Text::new(1, 45, (0..12).map(|block| block * 3));
        let one_by_one = of(&run(&source, ALONE, &text.in_chunks(1)), 1);
        assert!(one_by_one.iter().all(|sampled| sampled.logprob.is_finite()));
        let likeliest: Vec<TokenId> = one_by_one.iter().map(|sampled| sampled.token).collect();
        assert!(
            likeliest.windows(2).any(|pair| pair[0] != pair[1]),
            "{name}: {likeliest:?}"
        );
        for tier in Tier::here() {
            for (thread_count, chunk) in [(1, 7), (2, 45), (2, 1)] {
                let how = How {
                    thread_count,
                    tier,
                    ..ALONE
                };
                let found = of(&run(&source, how, &text.in_chunks(chunk)), 1);
                for (index, sampled) in found.iter().enumerate() {
                    let last = ((index + 1) * chunk).min(45) - 1;
                    assert_eq!(
                        *sampled, one_by_one[last],
                        "{name}, {how:?}, chunks of {chunk}"
                    );
                }
            }
        }
    }
}

#[test]
fn neighbours_scattered_blocks_shared_prefixes_and_a_second_start_change_nothing() {
    for (name, _folder, source) in sources() {
        let text = Text::new(1, 30, 0..8);
        let others = [Text::new(2, 9, 40..43), Text::new(3, 40, 50..60)];
        // The same tokens elsewhere, its first three blocks those of `text`; then all anew.
        let mut twin = Text::new(1, 30, [0, 1, 2, 33, 11, 37, 12, 39]);
        let mut again = Text::new(1, 30, [20, 9, 63, 13, 14, 22, 15, 25]);
        (twin.id, again.id) = (4, 5);
        let batches = [
            batch([others[0].rows(0..8), text.rows(0..16), others[1].rows(0..5)]),
            batch([others[1].rows(5..39), text.rows(16..29), twin.rows(12..29)]),
            batch([
                again.rows(0..29),
                others[0].rows(8..9),
                others[1].rows(39..40),
            ]),
            batch([again.rows(29..30), twin.rows(29..30), text.rows(29..30)]),
        ];
        let alone = of(&run(&source, ALONE, &text.in_chunks(30)), 1);
        for tier in Tier::here() {
            let how = How {
                thread_count: 2,
                tier,
                ..ALONE
            };
            let crowded = run(&source, how, &batches);
            for id in [1, 4, 5] {
                let found = Sampled {
                    id: SequenceId(1),
                    ..of(&crowded, id).last().unwrap().clone()
                };
                assert_eq!(found, alone[0], "{name}, {tier}, sequence {id}");
            }
        }
    }
}

#[test]
fn text_and_logprobs_are_the_same_with_hits_copies_preemptions_and_neighbours() {
    for (name, _folder, source) in sources() {
        let setup = setup(tiny::DRIVEN_CACHE, Tier::best());
        let backend = || -> Box<dyn Backend> {
            let collective: Arc<dyn Collective> = Arc::new(SharedMemory::new(1));
            let seat = Seat::new(Shard { rank: 0, degree: 1 }, collective);
            Box::new(CpuBackend::load_on(&source, seat, setup, 2, &mut |_| {}).unwrap())
        };
        tiny::check_driven(name, backend, 40);
    }
}

/// Log-probabilities of greedy tokens differ by this at most; measured: 0.06 in bf16, 0.07 in
/// the quantised forms.
const TOLERANCE: f32 = 0.15;

#[test]
fn logprobs_are_near_those_of_the_reference_at_every_number_of_ranks() {
    let int8 = quantised_at_load().swap_remove(0);
    for (name, _folder, source) in sources().into_iter().chain(repacked()).chain([int8]) {
        let text = Text::new(1, 40, 0..10);
        let expected = of(
            &on_ranks(1, |shard, collective| {
                let mut backend =
                    ReferenceBackend::load(&source, shard, CACHE, collective, &mut |_| {}).unwrap();
                let steps = text.in_chunks(1);
                steps
                    .iter()
                    .map(|batch| backend.step(batch).unwrap())
                    .collect()
            }),
            1,
        );
        let degrees = if name == "bf16" { 1..4 } else { 1..2 };
        for degree in degrees {
            let how = How { degree, ..ALONE };
            let found = of(&run(&source, how, &text.in_chunks(1)), 1);
            let mut same = 0;
            let mut worst = 0.0_f32;
            for (found, expected) in found.iter().zip(&expected) {
                worst = worst.max((found.logprob - expected.logprob).abs());
                same += usize::from(found.token == expected.token);
            }
            println!(
                "{name}, {degree} ranks: {same} of 40 tokens the same, logprob off by {worst}"
            );
            assert!(
                same >= 36 && worst <= TOLERANCE,
                "{name}, {degree} ranks: {same}, {worst}"
            );
        }
    }
}

#[test]
fn weights_are_held_in_as_few_bits_as_is_asked_for() {
    let forms = |source: &ModelSource| -> Vec<Form> {
        let held = serves(source, 1).unwrap();
        held.iter().map(|held| held.form).collect()
    };
    let mut quantised = quantised_at_load();
    let (int4, int8) = (quantised.swap_remove(1), quantised.swap_remove(0));
    assert_eq!(forms(&int8.2), [Form::Int8]);
    assert_eq!(forms(&int4.2), [Form::Int8, Form::Int4]);
    // What is quantised stays as it is.
    let (_, _folder, mut stored) = sources().swap_remove(3);
    let before = serves(&stored, 1).unwrap();
    stored.quantise(Quantization::Int4);
    assert_eq!(serves(&stored, 1).unwrap(), before);
}

#[test]
fn q5_0_keeps_its_values_in_eight_bits() {
    let folder = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&tiny::write_quantised(folder.path(), 6)).unwrap();
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for row in 0..101 {
        source
            .row_bytes(Weight::Embedding, row, &(0..64), &mut bytes)
            .unwrap();
        source
            .row_values(Weight::Embedding, row, &mut values)
            .unwrap();
        let repacked = load::q5_0_as_q8_0(&bytes);
        let decoded = repacked.chunks_exact(34).flat_map(|block| {
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            block[2..]
                .iter()
                .map(move |code| scale * f32::from(code.cast_signed()))
        });
        assert_eq!(decoded.collect::<Vec<f32>>(), values);
    }
}

#[test]
fn ranks_agree_with_one_in_every_family() {
    for model in families::Model::all() {
        let text = Text::new(1, 40, 0..10);
        let alone = of(&run(&model.source, ALONE, &text.in_chunks(5)), 1);
        for degree in 2..=model.source.config().kv_head_count {
            let how = How { degree, ..ALONE };
            let found = of(&run(&model.source, how, &text.in_chunks(5)), 1);
            assert_eq!(found.len(), alone.len());
            for (found, alone) in found.iter().zip(&alone) {
                let off = (found.logprob - alone.logprob).abs();
                assert!(off <= TOLERANCE / 2.0, "{}: off by {off}", model.name);
            }
        }
    }
}

#[test]
fn f32_and_f16_weights_are_rounded_to_bf16() {
    let text = Text::new(1, 12, 0..3);
    let results = [Dtype::F32, Dtype::F16, Dtype::BF16].map(|dtype| {
        let folder = tempfile::tempdir().unwrap();
        tiny::write_folder(folder.path(), dtype);
        let source = ModelSource::open(folder.path()).unwrap();
        run(&source, ALONE, &text.in_chunks(5))
    });
    assert_eq!(results[0], results[2]);
    assert_eq!(results[1], results[2]);
    // The tiny weights are exact in all three; this one is not.
    assert!(f16::from_f32(1.001).to_f32() > 1.0);
}

#[test]
fn a_batch_that_the_model_cannot_run_is_refused() {
    let (_, _folder, source) = sources().swap_remove(0);
    let shared: Arc<dyn Collective> = Arc::new(SharedMemory::new(1));
    let shard = Shard { rank: 0, degree: 1 };
    let setup = setup(CACHE, Tier::best());
    let mut backend = CpuBackend::load(&source, shard, setup, shared, &mut |_| {}).unwrap();
    let error = backend
        .step(&batch([Text::new(7, 5, [0, 64]).rows(0..5)]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "sequence SequenceId(7) of the batch: block 64 is not among the 64"
    );
    assert_eq!(backend.step(&StepBatch::default()).unwrap(), []);
}

#[test]
fn what_cannot_be_loaded_is_refused_with_its_reason() {
    let mut all = sources();
    let (_, _folder, quantised) = all.swap_remove(1);
    let refuse = |source: &ModelSource, shard, cache| {
        let shared: Arc<dyn Collective> = Arc::new(SharedMemory::new(1));
        let setup = setup(cache, Tier::Portable);
        CpuBackend::load(source, shard, setup, shared, &mut |_| {}).unwrap_err()
    };
    let one = Shard { rank: 0, degree: 1 };
    let four = refuse(&quantised, Shard { rank: 0, degree: 4 }, CACHE).to_string();
    assert!(
        four.ends_with("as rank 0 of 4: it can be cut into 1 to 3"),
        "{four}"
    );
    let endless = CacheShape {
        block_size: 1 << 16,
        block_count: u32::MAX as usize,
    };
    let large = refuse(&quantised, one, endless);
    assert!(
        matches!(large, LoadError::CannotFit(CannotFit::TooLarge { .. })),
        "{large}"
    );
}
