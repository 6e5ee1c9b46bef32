//! Seeds in, verdicts out.

use crate::event;
use crate::quiet;
use crate::sabotage::Sabotage;
use crate::world::World;

/// A seed whose world broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Which promise, and by whom.
    pub violation: String,
    /// After so many events it breaks, and after one less it does not.
    pub event_count: usize,
    /// What happened, with so many events.
    pub log: Vec<String>,
}

/// Plays one seed. `None`: every promise held.
#[must_use]
pub fn play(seed: u64, sabotage: Sabotage) -> Option<String> {
    play_prefix(seed, sabotage, usize::MAX, false).violation
}

/// Plays a seed again, with its story, cut to the fewest events that still break a promise.
///
/// # Errors
/// The promise that it breaks.
pub fn replay(seed: u64, sabotage: Sabotage) -> Result<Vec<String>, Failure> {
    let whole = play_prefix(seed, sabotage, usize::MAX, true);
    let event_count = whole.setting.event_count;
    if whole.violation.is_none() {
        return Ok(whole.log.unwrap_or_default());
    }
    let fails = |events: &usize| {
        play_prefix(seed, sabotage, *events, false)
            .violation
            .is_some()
    };
    let fewest = (0..event_count).find(fails).unwrap_or(event_count);
    let shortest = play_prefix(seed, sabotage, fewest, true);
    Err(Failure {
        seed,
        violation: shortest.violation.unwrap_or_default(),
        event_count: fewest,
        log: shortest.log.unwrap_or_default(),
    })
}

fn play_prefix(seed: u64, sabotage: Sabotage, events: usize, is_logged: bool) -> World {
    let mut world = World::new(seed, sabotage, is_logged);
    let head = format!("seed {seed}: {:?}", world.setting);
    world.say(|| head);
    for _ in 0..world.setting.event_count.min(events) {
        event::step(&mut world);
        if world.violation.is_some() {
            return world;
        }
    }
    quiet::settle(&mut world);
    world
}
