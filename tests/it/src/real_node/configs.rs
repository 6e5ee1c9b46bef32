//! What containerd and kubelet are told: pure text.

use std::path::Path;

use serde_json::{Value, json};

/// containerd's, in the namespaces.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd's configuration.
///
/// Layers are copied (`native`), which works on any file system. Nothing here has AppArmor, and without
/// `CAP_SYS_RESOURCE` nobody may lower a score of the OOM killer. No plugin sets up networks: the files in
/// `conf_dir` are there because the kubelet asks whether there are any, and pods use the host's network.
/// NVIDIA's runtime is runc under its name: what it would add, the stories lay where it would.
pub(super) fn containerd(runc: &Path, image: &str) -> String {
    let runc = runc.display();
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_apparmor = true
restrict_oom_score_adj = true
enable_cdi = true
cdi_spec_dirs = ["/run/cdi"]
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/run/cni/bin"
conf_dir = "/run/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#
    )
}

/// A network that no pod asks for.
pub(super) fn network() -> Value {
    json!({"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "none"}]})
}

/// KubeletConfiguration, `kubelet.config.k8s.io/v1beta1`.
///
/// Disk and memory of the machine are not the stories' business: nothing is evicted, no image removed. The
/// node's capacity is reported every second, for stories wait for it.
pub(super) fn kubelet(port: u16, cgroup_root: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": port,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": false,
        "failSwapOn": false,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "makeIPTablesUtilChains": false,
        "nodeStatusUpdateFrequency": "1s",
        "evictionHard": {"memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    })
}
