//! The last decision about each pod, for people: `GET /explain/{namespace}/{pod}`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;

use crate::decide::Verdicts;

/// Pods remembered. With 500 candidates each this is under 10 MB.
const PODS_MAX: usize = 256;

/// What was decided last about one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The pod's uid.
    pub pod_uid: String,
    /// When filter answered, RFC 3339.
    pub filtered_at: String,
    /// Nodes that fit, with their score, 0 to 10.
    pub feasible: BTreeMap<String, u32>,
    /// Nodes that do not, by reason.
    pub refused: BTreeMap<String, Reason>,
    /// The last bind, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
}

/// One reason, and whom it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The reason's sentence.
    pub message: String,
    /// Whether pods that leave could help.
    pub resolvable: bool,
    /// The nodes.
    pub nodes: Vec<String>,
}

/// One bind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bind {
    /// The node.
    pub node: String,
    /// Why not; absent when it was bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The last `PODS_MAX` decisions, by namespace and name.
#[derive(Debug, Default)]
pub struct Decisions {
    order: VecDeque<String>,
    by_pod: HashMap<String, Decision>,
}

// === impl Decisions ===

impl Decisions {
    /// Filter answered.
    pub fn filtered(&mut self, namespace: &str, name: &str, decision: Decision) {
        *self.decision(namespace, name) = decision;
    }

    /// Bind ended.
    pub fn bound(&mut self, namespace: &str, name: &str, bind: Bind) {
        self.decision(namespace, name).bind = Some(bind);
    }

    /// The last decision about that pod, if it is remembered.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Decision> {
        self.by_pod.get(&format!("{namespace}/{name}"))
    }

    fn decision(&mut self, namespace: &str, name: &str) -> &mut Decision {
        let key = format!("{namespace}/{name}");
        if !self.by_pod.contains_key(&key) {
            self.order.push_back(key.clone());
            if self.order.len() > PODS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_pod.remove(&oldest);
            }
        }
        self.by_pod.entry(key).or_default()
    }
}

// === impl Decision ===

impl Decision {
    /// What filter found, when.
    #[must_use]
    pub fn of(pod_uid: &str, verdicts: &Verdicts, filtered_at: String) -> Self {
        let mut refused: BTreeMap<String, Reason> = BTreeMap::new();
        for (node, no) in &verdicts.refused {
            let reason = refused
                .entry(no.kind().to_owned())
                .or_insert_with(|| Reason {
                    message: no.to_string(),
                    resolvable: no.is_resolvable(),
                    nodes: Vec::new(),
                });
            reason.nodes.push(node.clone());
        }
        Self {
            pod_uid: pod_uid.to_owned(),
            filtered_at,
            feasible: verdicts.feasible.iter().cloned().collect(),
            refused,
            bind: None,
        }
    }
}
