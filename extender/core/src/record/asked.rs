//! What of a pod a decision depends on: all that a record keeps of it.
//!
//! No environment, no volumes, no image, and of command and arguments only the tensor-parallel size.

use berth_topology::ids::PodUid;
use berth_topology::names;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// Flags whose value is part of what a pod asks.
const FLAGS: [&str; 2] = ["--tensor-parallel-size", "-tp"];
/// No value of such a flag is longer.
const VALUE_CHARS_MAX: usize = 16;

/// A pod that was asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: PodUid,
    /// The Pod as JSON, as far as decisions read it.
    pub pod: String,
}

// === impl Asked ===

impl Asked {
    /// What decisions read of `pod`.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let bare = serde_json::to_string(&reduced(pod)).unwrap_or_default();
        Self {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: PodUid(text(&pod.metadata.uid)),
            pod: bare,
        }
    }

    /// The pod again.
    ///
    /// # Errors
    /// When the text is no Pod.
    pub fn read(&self) -> Result<Pod, serde_json::Error> {
        serde_json::from_str(&self.pod)
    }

    /// `NAMESPACE/NAME`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn reduced(pod: &Pod) -> Pod {
    let metadata = &pod.metadata;
    let ours = metadata.annotations.iter().flatten();
    let ours = ours.filter(|(key, _)| key.starts_with(names::PREFIX));
    Pod {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            annotations: Some(
                ours.map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            ),
            deletion_timestamp: metadata.deletion_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: pod.spec.as_ref().map(reduced_spec),
        status: pod.status.as_ref().map(|status| PodStatus {
            phase: status.phase.clone(),
            nominated_node_name: status.nominated_node_name.clone(),
            qos_class: status.qos_class.clone(),
            ..PodStatus::default()
        }),
    }
}

fn reduced_spec(spec: &PodSpec) -> PodSpec {
    let reduced =
        |list: &[Container]| -> Vec<Container> { list.iter().map(reduced_container).collect() };
    PodSpec {
        node_name: spec.node_name.clone(),
        scheduler_name: spec.scheduler_name.clone(),
        scheduling_group: spec.scheduling_group.clone(),
        priority: spec.priority,
        preemption_policy: spec.preemption_policy.clone(),
        resources: spec.resources.clone(),
        containers: reduced(&spec.containers),
        init_containers: spec.init_containers.as_deref().map(reduced),
        ..PodSpec::default()
    }
}

fn reduced_container(container: &Container) -> Container {
    let mut is_value = false;
    let mut reduced = |tokens: &Vec<String>| -> Vec<String> {
        let words = tokens.iter();
        words
            .map(|token| reduced_token(token, &mut is_value))
            .collect()
    };
    Container {
        name: container.name.clone(),
        resources: container.resources.clone(),
        restart_policy: container.restart_policy.clone(),
        command: container.command.as_ref().map(&mut reduced),
        args: container.args.as_ref().map(&mut reduced),
        ..Container::default()
    }
}

/// A flag, or a number that is its value. Other words are kept as empty ones, so that a value stays
/// beside its flag even where one ends the command and the other begins the arguments.
fn reduced_token(token: &str, is_value: &mut bool) -> String {
    let is_number = |text: &str| {
        text.len() <= VALUE_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let was_value = std::mem::replace(is_value, FLAGS.contains(&token));
    match token.split_once('=') {
        _ if *is_value => token.to_owned(),
        _ if was_value && is_number(token) => token.to_owned(),
        Some((flag, value)) if FLAGS.contains(&flag) && is_number(value) => token.to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Ask;
    use crate::fixtures::{RESOURCE, annotated, pod};

    #[track_caller]
    fn check(args: &[&str]) {
        let mut pod = annotated(pod("p", 8), names::LINK, "nvlink");
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.args = Some(args.iter().map(|arg| (*arg).to_owned()).collect());
        container.env = serde_json::from_str(r#"[{"name":"TOKEN","value":"secret"}]"#).unwrap();
        let asked = Asked::of(&pod);
        assert!(!asked.pod.contains("secret"), "{}", asked.pod);
        let ask = |pod: &Pod| format!("{:?}", Ask::of_pod(pod, RESOURCE));
        assert_eq!(ask(&asked.read().unwrap()), ask(&pod));
    }

    #[test]
    fn what_is_kept_asks_the_same_and_tells_nothing_else() {
        check(&[
            "serve",
            "--api-key",
            "secret",
            "--tensor-parallel-size",
            "4",
        ]);
        check(&["--tensor-parallel-size=2", "--hf-token=secret"]);
        check(&["-tp", "secret"]);
        check(&["-tp", "2"]);
        check(&["-tp", "-tp", "4"]);
        check(&[]);
    }
}
