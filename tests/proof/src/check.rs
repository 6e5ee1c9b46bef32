//! The promises, checked after what could break them.

use berth_extender_core::node::NodeState;

use crate::api::{Mask, PodObject, mask_of};
use crate::extender::instant;
use crate::machine::count;
use crate::stock::node_name;
use crate::world::{Asked, World};

/// A pod was bound by us: nobody else was promised its GPUs, and the node has room for all.
pub fn after_bind(world: &mut World, number: usize) {
    let Some(pod) = world.api.pods[number].clone() else {
        return;
    };
    let Some(node) = pod.node else { return };
    if pod.record.holder.intent.is_empty() {
        return world.violate(|| format!("{} has an assignment that is not its own", pod.key));
    }
    if count(pod.intent) != pod.key.claim().container_gpu_count() {
        world.violate(|| format!("{} was given {:#b}", pod.key, pod.intent));
    }
    let others: Vec<PodObject> = world
        .api
        .live()
        .filter(|other| other.key != pod.key && other.node == Some(node) && other.is_holding())
        .cloned()
        .collect();
    for other in &others {
        let overlap = promise(world, other, node) & pod.intent;
        if overlap != 0 {
            world.violate(|| {
                format!(
                    "on n{node} {} and {} were both given {overlap:#b}",
                    pod.key, other.key
                )
            });
        }
    }
    let used: usize = others
        .iter()
        .map(|other| other.key.claim().gpu_count())
        .sum();
    let is_full = used + pod.key.claim().gpu_count() > world.machines[node].gpu_count;
    if is_full && !world.setting.has_strangers {
        world.violate(|| format!("n{node} has not so many GPUs as its pods were given"));
    }
}

/// GPUs that only that pod may have: what it was promised, unless its kubelet gave it others.
fn promise(world: &World, pod: &PodObject, node: usize) -> Mask {
    let held = world.machines[node].held_by(pod.key);
    let given = held.map(|held| held.shown.iter().fold(0, |all, mask| all | mask));
    match given {
        Some(given) if given != pod.intent => 0,
        _ => pod.intent,
    }
}

/// A binding of one replica takes effect, of that process of it: neither the other nor a later
/// process may serve yet.
pub fn nobody_else_serves(world: &mut World, extender: usize, life: usize) {
    let now = instant(world.now_ms);
    let own = &world.extenders[extender];
    if own.life != life && own.serves(now) {
        world.violate(|| format!("extender {extender} serves while its former process binds"));
    }
    let other = (0..world.extenders.len())
        .find(|other| *other != extender && world.extenders[*other].serves(now));
    if let Some(other) = other {
        world.violate(|| format!("extender {extender} binds while extender {other} serves"));
    }
}

/// The extender says that a pod is bound: it is, if it is still there.
pub fn is_bound(world: &mut World, asked: Asked) {
    let is_wrong = world
        .api
        .pod(asked.key)
        .is_some_and(|pod| pod.node != Some(asked.node));
    if is_wrong {
        world.violate(|| format!("{} is said to be bound to n{}", asked.key, asked.node));
    }
}

/// What an extender counts on each node: free, held and unknown are all of it, and no pod that it
/// knows of is left out.
pub fn counts(world: &mut World, extender: usize) {
    let now = instant(world.now_ms);
    let snapshot = world.extenders[extender].index.snapshot(now);
    for node in 0..world.machines.len() {
        let Some(state) = snapshot.node(&node_name(node)) else {
            continue;
        };
        let Some(topology) = &state.topology else {
            continue;
        };
        let all = topology.machine.all().len();
        let known: usize = state.holders.iter().map(|holder| holder.gpu_count).sum();
        let held = all - state.room.free.len();
        if held + state.room.unknown_count < known.min(all) {
            world.violate(|| {
                format!(
                    "extender {extender} counts {:?} on n{node}, pods hold {known}",
                    state.room
                )
            });
        }
    }
}

/// When everything is well and has been seen: an extender knows which GPUs are free.
pub fn knows_what_is_free(world: &mut World, extender: usize) {
    let now = instant(world.now_ms);
    let snapshot = world.extenders[extender].index.snapshot(now);
    for node in 0..world.machines.len() {
        let machine = &world.machines[node];
        let shown = machine
            .held
            .iter()
            .flat_map(|held| &held.shown)
            .fold(0, |all, mask| all | mask);
        let really = machine.all() & !shown;
        let free = snapshot.node(&node_name(node)).map(|state| free_of(state));
        if free != Some(really) {
            world.violate(|| {
                format!(
                    "extender {extender} believes {free:?} to be free on n{node}, not {really:#b}"
                )
            });
        }
    }
}

fn free_of(state: &NodeState) -> Mask {
    let Some(topology) = &state.topology else {
        return 0;
    };
    let uuids = topology.machine.uuids();
    mask_of(
        state
            .room
            .free
            .iter()
            .filter_map(|position| uuids.get(position)),
    )
}
