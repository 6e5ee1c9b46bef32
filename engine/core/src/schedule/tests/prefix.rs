//! What is found of earlier sequences, and what it is worth.

use std::sync::{Arc, Mutex};

use super::fake::{FakeModel, expected, limits, request};
use super::*;
use crate::events::KvEvent;
use crate::prefix::TextHash;

/// Keeps what it is told.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<KvEvent>>>);

impl KvEvents for Recorder {
    fn publish(&mut self, event: KvEvent) {
        self.0.lock().expect("nobody panics with it").push(event);
    }
}

impl Recorder {
    fn take(&self) -> Vec<KvEvent> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }
}

/// A scheduler with its model, fed by hand.
struct Engine {
    scheduler: Scheduler,
    model: FakeModel,
}

impl Engine {
    fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            model: FakeModel::new(limits.block_size),
        }
    }

    fn submit(&mut self, request: &Request) {
        self.scheduler
            .submit(request.clone(), START)
            .expect("it is small");
    }

    fn step(&mut self) -> (StepBatch, Vec<Output>) {
        let batch = self.scheduler.next().expect("there is work");
        let outputs = self.scheduler.advance(&self.model.step(&batch));
        (batch, outputs)
    }

    /// Runs one request alone to its end: its first step's shape, text, and cached tokens.
    #[track_caller]
    fn run(&mut self, request: &Request) -> (String, Vec<TokenId>, usize) {
        self.submit(request);
        let (mut first, mut text, mut cached_count) = (None, vec![], 0);
        while !self.scheduler.is_idle() {
            let (batch, outputs) = self.step();
            first.get_or_insert(shape(&batch));
            for output in outputs {
                text.push(output.token);
                cached_count = output.cached_count;
            }
        }
        assert_eq!(text, expected(request, limits().max_model_len).0);
        (first.expect("it ran"), text, cached_count)
    }
}

/// A prompt of these tokens.
fn prompt(id: u64, tokens: impl IntoIterator<Item = TokenId>) -> Request {
    Request {
        prompt: tokens.into_iter().collect(),
        ..request(id, 1, 3)
    }
}

#[test]
fn whole_blocks_are_found_and_the_last_token_is_computed_always() {
    let mut engine = Engine::new(limits());
    assert_eq!(engine.run(&prompt(0, 0..12)).0, "0:0+12*");
    let (first, _, cached_count) = engine.run(&prompt(1, 0..12));
    // Two blocks of four, then three tokens of the third, whose last is asked for.
    assert_eq!((first.as_str(), cached_count), ("1:11+1*", 11));
    assert_eq!(engine.run(&prompt(2, 0..8)).0, "2:7+1*");
    let stats = engine.scheduler.stats();
    assert_eq!((stats.prefix.query_count, stats.prefix.hit_count), (32, 18));
    assert_eq!(stats.used_block_count, 0);
}

#[test]
fn a_hit_inside_a_block_is_a_copy_and_leaves_the_original_as_it_is() {
    let mut engine = Engine::new(limits());
    let (_, text, _) = engine.run(&prompt(0, 0..12));
    engine.submit(&prompt(1, (0..10).chain([77, 78])));
    let (batch, _) = engine.step();
    assert_eq!(shape(&batch), "1:10+2*");
    let [copy] = batch.copies[..] else {
        panic!("one copy: {:?}", batch.copies);
    };
    assert_eq!(copy.to, batch.sequences[0].blocks[2]);
    assert_ne!(copy.from, copy.to);
    while !engine.scheduler.is_idle() {
        engine.step();
    }
    let (first, again, _) = engine.run(&Request {
        id: SequenceId(2),
        ..prompt(0, 0..12)
    });
    assert_eq!((first.as_str(), again), ("2:11+1*", text));
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    let mut engine = Engine::new(limits());
    let turn = Request {
        max_tokens: 9,
        ..prompt(0, 0..4)
    };
    let (_, answer, _) = engine.run(&turn);
    let next = prompt(1, (0..4).chain(answer).chain([60, 61, 62]));
    // Twelve of the first turn's thirteen tokens were computed: three blocks.
    assert_eq!(engine.run(&next).0, "1:12+4*");
}

#[test]
fn a_block_that_a_text_ended_in_is_found_too_and_kept_once() {
    let mut engine = Engine::new(Limits {
        block_count: 8,
        ..limits()
    });
    let (_, answer, _) = engine.run(&prompt(0, 0..9));
    // Of nine and three tokens all but the last are computed: two blocks and three tokens.
    let next = prompt(1, (0..9).chain(answer[..2].iter().copied()).chain([60, 61]));
    assert_eq!(engine.run(&next).0, "1:11+2*");
    for id in 2..9 {
        let same = Request {
            sampling: prompt(0, 0..9).sampling,
            ..prompt(id, 0..9)
        };
        let found = format!("{id}:8+1*");
        assert_eq!(engine.run(&same), (found, answer.clone(), 8));
    }
    let again = Request {
        id: SequenceId(9),
        ..next
    };
    assert_eq!(engine.run(&again).0, "9:12+1*", "seven more would not fit");
}

