//! What pods ask, as people write it.

use berth_topology::claim::{GpuClaim, LinkPolicy, NumaPolicy, PodClaim, model_matches};
use berth_topology::link::LinkClass;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

fn pod(gpus: &str, args: &[&str], annotations: &[(&str, &str)]) -> Pod {
    let annotations: serde_json::Map<_, _> = annotations
        .iter()
        .map(|(name, value)| (format!("berth.dev/{name}"), json!(value)))
        .collect();
    serde_json::from_value(json!({
        "metadata": { "name": "p", "annotations": annotations },
        "spec": { "containers": [{
            "name": "engine", "args": args, "resources": { "limits": { "nvidia.com/gpu": gpus } },
        }]},
    }))
    .expect("a pod")
}

fn claim(pod: &Pod) -> Result<GpuClaim, String> {
    let claim = PodClaim::of_pod(pod, "nvidia.com/gpu").map_err(|error| error.to_string())?;
    Ok(claim
        .containers
        .into_iter()
        .next()
        .expect("one container")
        .claim)
}

#[track_caller]
fn check_size(
    gpus: &str,
    args: &[&str],
    annotations: &[(&str, &str)],
    expected: Result<Option<usize>, &str>,
) {
    let size = claim(&pod(gpus, args, annotations)).map(|claim| claim.tensor_parallel_size);
    assert_eq!(size, expected.map_err(str::to_owned));
}

#[test]
fn a_bare_count_asks_for_one_group_and_any_link() {
    let claim = claim(&pod("4", &[], &[])).unwrap();
    assert_eq!(claim, GpuClaim::of_count(4));
    assert_eq!(claim.group_size(), 4);
}

#[test]
fn annotations_say_how_the_gpus_are_wired() {
    let wishes = [
        ("link", "nvlink"),
        ("link-policy", "require"),
        ("numa", "single"),
        ("gpu-memory", "40Gi"),
    ];
    let claim = claim(&pod("2", &[], &wishes)).unwrap();
    assert_eq!(
        (claim.link, claim.link_policy),
        (LinkClass::NvLink, LinkPolicy::Require)
    );
    assert_eq!(
        (claim.numa, claim.gpu_memory_bytes_min),
        (NumaPolicy::Single, Some(40 << 30))
    );
}

#[test]
fn a_bad_annotation_is_refused_with_its_name_its_value_and_what_is_allowed() {
    let error = claim(&pod("2", &[], &[("link", "nvlnk")])).unwrap_err();
    assert_eq!(
        error,
        r#"annotation berth.dev/link is "nvlnk"; allowed: nvlink, switch, numa, any"#
    );
    assert!(
        claim(&pod("2", &[], &[("gpu-memory", "lots")]))
            .unwrap_err()
            .contains("40Gi")
    );
}

#[test]
fn the_size_comes_from_the_annotation_else_from_exact_tokens() {
    check_size("8", &["--tensor-parallel-size", "4"], &[], Ok(Some(4)));
    check_size("8", &["--tensor-parallel-size=2"], &[], Ok(Some(2)));
    check_size("8", &["-tp", "8"], &[], Ok(Some(8)));
    check_size("8", &["--tensor-parallel-size-like", "4"], &[], Ok(None));
    check_size(
        "8",
        &["-tp", "2"],
        &[("tensor-parallel-size", "4")],
        Ok(Some(4)),
    );
}

#[test]
fn arguments_never_refuse_and_more_than_there_is_means_all() {
    check_size("4", &["-tp", "16"], &[], Ok(Some(4)));
    check_size("4", &["-tp", "3"], &[], Ok(None));
    check_size("4", &["-tp", "many"], &[], Ok(None));
    check_size("4", &["-tp"], &[], Ok(None));
}

#[test]
fn an_annotated_size_that_does_not_divide_is_refused() {
    let sentence = "annotation berth.dev/tensor-parallel-size does not divide the container's GPUs; \
                    allowed: a divisor of its GPU count";
    check_size("4", &[], &[("tensor-parallel-size", "3")], Err(sentence));
    check_size("4", &[], &[("tensor-parallel-size", "8")], Err(sentence));
}

#[test]
fn a_count_that_is_no_count_is_refused() {
    assert!(
        claim(&pod("99999999", &[], &[]))
            .unwrap_err()
            .contains("whole number up to 1024")
    );
}

