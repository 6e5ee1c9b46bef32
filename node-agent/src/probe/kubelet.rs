//! The kubelet's configuration file, as far as it decides where a pod's CPUs and devices come from.

use std::path::Path;

use berth_topology::raw::{Answer, RawKubelet};
use serde_json::Value;

use super::text;

/// A kubelet's configuration has some hundred lines.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const KIND: &str = "KubeletConfiguration";

/// Reads a `KubeletConfiguration`, YAML or JSON.
pub(super) fn read(path: &Path) -> Answer<RawKubelet> {
    match parse(path) {
        Ok(config) => Answer::Value(config),
        Err(why) => Answer::failed(format!("{}: {why}", path.display())),
    }
}

fn parse(path: &Path) -> Result<RawKubelet, String> {
    let bytes = text::read_bounded(path, CONFIG_BYTES_MAX).map_err(|error| error.to_string())?;
    let document: Value =
        serde_yaml_ng::from_slice(&bytes).map_err(|error| format!("not YAML: {error}"))?;
    if document["kind"] != KIND {
        return Err(format!("its kind is not {KIND}"));
    }
    serde_json::from_value(document).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Answer<RawKubelet> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn policies_are_read_and_the_rest_is_ignored() {
        let config = read_text(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             clusterDNS: [10.96.0.10]\ncpuManagerPolicy: static\nmemoryManagerPolicy: Static\n\
             cpuManagerPolicyOptions: {full-pcpus-only: \"true\"}\n\
             topologyManagerPolicy: single-numa-node\nreservedSystemCPUs: \"0,64\"\n",
        );
        let config = config.value().unwrap();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(config.cpu_manager_policy, some("static"));
        assert_eq!(config.memory_manager_policy, some("Static"));
        assert_eq!(config.topology_manager_policy, some("single-numa-node"));
        assert_eq!(config.topology_manager_scope, None);
        assert_eq!(config.reserved_system_cpus, some("0,64"));
        let options = config.cpu_manager_policy_options.as_ref().unwrap();
        assert_eq!(options["full-pcpus-only"], "true");
    }

    #[test]
    fn another_file_is_a_failure_that_names_it() {
        for (text, expected) in [
            ("kind: Pod\n", "its kind is not KubeletConfiguration"),
            ("kind: [\n", "not YAML"),
            (
                "kind: KubeletConfiguration\ncpuManagerPolicy: 7\n",
                "invalid type",
            ),
        ] {
            let answer = read_text(text);
            let error = answer.error().unwrap();
            assert!(error.contains(expected), "{error}");
        }
        let missing = read(Path::new("/nonexistent/config.yaml"));
        assert!(
            missing
                .error()
                .unwrap()
                .contains("/nonexistent/config.yaml")
        );
    }
}
