//! What to write next, from what is there and what should be. Pure.

use std::collections::BTreeMap;

use berth_topology::ids::NodeName;
use berth_topology::node::{NodeTopology, Status};
use berth_topology::{labels, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::merge;

/// The cluster's side.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// Absent before the first look.
    pub(crate) node: Option<SeenNode>,
    /// Absent where there is none.
    pub(crate) topology: Option<SeenTopology>,
}

/// What matters of the Node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SeenNode {
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// What matters of the NodeTopology.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SeenTopology {
    pub(crate) resource_version: String,
    pub(crate) owner_uid: Option<String>,
    pub(crate) status: Option<Status>,
    /// What was sent and made no difference: the CRD there is older than this agent, and drops fields.
    pub(crate) dropped: Option<Box<Status>>,
}

/// One write to the NodeTopology.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    /// There is none. Its status is not taken by a create and follows.
    Create(Box<NodeTopology>),
    /// It belongs to a Node of the same name that is gone. A merge patch of the object.
    Adopt(Value),
    /// Its status differs by more than time. A merge patch of the status subresource.
    Status(Value),
}

// === impl SeenTopology ===

impl SeenTopology {
    /// The answer to a write of `wanted` that was made from `before`. Without this an agent whose CRD is
    /// older than it would write the same again and again.
    pub(crate) fn after(self, before: Option<&Self>, write: &Write, wanted: &Status) -> Self {
        let is_same = before.is_some_and(|before| before.resource_version == self.resource_version);
        let made_no_difference = is_same && matches!(write, Write::Status(_));
        let dropped = made_no_difference.then(|| Box::new(wanted.without_volatile()));
        Self { dropped, ..self }
    }
}

// === impl Write ===

impl Write {
    /// For the log.
    pub(crate) fn summary(&self) -> &'static str {
        match self {
            Self::Create(_) => "creating the NodeTopology",
            Self::Adopt(_) => "the Node was made anew: adopting its NodeTopology",
            Self::Status(_) => "publishing a changed topology",
        }
    }
}

/// The next write that brings the NodeTopology to `wanted`; `None` when it is there.
pub(crate) fn next_topology_write(name: &NodeName, seen: &Seen, wanted: &Status) -> Option<Write> {
    let node = seen.node.as_ref()?;
    let Some(topology) = &seen.topology else {
        return Some(Write::Create(Box::new(empty(name, node))));
    };
    if topology.owner_uid.as_deref() != Some(node.uid.as_str()) {
        return Some(Write::Adopt(json!({"metadata": {
            "resourceVersion": topology.resource_version,
            "ownerReferences": [owner(name, node)],
        }})));
    }
    status_patch(topology, wanted).map(Write::Status)
}

/// `wanted` with the allocations that are published: an agent that does not look at the kubelet leaves
/// them to who does.
pub(crate) fn with_allocations_of(seen: &Seen, wanted: &Status) -> Status {
    let published = seen
        .topology
        .as_ref()
        .and_then(|topology| topology.status.as_ref());
    Status {
        allocations: published
            .map(|status| status.allocations.clone())
            .unwrap_or_default(),
        ..wanted.clone()
    }
}

/// The merge patch of the Node's labels: ours that are no longer true go, others are left alone.
pub(crate) fn next_label_write(seen: &Seen, wanted: &Status) -> Option<Value> {
    let node = seen.node.as_ref()?;
    let ours = node
        .labels
        .iter()
        .filter(|(key, _)| labels::ALL.contains(&key.as_str()));
    let ours: BTreeMap<&String, &String> = ours.collect();
    let patch = merge::patch(&json!(ours), &json!(labels::of_status(wanted)))?;
    Some(json!({"metadata": {"labels": patch}}))
}

/// The Node as owner: its objects are collected with it.
pub(crate) fn owner(name: &NodeName, node: &SeenNode) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.as_str().to_owned(),
        uid: node.uid.clone(),
        ..OwnerReference::default()
    }
}

fn empty(name: &NodeName, node: &SeenNode) -> NodeTopology {
    let mut topology = NodeTopology::new(name.as_str(), Status::default());
    topology.status = None;
    topology.metadata.owner_references = Some(vec![owner(name, node)]);
    topology
}

