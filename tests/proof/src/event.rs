//! What happens next: one of everything that can.

use crate::api::NodeView;
use crate::check;
use crate::extender::{STREAMS, Stream, instant};
use crate::setting::Control;
use crate::world::{Asked, World};

/// One thing that happens, and a few milliseconds that pass.
pub fn step(world: &mut World) {
    let time_ms = world.rng.below(40);
    world.pass(u64::try_from(time_ms).unwrap_or(0));
    match world.rng.below(100) {
        0..24 => watch(world),
        24..33 => inform(world),
        33..47 => schedule(world),
        47..57 => ask(world),
        57..65 => land(world),
        65..72 => answer(world),
        72..78 => {
            let node = node(world);
            world.admit(node);
        }
        78..83 => agent(world),
        83..86 => change_pods(world),
        86..88 => {
            world.end_terminating();
        }
        88..90 => break_watch(world),
        90..91 => look(world),
        91..92 => confirm(world),
        92..93 => ask_strangely(world),
        93 => end_reads(world),
        94..96 => hand_over(world),
        _ => fault(world),
    }
}

fn node(world: &mut World) -> usize {
    world.rng.below(world.machines.len())
}

fn extender(world: &mut World) -> usize {
    world.rng.below(world.extenders.len())
}

fn scheduler(world: &mut World) -> usize {
    world.rng.below(world.schedulers.len())
}

/// One watch of one extender shows a few changes.
fn watch(world: &mut World) {
    let extender = extender(world);
    let stream = STREAMS[world.rng.below(world.extenders[extender].streams().len())];
    if !world.extenders[extender].is_live(stream) && world.rng.percent(50) {
        world.toggle(extender, stream);
    }
    let changes = 1 + world.rng.below(3);
    for _ in 0..changes {
        if world.deliver(extender, stream) {
            world.say(|| format!("extender {extender} sees {stream:?}"));
        }
    }
    check::counts(world, extender);
}

fn inform(world: &mut World) {
    let scheduler = scheduler(world);
    for _ in 0..=world.rng.below(4) {
        world.schedulers[scheduler].deliver(&world.api);
    }
}

/// One pod, or a group of which none is bound before all were filtered.
fn schedule(world: &mut World) {
    let scheduler = scheduler(world);
    let group = if world.rng.percent(20) { 3 } else { 1 };
    for _ in 0..group {
        world.schedule(scheduler);
    }
}

/// A bind begins; the bind of a pod that was given up never does.
fn ask(world: &mut World) {
    if world.asks.is_empty() {
        return;
    }
    let position = world.rng.below(world.asks.len());
    let asked = world.asks.swap_remove(position);
    if world.rng.percent(5) {
        world.say(|| format!("{} is given up before its bind", asked.key));
        return world.fail(asked);
    }
    world.ask(asked);
}

fn land(world: &mut World) {
    let position = world.rng.below(world.posts.len());
    if world.rng.percent(10) {
        if world.rng.percent(30) {
            world.refuse_post(position);
        } else {
            world.lose_post(position);
        }
    } else {
        world.land(position);
    }
}

fn answer(world: &mut World) {
    let position = world.rng.below(world.posts.len());
    let is_lost = world.rng.percent(15);
    world.answer(position, is_lost);
}

fn agent(world: &mut World) {
    let node = node(world);
    match world.rng.below(3) {
        0 => world.agent_reads(node),
        1 => world.agent_writes(node),
        _ => {
            world.agent_reads(node);
            world.agent_writes(node);
        }
    }
}

fn change_pods(world: &mut World) {
    let number = world.rng.below(world.setting.claims.len());
    match world.rng.below(4) {
        0 => {
            world.delete(number);
            // As the controller of a StatefulSet does.
            if world.rng.percent(50) {
                world.create(number);
            }
        }
        1 => world.finish(number),
        _ => world.create(number),
    }
}

fn break_watch(world: &mut World) {
    let extender = extender(world);
    let streams = world.extenders[extender].streams();
    let broken: Vec<_> = streams
        .iter()
        .filter(|stream| !world.extenders[extender].is_live(**stream))
        .collect();
    // What is broken is sooner repaired than more is broken.
    let stream = match broken.first() {
        Some(stream) if world.rng.percent(80) => **stream,
        _ => STREAMS[world.rng.below(streams.len())],
    };
    world.toggle(extender, stream);
}

fn look(world: &mut World) {
    let extender = extender(world);
    let succeeds = world.rng.percent(80);
    world.look(extender, succeeds);
}

/// A read of a pod whose bind is unconfirmed begins or ends.
fn confirm(world: &mut World) {
    let extender = extender(world);
    if world.rng.percent(50) {
        world.begin_confirming(extender);
    } else {
        world.end_confirming(extender);
    }
}

/// A read or a list that is under way ends.
fn end_reads(world: &mut World) {
    let extender = extender(world);
    match world.rng.below(3) {
        0 => {
            let is_well = world.rng.percent(90);
            world.end_list(extender, is_well);
        }
        1 => world.end_lease_read(extender),
        _ => {
            let position = world.rng.below(world.reads.len());
            world.end_read(position);
        }
    }
}