#[test]
fn init_containers_reuse_and_sidecars_hold() {
    let gpus = json!({ "limits": { "nvidia.com/gpu": "2" } });
    let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
        "initContainers": [
            { "name": "warm", "resources": { "limits": { "nvidia.com/gpu": "3" } } },
            { "name": "side", "restartPolicy": "Always", "resources": gpus },
        ],
        "containers": [{ "name": "main", "resources": gpus }, { "name": "log" }],
    }}))
    .unwrap();
    let claim = PodClaim::of_pod(&pod, "nvidia.com/gpu").unwrap();
    let names: Vec<_> = claim
        .containers
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    assert_eq!(
        (names, claim.init.len(), claim.gpu_count()),
        (vec!["side", "main"], 1, 4)
    );
}

#[test]
fn models_match_by_whole_words() {
    let h100 = "NVIDIA H100 80GB HBM3";
    for (wanted, matches) in [
        ("h100", true),
        ("NVIDIA-H100", true),
        ("H100 80GB", true),
        ("h10", false),
        ("80gb nvidia", false),
        ("", false),
    ] {
        assert_eq!(model_matches(h100, wanted), matches, "{wanted}");
    }
}

/// Name, phase, GPUs and CPUs of each container, and whether the pod is Guaranteed.
fn needs(pod: &Pod) -> (String, bool) {
    let needs = PodClaim::of_pod(pod, "nvidia.com/gpu")
        .expect("a claim")
        .needs;
    let line = |one: &berth_topology::claim::ContainerNeeds| {
        let (gpus, cpus) = (one.gpu_count, one.cpu_count);
        let others = if one.has_other_devices { "+" } else { "" };
        format!("{} {:?} {gpus}/{cpus}{others}", one.name, one.phase)
    };
    let lines: Vec<String> = needs.containers.iter().map(line).collect();
    (lines.join(", "), needs.is_guaranteed)
}

#[test]
fn whole_cpus_of_a_guaranteed_pod_are_exclusive() {
    let container = |name: &str, cpu: &str, gpus: &str| {
        let limits = json!({"cpu": cpu, "memory": "1Gi", "nvidia.com/gpu": gpus});
        json!({"name": name, "resources": {"limits": limits}})
    };
    let mut sidecar = container("s", "500m", "0");
    sidecar["restartPolicy"] = json!("Always");
    let mut pod = json!({"spec": {
        "initContainers": [container("i", "2", "1"), sidecar],
        "containers": [container("a", "4", "2"), container("b", "2000m", "0")],
    }});
    let read = |pod: &serde_json::Value| needs(&serde_json::from_value(pod.clone()).unwrap());
    assert_eq!(
        read(&pod),
        (
            "i Init 1/2, s Sidecar 0/0, a Main 2/4, b Main 0/2".to_owned(),
            true
        )
    );
    // A request below its limit, as the API server says itself, or an RDMA card.
    pod["spec"]["containers"][0]["resources"]["limits"]["rdma/hca"] = json!("1");
    pod["spec"]["containers"][1]["resources"]["requests"] = json!({"cpu": "1"});
    let burstable = "i Init 1/0, s Sidecar 0/0, a Main 2/0+, b Main 0/0".to_owned();
    assert_eq!(read(&pod), (burstable.clone(), false));
    pod["status"] = json!({"qosClass": "Burstable"});
    pod["spec"]["containers"][1]["resources"]["requests"] = json!({});
    assert_eq!(read(&pod), (burstable, false));
}

#[test]
fn sidecars_stand_beside_the_init_containers_after_them() {
    let container = |name: &str, gpus: u32, restart: Option<&str>| {
        let limits = json!({"nvidia.com/gpu": gpus.to_string()});
        json!({"name": name, "resources": {"limits": limits}, "restartPolicy": restart})
    };
    let pod = json!({"spec": {
        "initContainers": [
            container("i", 2, None), container("s", 1, Some("Always")), container("j", 2, None),
        ],
        "containers": [container("a", 1, None)],
    }});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let claim = PodClaim::of_pod(&pod, "nvidia.com/gpu").unwrap();
    assert_eq!(claim.gpu_count(), 3);
}