/// Sent with the version that it was made from: a write of somebody else in between is a conflict.
fn status_patch(seen: &SeenTopology, wanted: &Status) -> Option<Value> {
    let before = seen.status.as_ref();
    let wanted_lasting = wanted.without_volatile();
    if before.is_some_and(|before| before.without_volatile() == wanted_lasting)
        || seen.dropped.as_deref() == Some(&wanted_lasting)
    {
        return None;
    }
    let document =
        |status: &Status| serde_json::to_value(status).expect("a status has only string keys");
    let from = before.map_or_else(|| json!({}), document);
    Some(json!({
        "apiVersion": names::SCHEMA,
        "kind": "NodeTopology",
        "metadata": {"resourceVersion": seen.resource_version},
        "status": merge::patch(&from, &document(wanted))?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_topology::allocation::Allocation;
    use berth_topology::node::Unknown;
    use berth_topology::numa::NumaNode;
    use expect_test::{Expect, expect};

    fn name() -> NodeName {
        "n1".into()
    }

    fn node(uid: &str) -> SeenNode {
        SeenNode {
            uid: uid.to_owned(),
            labels: BTreeMap::new(),
        }
    }

    fn topology(owner: &str, status: Option<Status>) -> SeenTopology {
        let resource_version = "7".to_owned();
        SeenTopology {
            resource_version,
            owner_uid: Some(owner.to_owned()),
            status,
            dropped: None,
        }
    }

    fn status(hash: &str) -> Status {
        let observed_at = Some("2026-01-02T03:04:05Z".to_owned());
        Status {
            hash: hash.to_owned(),
            observed_at,
            ..Status::default()
        }
    }

    #[track_caller]
    fn check(seen: Seen, wanted: &Status, expected: Expect) {
        let text = match next_topology_write(&name(), &seen, wanted) {
            None => "nothing".to_owned(),
            Some(Write::Create(object)) => format!("create {}", json!(object)),
            Some(Write::Adopt(patch)) => format!("adopt {patch}"),
            Some(Write::Status(patch)) => format!("status {patch}"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn nothing_is_written_before_the_node_was_seen() {
        check(Seen::default(), &status("a"), expect!["nothing"]);
    }

    #[test]
    fn what_the_server_drops_is_not_sent_again_until_it_or_the_object_changes() {
        let kept = topology("u1", Some(status("a")));
        let wanted = status("b");
        let Some(write) = status_patch(&kept, &wanted).map(Write::Status) else {
            panic!("it is sent once")
        };
        let same = kept.clone().after(Some(&kept), &write, &wanted);
        assert_eq!(status_patch(&same, &wanted), None);
        assert!(status_patch(&same, &status("c")).is_some());
        let newer = SeenTopology {
            resource_version: "8".to_owned(),
            ..kept.clone()
        };
        let changed = newer.after(Some(&kept), &write, &wanted);
        assert_eq!(changed.dropped, None, "the write made a difference");
    }

    #[test]
    fn a_missing_object_is_created_without_status_and_owned_by_its_node() {
        let seen = Seen {
            node: Some(node("u1")),
            topology: None,
        };
        check(
            seen,
            &status("a"),
            expect![[
                r#"create {"apiVersion":"berth.dev/v1alpha1","kind":"NodeTopology","metadata":{"name":"n1","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u1"}]}}"#
            ]],
        );
    }

    #[test]
    fn an_object_of_an_earlier_node_of_that_name_is_adopted() {
        let seen = Seen {
            node: Some(node("u2")),
            topology: Some(topology("u1", None)),
        };
        check(
            seen,
            &status("a"),
            expect![[
                r#"adopt {"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u2"}],"resourceVersion":"7"}}"#
            ]],
        );
    }

    #[test]
    fn a_change_of_time_alone_is_not_written() {
        let published = Status {
            observed_at: None,
            ..status("a")
        };
        let seen = Seen {
            node: Some(node("u")),
            topology: Some(topology("u", Some(published))),
        };
        check(seen, &status("a"), expect!["nothing"]);
    }

    #[test]
    fn only_what_changed_is_sent_and_what_went_is_removed() {
        let unknowns = vec![Unknown {
            what: "gpus".into(),
            why: "no NVML".into(),
        }];
        let published = Status {
            unknowns,
            ..status("a")
        };
        let seen = Seen {
            node: Some(node("u")),
            topology: Some(topology("u", Some(published))),
        };
        check(
            seen,
            &status("b"),
            expect![[
                r#"status {"apiVersion":"berth.dev/v1alpha1","kind":"NodeTopology","metadata":{"resourceVersion":"7"},"status":{"hash":"b","unknowns":null}}"#
            ]],
        );
    }

    #[test]
    fn allocations_that_another_wrote_stay_unless_we_know_them() {
        let allocations = vec![Allocation {
            name: "pod".into(),
            ..Allocation::default()
        }];
        let published = Status {
            allocations,
            ..status("a")
        };
        let seen = Seen {
            node: Some(node("u")),
            topology: Some(topology("u", Some(published))),
        };
        let kept = with_allocations_of(&seen, &status("a"));
        check(seen.clone(), &kept, expect!["nothing"]);
        check(
            seen,
            &status("a"),
            expect![[
                r#"status {"apiVersion":"berth.dev/v1alpha1","kind":"NodeTopology","metadata":{"resourceVersion":"7"},"status":{"allocations":null}}"#
            ]],
        );
    }

    #[test]
    fn labels_of_ours_that_are_no_longer_true_go_and_others_stay() {
        let labels = [
            ("berth.dev/gpu-model", "old"),
            ("berth.dev/numa-nodes", "1"),
            ("zone", "a"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let node = SeenNode {
            uid: "u".into(),
            labels: BTreeMap::from(labels),
        };
        let seen = Seen {
            node: Some(node),
            topology: None,
        };
        let numa = vec![NumaNode {
            cpus: "0-3".parse().unwrap(),
            ..NumaNode::default()
        }];
        let wanted = Status {
            numa,
            ..Status::default()
        };
        let patch = next_label_write(&seen, &wanted).unwrap();
        expect![[
            r#"{"metadata":{"labels":{"berth.dev/gpu-count":"0","berth.dev/gpu-model":null}}}"#
        ]]
        .assert_eq(&patch.to_string());
        let labels = labels::of_status(&wanted);
        let seen = Seen {
            node: Some(SeenNode {
                uid: "u".into(),
                labels,
            }),
            topology: None,
        };
        assert_eq!(next_label_write(&seen, &wanted), None);
    }
}
