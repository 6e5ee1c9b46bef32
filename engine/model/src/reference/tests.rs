//! The reference backend on a tiny model: equal to the bit, however it is cut, batched or ranked.

use std::sync::Mutex;

use berth_engine_core::batch::SequenceId;
use safetensors::Dtype;
use tempfile::TempDir;

use super::memory::need_of_rank;
use super::*;
use crate::collective::SharedMemory;
use crate::fit::CannotFit;
use crate::tiny::{self, Text, batch};

const CACHE: CacheShape = CacheShape {
    block_size: 4,
    block_count: 32,
};

fn folder() -> (TempDir, ModelSource) {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), Dtype::F32);
    let source = ModelSource::open(folder.path()).unwrap();
    (folder, source)
}

/// Runs the batches on `degree` ranks with `thread_count` workers each; what rank 0 sampled.
fn run(
    source: &ModelSource,
    degree: usize,
    thread_count: usize,
    batches: &[StepBatch],
) -> Vec<Vec<Sampled>> {
    let collective: Arc<dyn Collective> = Arc::new(SharedMemory::new(degree));
    let rank = |rank| {
        let seat = Seat::new(Shard { rank, degree }, Arc::clone(&collective));
        let mut backend =
            ReferenceBackend::load_on(source, seat, CACHE, thread_count, &mut |_| {}).unwrap();
        batches
            .iter()
            .map(|batch| backend.step(batch).unwrap())
            .collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let rank = &rank;
        let others: Vec<_> = (1..degree)
            .map(|other| scope.spawn(move || rank(other)))
            .collect();
        let samples = rank(0);
        for other in others {
            assert!(
                other.join().unwrap().iter().all(Vec::is_empty),
                "only rank 0 samples"
            );
        }
        samples
    })
}

#[test]
fn text_and_logprobs_are_the_same_with_hits_copies_preemptions_and_neighbours() {
    let (_folder, source) = folder();
    let backend = || -> Box<dyn Backend> {
        let collective: Arc<dyn Collective> = Arc::new(SharedMemory::new(1));
        let seat = Seat::new(Shard { rank: 0, degree: 1 }, collective);
        let cache = tiny::DRIVEN_CACHE;
        Box::new(ReferenceBackend::load_on(&source, seat, cache, 2, &mut |_| {}).unwrap())
    };
    tiny::check_driven("reference", backend, 14);
}

/// The last step's sample of the sequence with this id.
#[track_caller]
fn last(samples: &[Vec<Sampled>], id: u64) -> Sampled {
    let step = samples.last().unwrap();
    step.iter()
        .find(|sampled| sampled.id == SequenceId(id))
        .unwrap()
        .clone()
}

#[test]
fn every_number_of_ranks_and_threads_gives_the_same_bits() {
    let (_folder, source) = folder();
    let text = Text::new(1, 23, 0..6);
    let steps = [
        batch([text.rows(0..20)]),
        batch([text.rows(20..21)]),
        batch([text.rows(21..23)]),
    ];
    let alone = run(&source, 1, 1, &steps);
    assert!(
        alone
            .iter()
            .flatten()
            .all(|sampled| sampled.logprob.is_finite())
    );
    for (degree, thread_count) in [(1, 3), (2, 1), (2, 2), (3, 1)] {
        assert_eq!(
            run(&source, degree, thread_count, &steps),
            alone,
            "{degree} ranks"
        );
    }
}

#[test]
fn a_prefill_in_chunks_gives_the_bits_of_the_whole() {
    let (_folder, source) = folder();
    let text = Text::new(1, 19, 0..5);
    let whole = last(&run(&source, 1, 1, &[batch([text.rows(0..19)])]), 1);
    for cuts in [vec![0, 1, 19], vec![0, 4, 8, 19], vec![0, 7, 13, 18, 19]] {
        let steps: Vec<_> = cuts
            .windows(2)
            .map(|pair| batch([text.rows(pair[0]..pair[1])]))
            .collect();
        assert_eq!(
            last(&run(&source, 1, 1, &steps), 1),
            whole,
            "cut at {cuts:?}"
        );
    }
}

#[test]
fn scattered_blocks_give_the_bits_of_contiguous_ones() {
    let (_folder, source) = folder();
    let contiguous = Text::new(1, 18, 0..5);
    let scattered = Text::new(1, 18, [30, 2, 17, 5, 11]);
    let steps = |text: &Text| [batch([text.rows(0..11)]), batch([text.rows(11..18)])];
    assert_eq!(
        run(&source, 1, 1, &steps(&scattered)),
        run(&source, 1, 1, &steps(&contiguous)),
    );
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    let (_folder, source) = folder();
    let text = Text::new(1, 17, [3, 9, 12, 14, 15]);
    let others = [Text::new(2, 9, [0, 1, 2]), Text::new(3, 12, [4, 5, 6])];
    let alone = last(
        &run(
            &source,
            1,
            1,
            &[batch([text.rows(0..16)]), batch([text.rows(16..17)])],
        ),
        1,
    );
    let crowded = [
        batch([others[0].rows(0..8), text.rows(0..16), others[1].rows(0..5)]),
        batch([
            others[1].rows(5..12),
            others[0].rows(8..9),
            text.rows(16..17),
        ]),
    ];
    for degree in 1..=3 {
        assert_eq!(last(&run(&source, degree, 1, &crowded), 1), alone);
    }
}