/// The scheduler that leads ends in order, and the other one takes over at once.
fn hand_over(world: &mut World) {
    if world.setting.control != Control::TwoReplicas || !world.setting.programs_die {
        return;
    }
    let leader = usize::from(!world.schedulers[0].leads());
    let other = 1 - leader;
    // With a binding under way, where one can be had: a leader may have to wait until it serves.
    if world.setting.time_jumps && !world.extenders[leader].serves(instant(world.now_ms)) {
        world.pass(16_000);
    }
    if world.schedule(leader) {
        ask(world);
    }
    world.end_scheduler(leader);
    world.end_lease_read(other);
    world.begin_lease_read(other);
    world.stand(other);
    if world.rng.percent(70) {
        world.end_lease_read(other);
        while world.deliver(leader, Stream::Leader) {}
        world.say_ended();
        while world.deliver(other, Stream::Leader) {}
    }
}

/// A bind that no filter came before, or one more of the same.
fn ask_strangely(world: &mut World) {
    let number = scheduler(world);
    let by = world.caller(number);
    let assumed = world.schedulers[number].assumed();
    let asked = if world.rng.percent(60) {
        world.rng.pick(&assumed).copied()
    } else {
        let node = node(world);
        let pod = world.rng.below(world.setting.claims.len());
        world.api.pods[pod].as_ref().map(|pod| (pod.key, node))
    };
    if let Some((key, node)) = asked {
        world.ask(Asked { by, key, node });
    }
}

fn fault(world: &mut World) {
    let setting = world.setting.clone();
    match world.rng.below(8) {
        7 => stall(world),
        6 => {
            let pair = world.rng.below(2);
            world.is_cut[pair] = !world.is_cut[pair];
        }
        0 if setting.time_jumps => jump(world),
        1 if setting.programs_die => die(world),
        2 if setting.agents_fail => fail_agent(world),
        3 if setting.nodes_vanish => change_node(world),
        4 if setting.gpus_fail => fail_gpu(world),
        5 if setting.has_strangers => {
            let number = world.rng.below(setting.claims.len());
            let node = node(world);
            world.bind_strangely(number, node);
        }
        _ => {}
    }
}

fn jump(world: &mut World) {
    let time_ms = [1_000, 3_000, 6_000, 16_000, 62_000][world.rng.below(5)];
    world.say(|| format!("{time_ms} ms pass"));
    world.pass(time_ms);
}

fn stall(world: &mut World) {
    let extender = extender(world);
    let streams = world.extenders[extender].streams();
    let stream = if world.rng.percent(50) {
        Stream::Pods
    } else {
        streams[world.rng.below(streams.len())]
    };
    let time_ms = [8_000, 30_000, 90_000, 300_000][world.rng.below(4)];
    world.stall(extender, stream, time_ms);
}

fn die(world: &mut World) {
    let scheduler = scheduler(world);
    match world.rng.below(4) {
        0 | 1 => {
            let extender = extender(world);
            world.restart_extender(extender);
            if world.rng.percent(50) {
                world.list_everything(extender);
            }
            if world.rng.percent(30) {
                let time_ms = 1_000 + world.rng.below(4_000);
                world.pass(u64::try_from(time_ms).unwrap_or(0));
            }
        }
        2 => world.restart_scheduler(scheduler),
        _ => world.end_scheduler(scheduler),
    }
}

fn fail_agent(world: &mut World) {
    let node = node(world);
    let machine = &mut world.machines[node];
    if machine.has_agent && world.rng.percent(50) {
        machine.knows_uids = !machine.knows_uids;
    } else {
        machine.has_agent = !machine.has_agent;
        machine.read = None;
    }
    let (has_agent, knows_uids) = (machine.has_agent, machine.knows_uids);
    world.say(|| format!("n{node}: agent runs: {has_agent}, knows uids: {knows_uids}"));
}

fn change_node(world: &mut World) {
    let node = node(world);
    let view = match world.api.nodes[node] {
        Some(view) if world.rng.percent(50) => Some(NodeView {
            is_ready: !view.is_ready,
            ..view
        }),
        Some(_) => {
            world.machines[node].is_renumbered ^= world.rng.percent(50);
            world.api.set_topology(node, None, world.now_ms);
            None
        }
        None => Some(NodeView {
            is_ready: true,
            pokes: 0,
        }),
    };
    world.say(|| format!("n{node} is now {view:?}"));
    world.api.set_node(node, view, world.now_ms);
}

fn fail_gpu(world: &mut World) {
    let node = node(world);
    let gpu = world.rng.below(world.machines[node].gpu_count);
    let machine = &mut world.machines[node];
    machine.failed = if machine.failed.is_none() {
        Some(gpu)
    } else {
        None
    };
    let failed = machine.failed;
    world.say(|| format!("n{node}: broken GPU: {failed:?}"));
}
