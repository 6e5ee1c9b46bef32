//! `berth place`.

use expect_test::{Expect, expect};

use crate::program::transcript;

#[track_caller]
fn check(line: &str, expected: Expect) {
    expected.assert_eq(&transcript(line));
}

#[test]
fn quad_of_a_dgx1_is_one_socket_and_says_why() {
    check(
        "place --machine dgx1-v100 --gpus 4",
        expect![[r#"
        dgx1-v100: 4 GPUs of 8
        RANK  GPU  NUMA  CPUS                  UUID
           0    0     0  0-19,40-59            GPU-97c70213-f6e1-5d9b-a7f9-c8e272fda6cc
           1    1     0  0-19,40-59            GPU-234199de-9415-539b-8f4b-456724354567
           2    2     0  0-19,40-59            GPU-9a789d88-daa5-50fb-8a73-02578a099e27
           3    3     0  0-19,40-59            GPU-482e5a16-58f1-5d37-bc40-1e99e9dabe99
        NVLink joins them at 100.0 GB/s; weakest pair: nvlink
        NUMA node 0
        score 10 of 10: as good as this machine has
        = 0
    "#]],
    );
}

#[test]
fn second_quad_is_the_other_socket_as_json() {
    check(
        "place --machine dgx1-v100 --gpus 4 --taken 0,1,2,3 --json",
        expect![[r#"
            {"schema":"berth.dev/v1alpha1","feasible":true,"machine":"dgx1-v100","ranks":[{"rank":0,"gpu":"GPU-49c6ba7e-1361-59ae-9e21-4aa81063cbba","index":4,"numaNode":1,"cpus":"20-39,60-79"},{"rank":1,"gpu":"GPU-52e476a9-5b95-5fa6-9620-83238f918389","index":5,"numaNode":1,"cpus":"20-39,60-79"},{"rank":2,"gpu":"GPU-93df3d53-af4e-5ba5-9555-705791b1cbe7","index":6,"numaNode":1,"cpus":"20-39,60-79"},{"rank":3,"gpu":"GPU-e5e83254-7110-5392-b17a-5e1d294af48c","index":7,"numaNode":1,"cpus":"20-39,60-79"}],"weakestLink":"nvlink","gbPerSecond":100.0,"numaNodes":[1],"score":10,"exact":false,"inexact":"PluginNotOurs"}
            = 0
        "#]],
    );
}

#[test]
fn single_gpu_has_no_link() {
    check(
        "place --machine l40s-4 --gpus 1 --taken 0 --json",
        expect![[r#"
            {"schema":"berth.dev/v1alpha1","feasible":true,"machine":"l40s-4","ranks":[{"rank":0,"gpu":"GPU-050cfbce-e142-565f-aec4-a36f5bb99be1","index":1,"numaNode":0,"cpus":"0-95,192-287"}],"numaNodes":[0],"score":10,"exact":false,"inexact":"PluginNotOurs"}
            = 0
        "#]],
    );
}

#[test]
fn two_groups_of_bridged_pairs() {
    check(
        "place --machine a100-pcie-02 --gpus 4 --tensor-parallel-size 2",
        expect![[r#"
            a100-pcie-02: 4 GPUs of 8
            RANK  GPU  NUMA  CPUS                  UUID
               0    0     0  0-31,64-95            GPU-e0883049-7b63-5f8d-a11d-e41b6c1d2c47
               1    2     0  0-31,64-95            GPU-808efee6-979c-504b-a695-be54e18b800f
               2    1     0  0-31,64-95            GPU-f4ed7921-d89f-5493-85b7-2a3c483f8976
               3    3     0  0-31,64-95            GPU-912eefc1-6887-5fcf-9eba-741469f7a2bc
            NVLink joins them at 309.4 GB/s; weakest pair: nvlink
            NUMA node 0
            score 10 of 10: as good as this machine has
            = 0
        "#]],
    );
}

#[test]
fn refusal_that_others_leaving_resolves() {
    check(
        "place --machine l40s-4 --gpus 4 --taken 2 --json",
        expect![[r#"
            {"schema":"berth.dev/v1alpha1","feasible":false,"reason":{"type":"NotEnoughFree","resolvable":true,"message":"not enough free GPUs"}}
            ! refused: NotEnoughFree: not enough free GPUs (others leaving could help)
            = 3
        "#]],
    );
}

#[test]
fn refusal_for_good() {
    check(
        "place --machine l40s-4 --gpus 2 --link nvlink --link-policy require",
        expect![[r#"
            ! refused: LinkImpossible: no GPUs of the node are linked as the pod requires
            = 3
        "#]],
    );
    check(
        "place --machine l40s-4 --gpus 3 --numa single --json",
        expect![[r#"
            {"schema":"berth.dev/v1alpha1","feasible":false,"reason":{"type":"NumaImpossible","resolvable":false,"message":"no NUMA node has the GPUs that the pod requires on one"}}
            ! refused: NumaImpossible: no NUMA node has the GPUs that the pod requires on one
            = 3
        "#]],
    );
    check(
        "place --machine l40s-4 --gpus 4 --tensor-parallel-size 3 --json",
        expect![[r#"
            {"schema":"berth.dev/v1alpha1","feasible":false,"reason":{"type":"BadClaim","resolvable":false,"message":"annotation berth.dev/tensor-parallel-size does not divide the container's GPUs; allowed: a divisor of its GPU count"}}
            ! refused: BadClaim: annotation berth.dev/tensor-parallel-size does not divide the container's GPUs; allowed: a divisor of its GPU count
            = 3
        "#]],
    );
}

#[test]
fn cpu_ranks_take_a_socket_each() {
    check(
        "place --machine l40s-4 --gpus 0 --tensor-parallel-size 2",
        expect![[r#"
            l40s-4: 2 CPU ranks
            RANK  GPU  NUMA  CPUS                  UUID
               0    -     0  0-95,192-287
               1    -     1  96-191,288-383
            NUMA nodes 0, 1
            = 0
        "#]],
    );
}

#[test]
fn taken_gpus_may_be_named_by_uuid_or_index_but_must_exist() {
    let by_uuid =
        "place --machine l40s-4 --gpus 2 --taken GPU-711ec304-7804-5c51-b09a-dbea8d6fbcec";
    assert_eq!(
        transcript(by_uuid),
        transcript("place --machine l40s-4 --gpus 2 --taken 0")
    );
    check(
        "place --machine l40s-4 --gpus 1 --taken 9",
        expect![[r#"
        ! berth: --taken: l40s-4 has no GPU "9"
        = 2
    "#]],
    );
    check(
        "place --machine l40s-4 --gpus 0",
        expect![[r#"
        ! berth: --gpus 0 needs --tensor-parallel-size: how many CPU ranks?
        = 2
    "#]],
    );
}