#[test]
fn all_stored_types_and_both_formats_give_the_same_bits() {
    let (_folder, source) = folder();
    let text = Text::new(1, 12, 0..3);
    let steps = [batch([text.rows(0..11)]), batch([text.rows(11..12)])];
    let expected = run(&source, 1, 1, &steps);
    for dtype in [Dtype::F16, Dtype::BF16] {
        let folder = tempfile::tempdir().unwrap();
        tiny::write_folder(folder.path(), dtype);
        let source = ModelSource::open(folder.path()).unwrap();
        assert_eq!(run(&source, 1, 1, &steps), expected, "{dtype:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let gguf = ModelSource::open(&tiny::write_gguf(folder.path())).unwrap();
    assert_eq!(run(&gguf, 2, 1, &steps), expected, "GGUF");
}

#[test]
fn a_batch_that_the_model_cannot_run_is_refused() {
    let (_folder, source) = folder();
    let shared: Arc<dyn Collective> = Arc::new(SharedMemory::new(1));
    let shard = Shard { rank: 0, degree: 1 };
    let mut backend = ReferenceBackend::load(&source, shard, CACHE, shared, &mut |_| {}).unwrap();
    let mut check = |text: Text, positions, expected: &str| {
        let error = backend.step(&batch([text.rows(positions)])).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("sequence SequenceId(7) of the batch: {expected}")
        );
    };
    let mut strange = Text::new(7, 3, 0..1);
    strange.tokens[1] = 101;
    check(strange, 0..3, "token 101 is not among the 101 of the model");
    check(
        Text::new(7, 5, 0..1),
        0..5,
        "its 1 blocks do not cover its positions",
    );
    check(
        Text::new(7, 5, [0, 32]),
        0..5,
        "block 32 is not among the 32",
    );
    check(Text::new(7, 5, [0, 1]), 0..0, "has no tokens");
}

#[test]
fn loading_reports_progress_up_to_what_was_announced() {
    let (_folder, source) = folder();
    let seen = Mutex::new(Vec::new());
    let shared: Arc<dyn Collective> = Arc::new(SharedMemory::new(1));
    let shard = Shard { rank: 0, degree: 1 };
    let mut progress = |progress| seen.lock().unwrap().push(progress);
    ReferenceBackend::load(&source, shard, CACHE, shared, &mut progress).unwrap();
    let seen = seen.into_inner().unwrap();
    let need = need_of_rank(source.config(), shard, CACHE);
    assert!(
        seen.windows(2)
            .all(|pair| pair[0].done_bytes < pair[1].done_bytes)
    );
    let end = LoadProgress {
        done_bytes: need.weight_bytes,
        total_bytes: need.weight_bytes,
    };
    assert_eq!(seen.last(), Some(&end));
}

#[test]
fn what_cannot_be_loaded_is_refused_with_its_reason() {
    let (_folder, source) = folder();
    let refuse = |shard, cache| {
        let shared: Arc<dyn Collective> = Arc::new(SharedMemory::new(1));
        ReferenceBackend::load(&source, shard, cache, shared, &mut |_| {}).unwrap_err()
    };
    let four = refuse(Shard { rank: 0, degree: 4 }, CACHE).to_string();
    assert!(
        four.ends_with("as rank 0 of 4: it can be cut into 1 to 3"),
        "{four}"
    );
    let empty = CacheShape {
        block_size: 0,
        block_count: 1,
    };
    assert!(matches!(
        refuse(Shard { rank: 0, degree: 1 }, empty),
        LoadError::CannotFit(CannotFit::Cache { .. })
    ));
    let endless = CacheShape {
        block_size: 1 << 16,
        block_count: u32::MAX as usize,
    };
    let large = refuse(Shard { rank: 0, degree: 1 }, endless);
    assert!(
        matches!(large, LoadError::CannotFit(CannotFit::TooLarge { .. })),
        "{large}"
    );
}

#[test]
fn a_rank_that_fails_to_load_fails_its_peers_at_once() {
    let (_folder, source) = folder();
    let shared: Arc<dyn Collective> = Arc::new(SharedMemory::new(2));
    let load = |rank, cache| {
        let shard = Shard { rank, degree: 2 };
        ReferenceBackend::load(&source, shard, cache, Arc::clone(&shared), &mut |_| {})
    };
    let error = thread::scope(|scope| {
        let waiting = scope.spawn(|| load(0, CACHE).unwrap_err());
        load(
            1,
            CacheShape {
                block_size: 0,
                block_count: 0,
            },
        )
        .unwrap_err();
        waiting.join().unwrap()
    });
    assert!(
        matches!(error, LoadError::Peer(StepError::PeerGone { rank: 0 })),
        "{error}"
    );
}
