//! Pods whose container runs here: busybox, which prints its environment and waits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_topology::names;
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use kube::ResourceExt as _;
use serde_json::json;

use super::image;
use crate::pods::{CONTAINER, NAMESPACE};

/// Says what it was given, takes each of its GPUs in the folder that all such pods share, counts there as long
/// as it lives, and gives them back after its time, or at once when it is told to: within a second if that comes just before a `wait`,
/// which this shell then sleeps through.
const SCRIPT: &str = r#"
IFS=,
release() {
    for gpu in $NVIDIA_VISIBLE_DEVICES; do [ ! -d /held ] || rmdir "/held/$gpu"; done
    exit 0
}
# One that was killed has left its GPU taken, but no longer counts.
take() {
    ! mkdir "/held/$1" || return 0
    before= now=
    read -r before < "/held/$1.count"
    for second in 1 2 3 4 5 6 7 8 9 10; do
        sleep 1
        read -r now < "/held/$1.count"
        [ "$now" = "$before" ] || return 1
    done
}
trap release TERM
env
for gpu in $NVIDIA_VISIBLE_DEVICES; do
    [ ! -d /held ] || take "$gpu" || echo "HELD_BY_ANOTHER=$gpu"
done
echo END
lived=0
while [ "$lived" -lt "${LIFE_SECONDS:-2147483647}" ]; do
    for gpu in $NVIDIA_VISIBLE_DEVICES; do
        [ ! -d /held ] || echo "$lived" > "/held/$gpu.count"
    done
    sleep 1 &
    wait
    lived=$((lived + 1))
done
release
"#;
/// After what it says.
const END: &str = "END";
/// What a pod finds in its environment where one of its GPUs is in use by another.
pub(super) const HELD_BY_ANOTHER: &str = "HELD_BY_ANOTHER";
/// The host's folder of the GPUs that are in use, as seen by the kubelet.
const HELD: &str = "/run/held";

/// A pod that asks for nothing.
///
/// # Panics
/// Never: the object is written here.
#[must_use]
pub fn plain_pod(name: &str) -> Pod {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"schedulerName": names::SCHEDULER, "containers": [{"name": CONTAINER}]},
    }));
    running_here(pod.expect("this is a pod"))
}

/// The same pod with an image that is there, on the host's network.
#[must_use]
pub fn running_here(mut pod: Pod) -> Pod {
    let spec = pod.spec.get_or_insert_default();
    spec.host_network = Some(true);
    spec.termination_grace_period_seconds = Some(5);
    // Nobody publishes the certificate that its volume holds.
    spec.automount_service_account_token = Some(false);
    for container in &mut spec.containers {
        container.image = Some(image::NAME.to_owned());
        container.image_pull_policy = Some("Never".to_owned());
        container.command = Some(["sh", "-c", SCRIPT].map(str::to_owned).to_vec());
    }
    pod
}

/// As [`running_here`], and it takes its GPUs where others would see it, for so long.
///
/// # Panics
/// Never: the objects are written here.
#[must_use]
pub fn holding_here(pod: Pod, seconds: Option<usize>) -> Pod {
    let mut pod = running_here(pod);
    let spec = pod.spec.get_or_insert_default();
    spec.restart_policy = Some("Never".to_owned());
    let volume = json!({"name": "held", "hostPath": {"path": HELD, "type": "DirectoryOrCreate"}});
    let volume = serde_json::from_value(volume).expect("this is a volume");
    spec.volumes.get_or_insert_default().push(volume);
    for container in &mut spec.containers {
        let mount = json!({"name": "held", "mountPath": "/held"});
        let mount = serde_json::from_value(mount).expect("this is a mount");
        container.volume_mounts.get_or_insert_default().push(mount);
        let life = seconds.map(|seconds| EnvVar {
            name: "LIFE_SECONDS".to_owned(),
            value: Some(seconds.to_string()),
            ..EnvVar::default()
        });
        container.env.get_or_insert_default().extend(life);
    }
    pod
}

/// Where the kubelet has a container's output written: NAMESPACE_NAME_UID/CONTAINER, in it a file N.log for each
/// start. One that the kubelet did not live to see leaves none.
pub(super) fn log_folder(pod: &Pod) -> Result<String> {
    let uid = pod.uid().context("reading a pod's uid")?;
    let name = pod.name_any();
    Ok(format!(
        "/var/log/pods/{NAMESPACE}_{name}_{uid}/{CONTAINER}"
    ))
}

/// What the container said since it was last started.
pub(super) fn last_log(folder: &Path) -> Result<String> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u32>().ok();
    let logs = entries.flatten().map(|entry| entry.path());
    let last = logs.max_by_key(number).context("it has not started")?;
    fs::read_to_string(&last).with_context(|| format!("reading {}", last.display()))
}

/// From a log in CRI's format: TIME STREAM F|P TEXT, where P is a line that the next one continues.
pub(super) fn printed_environment(log: &str) -> Result<BTreeMap<String, String>> {
    let mut lines = vec![String::new()];
    for line in log.lines() {
        let mut words = line.splitn(4, ' ');
        let (whole, text) = (words.nth(2), words.next().unwrap_or_default());
        if let Some(last) = lines.last_mut() {
            last.push_str(text);
        }
        if whole == Some("F") {
            lines.push(String::new());
        }
    }
    let end = lines.iter().position(|line| line == END);
    let end = end.with_context(|| format!("it has printed {} lines so far", lines.len()))?;
    let variables = lines[..end].iter().filter_map(|line| line.split_once('='));
    Ok(variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}