#[test]
fn what_an_aborted_step_did_not_compute_is_not_found() {
    let mut engine = Engine::new(limits());
    engine.submit(&prompt(0, 0..10));
    assert!(engine.scheduler.next().is_some());
    assert!(engine.scheduler.abort(SequenceId(0)));
    assert_eq!(engine.run(&prompt(1, 0..10)).0, "1:0+10*");
}

#[test]
fn sequences_that_begin_alike_at_the_same_time_share_blocks_once_they_are_full() {
    let mut engine = Engine::new(Limits {
        block_count: 9,
        ..limits()
    });
    let twins = [prompt(0, 0..12), prompt(1, 0..12)];
    twins.iter().for_each(|twin| engine.submit(twin));
    let (batch, _) = engine.step();
    assert_eq!(shape(&batch), "0:0+12* 1:0+4");
    assert_eq!(engine.scheduler.stats().used_block_count, 5);
    let (batch, _) = engine.step();
    assert_eq!(shape(&batch), "0:12+1* 1:4+8*");
    assert_eq!(batch.sequences[0].blocks[0], batch.sequences[1].blocks[0]);
    assert_eq!(engine.scheduler.stats().used_block_count, 4);
}

#[test]
fn salts_keep_texts_apart_and_a_flag_finds_nothing() {
    let salted = |id, salt: Option<&str>| Request {
        terms: Terms {
            cache_salt: salt.map(str::to_owned),
            ..Terms::default()
        },
        ..prompt(id, 0..9)
    };
    let mut engine = Engine::new(limits());
    engine.run(&salted(0, None));
    assert_eq!(engine.run(&salted(1, Some("a"))).0, "1:0+9*");
    assert_eq!(engine.run(&salted(2, Some("b"))).0, "2:0+9*");
    assert_eq!(engine.run(&salted(3, Some("a"))).0, "3:8+1*");
    let mut never = Engine::new(Limits {
        rules: Rules {
            prefix_caching: false,
            ..Rules::default()
        },
        ..limits()
    });
    never.run(&salted(0, None));
    assert_eq!(never.run(&salted(1, None)).0, "1:0+9*");
}

#[test]
fn a_preempted_sequence_finds_what_it_had_computed() {
    let mut engine = Engine::new(Limits {
        block_count: 6,
        ..limits()
    });
    let long = |id: u64| Request {
        max_tokens: 12,
        ..prompt(id, [50 + u32::try_from(id).unwrap(); 8])
    };
    let requests = [long(0), long(1)];
    requests.iter().for_each(|request| engine.submit(request));
    let mut texts = BTreeMap::<SequenceId, Vec<TokenId>>::new();
    let mut resumed = vec![];
    while !engine.scheduler.is_idle() {
        let was = engine.scheduler.stats();
        let (batch, outputs) = engine.step();
        if engine.scheduler.stats().running_count > was.running_count && was.preemption_count > 0 {
            resumed.push(batch.sequences.last().unwrap().first_position);
        }
        for output in outputs {
            texts.entry(output.id).or_default().push(output.token);
            assert_eq!(output.cached_count, 0, "only the prompt's first run counts");
        }
    }
    for request in &requests {
        assert_eq!(texts[&request.id], expected(request, 64).0);
    }
    assert!(!resumed.is_empty(), "six blocks cannot hold both");
    assert!(resumed.iter().all(|position| *position >= 4), "{resumed:?}");
}

#[test]
fn events_tell_what_can_be_found() {
    let recorder = Recorder::default();
    let mut engine = Engine::new(Limits {
        block_count: 4,
        max_model_len: 16,
        ..limits()
    });
    engine.scheduler.publish_to(Box::new(recorder.clone()));
    engine.run(&prompt(0, 0..9));
    let first = TextHash::root(None).then(&[0, 1, 2, 3]);
    let second = first.then(&[4, 5, 6, 7]);
    let stored =
        |hashes: &[TextHash], parent, tokens: std::ops::Range<TokenId>| KvEvent::BlockStored {
            block_hashes: hashes.to_vec(),
            parent_block_hash: parent,
            token_ids: tokens.collect(),
            block_size: 4,
        };
    assert_eq!(recorder.take(), [stored(&[first, second], None, 0..8)]);
    engine.run(&prompt(1, (0..4).chain(20..25)));
    let other = first.then(&[20, 21, 22, 23]);
    assert_eq!(recorder.take(), [stored(&[other], Some(first), 20..24)]);
    // Fifteen positions need all four blocks: the one let go first goes first.
    engine.run(&prompt(2, 40..53));
    let removed = recorder.take().into_iter().find_map(|event| match event {
        KvEvent::BlockRemoved { block_hashes } => Some(block_hashes),
        KvEvent::BlockStored { .. } | KvEvent::AllBlocksCleared => None,
    });
    assert_eq!(removed, Some(vec![second, other, first]));
    assert!(engine.scheduler.reset_prefix_cache());
    assert_eq!(recorder.take(), [KvEvent::AllBlocksCleared]);
    assert_eq!(engine.scheduler.stats().kept_block_count, 0);
    engine.submit(&prompt(3, 0..9));
    engine.step();
    assert!(!engine.scheduler.reset_prefix_cache(), "one runs");
}
