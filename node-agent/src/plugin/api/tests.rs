//! Bytes that Kubernetes' own package (`k8s.io/kubelet` 0.37.1, in Go) wrote.

use prost::Message;

use super::super::pod_resources::{
    AllocatableResourcesResponse, ContainerDevices, ContainerResources, ListPodResourcesResponse,
    PodResources,
};
use super::*;

/// Ours are the same, and theirs are read back.
#[track_caller]
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, hex: &str) {
    let bytes = message.encode_to_vec();
    let written: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(written, hex);
    check_read(message, hex);
}

#[track_caller]
fn check_read<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, hex: &str) {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = digits.map(byte).collect();
    assert_eq!(M::decode(bytes.as_slice()).unwrap(), *message);
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

#[test]
fn a_registration_is_written_as_kubernetes_does() {
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: "e.sock".to_owned(),
        resource_name: "nvidia.com/gpu".to_owned(),
        options: Some(DevicePluginOptions {
            pre_start_required: true,
            get_preferred_allocation_available: true,
        }),
    };
    check(
        &request,
        "0a07763162657461311206652e736f636b1a0e6e76696469612e636f6d2f677075220408011001",
    );
}

#[test]
fn devices_are_listed_as_kubernetes_does() {
    let device = |id: &str, health: &str, node: Option<i64>| Device {
        id: id.to_owned(),
        health: health.to_owned(),
        topology: node.map(|id| TopologyInfo {
            nodes: vec![NumaNode { id }],
        }),
    };
    let list = ListAndWatchResponse {
        devices: vec![
            device("GPU-a", HEALTHY, Some(1)),
            device("GPU-b", UNHEALTHY, None),
        ],
    };
    check(
        &list,
        "0a160a054750552d6112074865616c7468791a040a0208010a120a054750552d621209556e6865616c746879",
    );
}

#[test]
fn questions_and_answers_on_preferences_are_written_as_kubernetes_does() {
    let request = ContainerPreferredAllocationRequest {
        available_device_ids: texts(["a", "b"]),
        must_include_device_ids: texts(["b"]),
        allocation_size: 2,
    };
    let request = PreferredAllocationRequest {
        container_requests: vec![request],
    };
    check(&request, "0a0b0a01610a01621201621802");
    let response = ContainerPreferredAllocationResponse {
        device_ids: texts(["a", "b"]),
    };
    let response = PreferredAllocationResponse {
        container_responses: vec![response],
    };
    check(&response, "0a060a01610a0162");
}

#[test]
fn allocations_are_written_as_kubernetes_does() {
    let devices_ids = texts(["a", "b"]);
    let request = AllocateRequest {
        container_requests: vec![ContainerAllocateRequest { devices_ids }],
    };
    check(&request, "0a060a01610a0162");
    let pair = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
    let response = ContainerAllocateResponse {
        envs: pair("K", "v"),
        mounts: vec![Mount {
            container_path: "/c".to_owned(),
            host_path: "/h".to_owned(),
            read_only: true,
        }],
        devices: vec![DeviceSpec {
            container_path: "/dev/c".to_owned(),
            host_path: "/dev/h".to_owned(),
            permissions: "rw".to_owned(),
        }],
        annotations: pair("A", "b"),
        cdi_devices: vec![CdiDevice {
            name: "nvidia.com/gpu=a".to_owned(),
        }],
    };
    let response = AllocateResponse {
        container_responses: vec![response],
    };
    check(
        &response,
        "0a460a060a014b120176120a0a022f6312022f6818011a140a062f6465762f6312062f6465762f681a027277\
         22060a01411201622a120a106e76696469612e636f6d2f6770753d61",
    );
    let request = PreStartContainerRequest {
        devices_ids: texts(["a"]),
    };
    check(&request, "0a0161");
}

#[test]
fn podresources_is_read_and_what_we_do_not_need_of_it_is_passed_over() {
    let container = ContainerResources {
        name: "c".to_owned(),
        devices: vec![ContainerDevices {
            resource_name: "nvidia.com/gpu".to_owned(),
            device_ids: texts(["a"]),
        }],
        cpu_ids: vec![2, 300],
    };
    let list = ListPodResourcesResponse {
        pod_resources: vec![PodResources {
            name: "p".to_owned(),
            namespace: "n".to_owned(),
            containers: vec![container],
        }],
    };
    check_read(
        &list,
        "0a3a0a017012016e1a2f0a016312190a0e6e76696469612e636f6d2f6770751201611a040a0208011a0302ac\
         02220a0a066d656d6f72791001220109",
    );
    let allocatable = AllocatableResourcesResponse {
        devices: vec![ContainerDevices {
            resource_name: "r/g".to_owned(),
            device_ids: texts(["a", "b"]),
        }],
    };
    check_read(&allocatable, "0a0b0a03722f67120161120162120101");
}
