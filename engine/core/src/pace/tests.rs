//! The pace against machines whose durations are made up.

use super::*;

/// Seconds of a machine: a step, a decode, a position read by a decode, a prompt's token.
#[derive(Clone, Copy, Debug)]
struct MadeUp {
    step_s: f64,
    decode_s: f64,
    position_s: f64,
    token_s: f64,
}

const SLOW: MadeUp = MadeUp {
    step_s: 20e-3,
    decode_s: 0.5e-3,
    position_s: 0.3e-6,
    token_s: 1.1e-3,
};

/// A machine of another kind, some hundred times as fast.
const FAST: MadeUp = MadeUp {
    step_s: 0.2e-3,
    decode_s: 4e-6,
    position_s: 1e-9,
    token_s: 20e-6,
};

impl MadeUp {
    /// Off by up to a tenth, in a pattern that depends on nothing.
    fn took(self, work: &Work, turn: usize) -> Duration {
        let noise = 0.9 + 0.2 * real(turn * 7919 % 101) / 100.0;
        Duration::from_secs_f64(self.exactly_s(work) * noise)
    }

    fn exactly_s(self, work: &Work) -> f64 {
        self.step_s
            + self.decode_s * work.decode_count
            + self.position_s * (work.decode_context + work.prompt_context)
            + self.token_s * work.prompt_count
    }
}

fn decodes(count: usize, position: usize) -> Work {
    let mut work = Work::default();
    (0..count).for_each(|_| work.add(position, 1));
    work
}

/// Prompts first, then decodes whose number changes now and then, with prompts beside some:
/// what each such step was allowed to take and would take on an undisturbed machine.
fn learn(pace: &mut Pace, machine: MadeUp) -> Vec<(f64, f64, usize)> {
    let mut prompts = Work::default();
    prompts.add(0, 512);
    pace.observe(&prompts, machine.took(&prompts, 0));
    let mut mixed = vec![];
    for turn in 0..400 {
        let mut work = decodes(1 + turn / 40 % 8, 100 + turn);
        let decode_s = machine.exactly_s(&work);
        if turn % 3 == 2 {
            let count = pace.room(&work, None).take(0, 2048);
            work.add(0, count);
            if turn > 50 {
                mixed.push((decode_s * STRETCH, machine.exactly_s(&work), count));
            }
        }
        pace.observe(&work, machine.took(&work, turn));
    }
    mixed
}

#[test]
fn steps_with_prompts_use_the_time_that_they_may_take_and_no_more() {
    for machine in [SLOW, FAST] {
        let mixed = learn(&mut Pace::default(), machine);
        for (allowed_s, took_s, count) in &mixed {
            let share = took_s / allowed_s;
            assert!(
                (0.7..1.25).contains(&share),
                "{machine:?}: {count} tokens take {share} of what they may"
            );
        }
    }
}

#[test]
fn a_machine_that_becomes_slower_is_learnt_anew() {
    let mut pace = Pace::default();
    learn(&mut pace, FAST);
    learn(&mut pace, SLOW);
    let work = decodes(4, 300);
    let share = pace.expect(&work) / SLOW.exactly_s(&work);
    assert!((0.8..1.2).contains(&share), "{share}");
}

#[test]
fn one_step_that_stalled_hardly_counts() {
    let mut pace = Pace::default();
    learn(&mut pace, SLOW);
    let work = decodes(4, 300);
    let before = pace.expect(&work);
    pace.observe(&work, Duration::from_secs(30));
    let after = pace.expect(&work);
    assert!(after < before * 1.3, "{before} s, then {after} s");
}

#[test]
fn with_nothing_decoding_or_nothing_known_all_is_prompt() {
    let mut pace = Pace::default();
    assert_eq!(pace.room(&decodes(3, 10), None).take(0, 2048), 2048);
    learn(&mut pace, SLOW);
    assert_eq!(pace.room(&Work::default(), None).take(0, 2048), 2048);
}

#[test]
fn a_longest_step_that_is_asked_for_is_kept_and_prompts_go_on_all_the_same() {
    let mut pace = Pace::default();
    learn(&mut pace, SLOW);
    let work = decodes(4, 300);
    let (short, long) = (Duration::from_millis(1), Duration::from_millis(222));
    let mut room = pace.room(&work, Some(short));
    assert_eq!(room.take(0, 9), 1);
    assert_eq!(room.take(0, 9), 0, "only the first prompt is let in so");
    let count = pace.room(&work, Some(long)).take(0, 2048);
    assert!((140..220).contains(&count), "{count} tokens in 200 ms");
}

#[test]
fn prompts_far_into_a_text_are_cut_shorter() {
    let deep = MadeUp {
        position_s: 2e-6,
        ..SLOW
    };
    let mut pace = Pace::default();
    for turn in 0..100 {
        let mut prompts = Work::default();
        prompts.add(turn % 4 * 1024, 256 + turn % 3 * 128);
        pace.observe(&prompts, deep.took(&prompts, turn));
        let work = decodes(2, 100 + turn);
        pace.observe(&work, deep.took(&work, turn));
    }
    let at = |position| pace.room(&decodes(2, 200), None).take(position, 2048);
    assert!(
        at(8192) * 3 < at(0) && at(8192) > 0,
        "{} {}",
        at(8192),
        at(0)
    );
}
