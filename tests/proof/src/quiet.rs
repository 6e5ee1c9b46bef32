//! The faults end: in a bounded number of steps every pod that fits is bound, and every extender
//! knows what is free.

use berth_extender_core::decide;
use berth_extender_core::index::Index;

use crate::api::NodeView;
use crate::check;
use crate::extender::{Extender, instant, long_ago};
use crate::sabotage::Sabotage;
use crate::setting::Kubelet;
use crate::stock::{Key, Stock, node_name};
use crate::world::World;

/// Seconds that may pass until everything is as it should be: a lease must pass, what was sent must be
/// over and be read, and kube-scheduler's queue may have to be flushed.
const SECONDS_MAX: usize = 40;
/// From then on what kube-scheduler's queue holds back is tried again, as its flush would.
const FLUSH_SECOND: usize = 25;

/// Everything gets well; then checks that nothing was lost.
pub fn settle(world: &mut World) {
    repair(world);
    for second in 0..SECONDS_MAX {
        world.pass(1_000);
        round(world);
        if second >= FLUSH_SECOND && second.is_multiple_of(FLUSH_SECOND) && world.has_forgotten {
            world.say(|| "kube-scheduler flushes its queue".to_owned());
            world
                .schedulers
                .iter_mut()
                .for_each(crate::scheduler::Scheduler::wake);
        }
        if world.violation.is_some() || is_done(world) {
            break;
        }
    }
    publish(world);
    deliver(world);
    check_all(world);
}

fn repair(world: &mut World) {
    world.say(|| "from now on everything is well".to_owned());
    world.is_well = true;
    if world.setting.kubelet == Kubelet::Promised {
        // A kubelet that once gave something else is none whose promises are checked.
    } else {
        world.setting.kubelet = Kubelet::Swaps;
    }
    for node in 0..world.machines.len() {
        let machine = &mut world.machines[node];
        machine.failed = None;
        machine.has_agent = true;
        machine.knows_uids = true;
        // A Node that is well is not written: that alone would have everything tried again.
        if !world.api.nodes[node].is_some_and(|view| view.is_ready) {
            let view = NodeView {
                is_ready: true,
                pokes: 0,
            };
            world.api.set_node(node, Some(view), world.now_ms);
        }
        world.api.renew(node, world.now_ms);
    }
    for extender in 0..world.extenders.len() {
        for stream in world.extenders[extender].streams() {
            world.extenders[extender].stall(*stream, 0);
            while !world.extenders[extender].is_live(*stream) {
                world.toggle(extender, *stream);
                world.end_list(extender, true);
            }
        }
    }
    world.is_cut = [false; 2];
    publish(world);
}

fn round(world: &mut World) {
    while let Some(asked) = world.asks.pop() {
        world.ask(asked);
    }
    while !world.reads.is_empty() {
        world.end_read(0);
    }
    for extender in 0..world.extenders.len() {
        world.end_list(extender, true);
        world.end_lease_read(extender);
    }
    while !world.posts.is_empty() {
        let last = world.posts.len() - 1;
        world.land(last);
        world.answer(last, false);
        world.posts.truncate(last);
    }
    deliver(world);
    for node in 0..world.machines.len() {
        while world.admit(node) {}
    }
    while world.end_terminating() {}
    publish(world);
    deliver(world);
    for extender in 0..world.extenders.len() {
        world.look(extender, true);
    }
    deliver(world);
    for scheduler in 0..world.schedulers.len() {
        while world.schedule(scheduler) {}
    }
}

fn publish(world: &mut World) {
    for node in 0..world.machines.len() {
        world.agent_reads(node);
        let reading = world.machines[node].read.take();
        if let Some(reading) = reading {
            let object = world.machines[node].object(&reading);
            if world.api.topologies[node].as_ref() != Some(&object) {
                world.api.set_topology(node, Some(object), world.now_ms);
            }
        }
    }
}

fn deliver(world: &mut World) {
    for extender in 0..world.extenders.len() {
        for stream in world.extenders[extender].streams() {
            while world.deliver(extender, *stream) {}
        }
    }
    for scheduler in &mut world.schedulers {
        while scheduler.deliver(&world.api) {}
    }
}

/// No pod waits that could be bound.
fn is_done(world: &World) -> bool {
    let is_certain = |extender: &Extender| extender.index.sizes().reservations == 0;
    world.asks.is_empty()
        && world.posts.is_empty()
        && world.reads.is_empty()
        && world.extenders.iter().all(is_certain)
        && world.api.live().all(|pod| !pod.is_terminating)
        && lost(world).is_none()
}

fn check_all(world: &mut World) {
    if let Some((key, why)) = lost(world) {
        world.violate(|| format!("{key} was lost: {why}"));
    }
    for extender in 0..world.extenders.len() {
        check::counts(world, extender);
        check::knows_what_is_free(world, extender);
    }
}

/// A pod that waits although it would fit: by count, where it asks for nothing else, and by what an
/// extender decides that has just listed everything.
fn lost(world: &World) -> Option<(Key, String)> {
    let pending: Vec<Key> = world
        .api
        .live()
        .filter(|pod| pod.is_pending())
        .map(|pod| pod.key)
        .collect();
    if pending.is_empty() {
        return None;
    }
    let index = fresh(world);
    pending
        .iter()
        .find_map(|key| Some((*key, fits(world, index.clone(), *key)?)))
}

fn fits(world: &World, mut index: Index, key: Key) -> Option<String> {
    for node in 0..world.machines.len() {
        let used: usize = world
            .api
            .live()
            .filter(|pod| pod.node == Some(node) && pod.is_holding())
            .map(|pod| pod.key.claim().gpu_count())
            .sum();
        let need = key.claim().gpu_count();
        if !key.claim().needs_nvlink && used + need <= world.machines[node].gpu_count {
            return Some(format!("n{node} has {need} GPUs for it"));
        }
    }
    let snapshot = index.snapshot(instant(world.now_ms));
    let ask = Stock::get().ask(key);
    (0..world.machines.len())
        .find(|node| decide::judge(&snapshot, ask, &node_name(*node)).is_ok())
        .map(|node| format!("a fresh extender would place it on n{node}"))
}

fn fresh(world: &World) -> Index {
    let mut extender = Extender::new(0, false, Sabotage::Nothing, long_ago());
    for stream in extender.streams() {
        extender.relist(*stream, &world.api, instant(world.now_ms));
    }
    extender.index
}
