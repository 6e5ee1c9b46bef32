//! Why one node is not the pod's, in sentences.

use super::{Container, Explanation, NodeStory, WhyNot};

pub(super) fn not_kept(node: &str) -> WhyNot {
    WhyNot {
        node: node.to_owned(),
        sentences: vec!["what that decision was made from is no longer kept".to_owned()],
        story: None,
    }
}

/// `story` is absent where kube-scheduler did not ask about the node.
pub(super) fn answer(all: &Explanation, node: &str, story: Option<NodeStory>) -> WhyNot {
    let mut sentences = match &story {
        None => not_asked(node),
        Some(story) if story.reason.is_some() => refused(story),
        Some(story) => lost(all, story),
    };
    let preemption = all.preemption.as_ref();
    sentences.extend(preemption.and_then(|preemption| preemption.sentence(node)));
    WhyNot {
        node: node.to_owned(),
        sentences,
        story,
    }
}

fn not_asked(node: &str) -> Vec<String> {
    vec![
        format!("kube-scheduler did not ask about {node}"),
        "one of its own filters had refused the node (taints, selectors, affinity, other resources), \
         there is no such node, or it had already found as many as it looks for \
         (percentageOfNodesToScore)"
            .to_owned(),
    ]
}

fn refused(story: &NodeStory) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(reason) = &story.reason {
        sentences.push(format!(
            "{} was refused: {}: {}",
            story.node, reason.kind, reason.message
        ));
        sentences.push(
            if reason.resolvable {
                "pods that leave the node could change that"
            } else {
                "no pod's leaving changes that"
            }
            .to_owned(),
        );
    }
    sentences.extend(room(story));
    sentences
}

/// What is free, and who holds the rest.
fn room(story: &NodeStory) -> Vec<String> {
    let mut sentences = vec![format!("free GPUs: {}", list(&story.free))];
    if !story.unusable.is_empty() {
        let unusable = list(&story.unusable);
        sentences.push(format!("failed, shared or partitioned GPUs: {unusable}"));
    }
    for (pod, gpus) in &story.holders {
        sentences.push(match gpus.is_empty() {
            true => format!("{pod} holds GPUs; which ones is not known from an assignment"),
            false => format!("{pod} holds GPUs {}", list(gpus)),
        });
    }
    if story.unknown_count > 0 {
        let count = story.unknown_count;
        sentences.push(format!(
            "{count} of the free ones are held, nobody knows which"
        ));
    }
    sentences
}

/// It fits, and is not the preferred one, or is.
fn lost(all: &Explanation, story: &NodeStory) -> Vec<String> {
    let node = story.node.as_str();
    let score = |node: &str| all.feasible.get(node).copied().unwrap_or_default();
    let mut sentences = match all.preferred.as_deref() {
        Some(best) if best == node => vec![format!(
            "{node} is the preferred node, with score {}",
            score(node)
        )],
        Some(best) if score(best) == score(node) => vec![format!(
            "{node} fits as well as {best}: both have score {}",
            score(node)
        )],
        Some(best) => vec![format!(
            "{node} fits, but {best} is better: score {} against {}",
            score(best),
            score(node)
        )],
        None => vec![format!("{node} fits")],
    };
    let best = all.preferred.as_deref().filter(|best| *best != node);
    let best = best.and_then(|best| all.nodes.iter().find(|story| story.node == best));
    if let (Some(this), Some(better)) = (&story.merit, best.and_then(|best| best.merit)) {
        sentences.extend(this.lost_by(&better));
    }
    sentences.extend(best_set(story));
    sentences.extend(promise(story));
    sentences.extend(best.and_then(best_set));
    if let Some(bind) = all.bind.as_ref().filter(|bind| bind.error.is_none()) {
        sentences.push(match bind.node == node {
            true => "the pod was bound to it".to_owned(),
            false => format!(
                "the pod was bound to {}: kube-scheduler adds the scores of its own plugins, and \
                 chooses among equals by chance",
                bind.node
            ),
        });
    }
    sentences
}

fn best_set(story: &NodeStory) -> Option<String> {
    let set = story.containers.first()?.sets.first()?;
    let criteria: Vec<String> = set
        .criteria
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    Some(format!(
        "its best set on {}: GPUs {} ({})",
        story.node,
        list(&set.gpus),
        criteria.join("; ")
    ))
}

/// Where the kubelet has the last word.
fn promise(story: &NodeStory) -> Vec<String> {
    let is_other = |container: &&Container| {
        let best = container.sets.first();
        best.is_some_and(|best| !container.given.is_empty() && container.given != best.gpus)
    };
    let others = story.containers.iter().filter(is_other);
    let given = others.map(|container| {
        let (name, gpus) = (&container.name, list(&container.given));
        format!("beside the others and by the kubelet's rules {name} gets GPUs {gpus} there")
    });
    let doubt = story
        .inexact
        .as_ref()
        .map(|doubt| format!("on {} the kubelet may give others: {doubt}", story.node));
    given.chain(doubt).collect()
}

fn list(gpus: &[u32]) -> String {
    if gpus.is_empty() {
        return "none".to_owned();
    }
    let gpus: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    gpus.join(", ")
}
