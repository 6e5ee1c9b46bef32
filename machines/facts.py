"""What is known of each machine, one entry each, with its source.

`generate.py` derives everything else (PCI bridges, ancestors, distances, NVML's answers).

tree    host bridges: (root bus, NUMA node, ports). A port is a device (direct), a list (a PCIe
        switch with those behind it; lists nest) or a tuple (functions or devices of one bus).
        Devices: "gpu0@1a", "mlx5_0@61:00.1/nic", "@c4/nvswitch"; without slot it is 00.0.
nodes   CPU list of each NUMA node; `sockets` says which nodes make a package.
links   direct NVLinks: {(a, b): lanes}; or `switched`: every pair reaches every other through
        NVSwitches, `lanes` of a GPU spread over them.
"""

V100 = dict(capability=(7, 0), generation=3, nvlink=2, era="volta")
A100 = dict(capability=(8, 0), generation=4, nvlink=3, era="ampere")
H100 = dict(capability=(9, 0), generation=5, nvlink=4, era="hopper")
B200 = dict(capability=(10, 0), generation=5, nvlink=5, era="hopper")
# watts: the board's power of its data sheet, which is the limit after a boot. watts_range and celsius (slows
# down, shuts down) of the V100: NVIDIA/nvidia-docker#1076.
MODELS = {
    "Tesla P100-SXM2-16GB": dict(capability=(6, 0), mib=16280, generation=3, nvlink=1, era="volta", watts=300),
    "Tesla V100-SXM2-32GB": dict(V100, mib=32768, watts=300, watts_range=(150, 300), celsius=(87, 90)),
    "Tesla V100-SXM3-32GB": dict(V100, mib=32768, watts=350),
    "NVIDIA A100-SXM4-40GB": dict(A100, mib=40960, watts=400),
    "NVIDIA A100 80GB PCIe": dict(A100, mib=81920, watts=300),
    "NVIDIA H100 80GB HBM3": dict(H100, mib=81559, watts=700),
    "NVIDIA H200": dict(H100, mib=143771, watts=700),
    "NVIDIA B200": dict(B200, mib=183359, watts=1000),
    "NVIDIA GB200": dict(B200, mib=189471, watts=1200),
    "NVIDIA L40S": dict(capability=(8, 9), mib=46068, generation=4, nvlink=0, era="ada", watts=350),
    "NVIDIA GeForce RTX 4090": dict(
        capability=(8, 9), mib=24564, generation=4, nvlink=None, era="consumer", watts=450
    ),
}

BRIDGES_DERIVED = "PCI bridges, root buses, distances and memory sizes are derived."
# NVIDIA's guides of the DGX H100/H200 and the DGX B200: AllowableMin, AllowableMax of a GPU's power.
DGX_WATTS = (200, 700)
# The processors that NVIDIA names for the DGX: caches by Intel and AMD. l3_kib is shared by cores_each cores.
XEON_8480C = dict(l3_kib=105 << 10, cores_each=56, l2_kib=2048, l1_kib=(48, 32))
EPYC_7742 = dict(l3_kib=16 << 10, cores_each=4, l2_kib=512, l1_kib=(32, 32))
H100_CPUS = ["0-55,112-167", "56-111,168-223"]
SIX_BY_24 = ["0-23,144-167", "24-47,168-191", "48-71,192-215",
             "72-95,216-239", "96-119,240-263", "120-143,264-287"]

DGX1_TREE = [
    ("0000:00", 0, [["mlx5_0@05/ib100", "gpu0@06", "gpu1@07"], ["gpu2@0a", "gpu3@0b", "mlx5_1@0c/ib100"]]),
    ("0000:80", 1, [["mlx5_2@84/ib100", "gpu4@85", "gpu5@86"], ["gpu6@89", "gpu7@8a", "mlx5_3@8b/ib100"]]),
]


def own_bridge(root, numa, bus, gpu, nic):
    """A host bridge with one switch, behind it a NIC and then a GPU on consecutive buses."""
    return (root, numa, [[f"{nic}@{bus:02x}/ib400", f"gpu{gpu}@{bus + 1:02x}"]])


def p5_group(index, bus):
    """Four 100 Gb/s EFA cards and a GPU behind one switch, on consecutive buses."""
    cards = [f"rdmap{b}s0@{b:02x}/efa100" for b in range(bus, bus + 4)]
    return cards + [f"gpu{index}@{bus + 4:02x}"]


MACHINES = {
    "dgx1-v100": dict(
        model="Tesla V100-SXM2-32GB",
        nodes=["0-19,40-59", "20-39,60-79"], sockets=[[0], [1]], node_gib=256,
        tree=DGX1_TREE,
        links={(0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 5): 2, (2, 3): 2, (4, 7): 2, (5, 6): 2, (6, 7): 2,
               (0, 1): 1, (0, 2): 1, (1, 3): 1, (2, 6): 1, (3, 7): 1, (4, 5): 1, (4, 6): 1, (5, 7): 1},
        source="NVLinks, PCIe paths: NVIDIA/go-gpuallocator gpuallocator/common_test.go "
               "(NewDGX1VoltaNode); PCI buses 06 07 0a 0b 85 86 89 8a and CPU lists: coldzerofear/vgpu-manager "
               "docs; the four NICs' buses: the machine's interface names (ibp5s0, ibp12s0, ibp132s0, "
               "ibp139s0). " + BRIDGES_DERIVED,
    ),
    "dgx1-p100": dict(
        model="Tesla P100-SXM2-16GB",
        nodes=["0-19,40-59", "20-39,60-79"], sockets=[[0], [1]], node_gib=256,
        tree=[
            ("0000:00", 0, [["mlx5_0@05/ib100", "gpu0@06", "gpu2@07"], ["gpu1@0a", "gpu3@0b", "mlx5_1@0c/ib100"]]),
            ("0000:80", 1, [["mlx5_2@84/ib100", "gpu4@85", "gpu6@86"], ["gpu5@89", "gpu7@8a", "mlx5_3@8b/ib100"]]),
        ],
        links={(a, b): 1 for a, b in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (4, 5), (4, 6),
                                      (4, 7), (5, 6), (5, 7), (6, 7), (0, 4), (1, 5), (2, 6), (3, 7)]},
        source="NVLinks and PCIe paths (0-2, 1-3, 4-6, 5-7 on one switch each): NVIDIA/go-gpuallocator "
               "gpuallocator/common_test.go (NewDGX1PascalNode). CPU lists and PCI buses as in dgx1-v100 "
               "(assigned so that the pairs come out). " + BRIDGES_DERIVED,
    ),
    "dgx2": dict(
        model="Tesla V100-SXM3-32GB",
        nodes=["0-23,48-71", "24-47,72-95"], sockets=[[0], [1]], node_gib=768,
        tree=[
            ("0000:17", 0, [[["gpu0@34", "mlx5_0@35/ib100", "gpu1@36"], ["gpu2@39", "mlx5_1@3a/ib100", "gpu3@3b"]]]),
            ("0000:4d", 0, [[["gpu4@57", "mlx5_2@58/ib100", "gpu5@59"], ["gpu6@5c", "mlx5_3@5d/ib100", "gpu7@5e"]]]),
            ("0000:6a", 0, [[f"@{b:02x}/nvswitch" for b in range(0x6D, 0x73)]]),
            ("0000:85", 1, [("mlx5_4@86/roce100", "mlx5_5@86:00.1/roce100")]),
            ("0000:ae", 1, [[["gpu8@b7", "mlx5_6@b8/ib100", "gpu9@b9"], ["gpu10@bc", "mlx5_7@bd/ib100", "gpu11@be"]]]),
            ("0000:d7", 1, [[["gpu12@e0", "mlx5_8@e1/ib100", "gpu13@e2"], ["gpu14@e5", "mlx5_9@e6/ib100", "gpu15@e7"]]]),
            ("0000:ef", 1, [[f"@{b:02x}/nvswitch" for b in range(0xF2, 0xF8)]]),
        ],
        switched=6, switches_of=lambda gpu: range(0, 6) if gpu < 8 else range(6, 12),
        source="NV6 for all pairs, NIC paths of GPUs 0-7 and CPU lists: NVIDIA/nccl-tests#78. PCI buses: the "
               "machine's usual numbering; GPUs 8-15, NICs 4-9 and the twelve NVSwitches (six a board, one link "
               "to each) are derived by symmetry. " + BRIDGES_DERIVED,
    ),
    "dgx-a100": dict(
        model="NVIDIA A100-SXM4-40GB",
        cpu=EPYC_7742,
        nodes=[f"{i * 16}-{i * 16 + 15},{i * 16 + 128}-{i * 16 + 143}" for i in range(8)],
        sockets=[[0, 1, 2, 3], [4, 5, 6, 7]], node_gib=128,
        tree=[
            ("0000:00", 3, [[["gpu0@07"], ["mlx5_0@0c/ib200"], ["gpu1@0f"], ["mlx5_1@12/ib200"]]]),
            ("0000:40", 1, [[["gpu2@47"], ["mlx5_2@4b/ib200"], ["gpu3@4e"], ["mlx5_3@54/ib200"]]]),
            ("0000:60", 0, [("mlx5_4@61/ib200", "mlx5_5@61:00.1/roce100")]),
            ("0000:80", 7, [[["gpu4@87"], ["mlx5_6@8d/ib200"], ["gpu5@90"], ["mlx5_7@94/ib200"]]]),
            ("0000:b0", 5, [[["gpu6@b7"], ["mlx5_8@ba/ib200"], ["gpu7@bd"],
                             [f"@{b:02x}/nvswitch" for b in range(0xC4, 0xCA)], ["mlx5_9@cc/ib200"]]]),
            ("0000:e0", 4, [("mlx5_10@e1/ib200", "mlx5_11@e1:00.1/roce100")]),
        ],
        switched=12, module_ids=[2, 4, 3, 1, 6, 8, 7, 5],
        source="NV12, PXB pairs of GPUs and NICs, CPU and NUMA affinity, NVSwitches c4-c9 with two links each, "
               "mlx5_4/5 on NUMA 0: NVIDIA/nccl#1505; GPU buses 07 0f 47 4e 87 90 b7 bd: NVIDIA/DCGM#149. NIC "
               "buses: the machine's usual numbering. Derived: NUMA node of mlx5_10/11, module ids, bridges, "
               "distances, memory sizes.",
    ),
    "hgx-a100-4": dict(
        model="NVIDIA A100-SXM4-40GB",
        nodes=["0-63,128-191", "64-127,192-255"], sockets=[[0], [1]], node_gib=256,
        tree=[("0000:00", 0, ["gpu0@01"]), ("0000:40", 0, ["gpu1@41"]),
              ("0000:80", 1, ["gpu2@81"]), ("0000:c0", 1, ["gpu3@c1"])],
        links={(a, b): 4 for a in range(4) for b in range(a + 1, 4)}, module_ids=[1, 2, 3, 4],
        source="NV4 between all four, direct, no NVSwitch: NVIDIA/nccl-tests#331. The source has boxes with one "
               "and with two NUMA nodes; two here, GPUs 0-1 and 2-3. CPUs, PCI buses, module ids, distances and "
               "memory sizes are derived.",
    ),
    "a100-pcie-01": dict(
        model="NVIDIA A100 80GB PCIe",
        nodes=["0-31,64-95", "32-63,96-127"], sockets=[[0], [1]], node_gib=512,
        tree=[(f"0000:{bus - 1:02x}", i // 4, [f"gpu{i}@{bus:02x}"])
              for i, bus in enumerate([0x17, 0x31, 0x4B, 0x65, 0x98, 0xB1, 0xCA, 0xE3])],
        links={(0, 1): 12, (2, 3): 12, (4, 5): 12, (6, 7): 12},
        source="Bridged pairs (0,1)(2,3)(4,5)(6,7) NV12, else NODE and SYS: NVIDIA/k8s-device-plugin#546, "
               "rapidsai/dask-cuda#1381. CPUs, PCI buses, distances and memory sizes are derived.",
    ),
    "a100-pcie-02": dict(
        model="NVIDIA A100 80GB PCIe",
        nodes=["0-31,64-95", "32-63,96-127"], sockets=[[0], [1]], node_gib=512,
        tree=[(f"0000:{bus - 1:02x}", i // 4, [f"gpu{i}@{bus:02x}"])
              for i, bus in enumerate([0x17, 0x31, 0x4B, 0x65, 0x98, 0xB1, 0xCA, 0xE3])],
        links={(0, 2): 12, (1, 3): 12, (4, 5): 12, (6, 7): 12},
        source="Bridged pairs (0,2)(1,3)(4,5)(6,7) NV12, else NODE and SYS: NVIDIA/k8s-device-plugin#436, "
               "#546. CPUs, PCI buses, distances and memory sizes are derived.",
    ),
    "dgx-h100": dict(
        model="NVIDIA H100 80GB HBM3",
        watts_range=DGX_WATTS, cpu=XEON_8480C,
        nodes=H100_CPUS, sockets=[[0], [1]], node_gib=1024,
        tree=[
            ("0000:00", 0, [[f"@{b:02x}/nvswitch" for b in range(0x05, 0x09)]]),
            ("0000:15", 0, [["gpu0@1a", "gpu1@1b", "mlx5_0@1c/ib400", "mlx5_1@1d/ib400"]]),
            ("0000:45", 0, [["gpu2@4a", "gpu3@4b", "mlx5_2@4c/ib400", "mlx5_3@4d/ib400"]]),
            ("0000:85", 1, [["gpu4@8a", "gpu5@8b", "mlx5_4@8c/ib400", "mlx5_5@8d/ib400"]]),
            ("0000:c5", 1, [["gpu6@ca", "gpu7@cb", "mlx5_6@cc/ib400", "mlx5_7@cd/ib400"]]),
        ],
        switched=18, module_ids=[2, 4, 3, 1, 7, 5, 6, 8],
        source="NV18, GPU buses 1a 1b 4a 4b 8a 8b ca cb, four NVSwitches: NVIDIA/nccl#1264; CPU lists and "
               "NUMA: vllm-project/vllm#13855. That GPUs and NICs of neighbouring buses share a switch (PIX) is "
               "derived from the buses, as are NIC and NVSwitch buses, module ids, distances and memory sizes.",
    ),
    "dgx-h200": dict(
        model="NVIDIA H200",
        watts_range=DGX_WATTS, cpu=XEON_8480C,
        nodes=H100_CPUS, sockets=[[0], [1]], node_gib=1024,
        tree=[
            ("0000:00", 0, [[f"@{b:02x}/nvswitch" for b in range(0x07, 0x0B)]]),
            ("0000:13", 0, [[["mlx5_0@18/ib400"], ["gpu0@1b"]]]),
            ("0000:28", 0, [("mlx5_1@29/ib200", "mlx5_2@29:00.1/ib200")]),
            ("0000:3b", 0, [[["mlx5_3@40/ib400"], ["gpu1@43"]]]),
            ("0000:4a", 0, [[["mlx5_4@4f/ib400"], ["gpu2@52"]]]),
            ("0000:59", 0, [[["mlx5_5@5e/ib400"], ["gpu3@61"]]]),
            ("0000:95", 1, [[["mlx5_6@9a/ib400"], ["gpu4@9d"]]]),
            ("0000:a9", 1, [("mlx5_7@aa/ib200", "mlx5_8@aa:00.1/ib200")]),
            ("0000:bb", 1, [[["mlx5_9@c0/ib400"], ["gpu5@c3"]]]),
            ("0000:c9", 1, [[["mlx5_10@ce/ib400"], ["gpu6@d1"]]]),
            ("0000:d7", 1, [[["mlx5_11@dc/ib400"], ["gpu7@df"]]]),
        ],
        switched=18, module_ids=[2, 4, 3, 1, 7, 5, 6, 8],
        source="NV18, twelve NICs with one PXB per GPU and NODE to the rest of the socket, CPU lists: "
               "vllm-project/vllm#13855 (a DGX H100; the H200 has its board). GPU and NIC buses: the machine's "
               "usual numbering. Module ids, NVSwitch buses, bridges, distances and memory sizes are derived.",
    ),
    "h100-nps4": dict(
        model="NVIDIA H100 80GB HBM3",
        nodes=SIX_BY_24, sockets=[[0, 1, 2], [3, 4, 5]], node_gib=256,
        tree=[
            ("0000:00", 0, [[f"@{b:02x}/nvswitch" for b in range(0x05, 0x09)]]),
            own_bridge("0000:15", 0, 0x19, 0, "mlx5_0"), own_bridge("0000:25", 0, 0x29, 1, "mlx5_1"),
            ("0000:31", 0, [("mlx5_2@32/ib200", "mlx5_3@32:00.1/ib200")]),
            own_bridge("0000:45", 2, 0x49, 2, "mlx5_4"), own_bridge("0000:55", 2, 0x59, 3, "mlx5_5"),
            own_bridge("0000:95", 3, 0x99, 4, "mlx5_6"), own_bridge("0000:a5", 3, 0xA9, 5, "mlx5_7"),
            own_bridge("0000:c5", 5, 0xC9, 6, "mlx5_8"), own_bridge("0000:d5", 5, 0xD9, 7, "mlx5_9"),
        ],
        switched=18, module_ids=[2, 4, 3, 1, 7, 5, 6, 8],
        source="NV18, GPUs 0-1 on NUMA 0 (0-23,144-167), 2-3 on NUMA 2 (48-71,192-215), one NIC PIX per GPU: "
               "vllm-project/vllm#25848. Those lists mean 24 cores a node and 144 in all, hence six nodes; that "
               "GPUs 4-5 are on 3 and 6-7 on 5 is derived by symmetry, as are buses, module ids, distances and "
               "memory sizes. Eight of its eighteen NICs are left out.",
    ),
    "hgx-b200": dict(
        model="NVIDIA B200",
        nodes=H100_CPUS, sockets=[[0], [1]], node_gib=1024,
        tree=[own_bridge(f"0000:{bus - 4:02x}", i // 4, bus, i, f"mlx5_{i}")
              for i, bus in enumerate([0x1A, 0x42, 0x51, 0x60, 0x9C, 0xC2, 0xD0, 0xDE])],
        switched=18, module_ids=[1, 2, 3, 4, 5, 6, 7, 8],
        source="NV18, CPU lists, one NIC PIX per GPU and NODE to the rest of the socket: "
               "sgl-project/sglang#9064, #8120. NVLink 5 switches are no PCI devices of the host, so the remote "
               "end has a type but no address. Buses, module ids, distances and memory sizes are derived.",
    ),
    "b200-6numa": dict(
        model="NVIDIA B200",
        nodes=SIX_BY_24, sockets=[[0, 1, 2], [3, 4, 5]], node_gib=384,
        tree=[
            ("0000:10", 0, [["mlx5_0@1a/ib400", "gpu0@1b"], ["mlx5_1@22/ib400", "gpu1@23"]]),
            ("0000:3c", 2, [["mlx5_2@42/ib400", "gpu2@43"], ["mlx5_3@51/ib400", "gpu3@52"]]),
            ("0000:96", 3, [["mlx5_4@9c/ib400", "gpu4@9d"], ["mlx5_5@a5/ib400", "gpu5@a6"]]),
            ("0000:ca", 5, [["mlx5_6@d0/ib400", "gpu6@d1"], ["mlx5_7@de/ib400", "gpu7@df"]]),
        ],
        switched=18, module_ids=[1, 2, 3, 4, 5, 6, 7, 8],
        source="GPUs 0-1, 2-3, 4-5, 6-7 on NUMA nodes 0, 2, 3, 5 of six, each PCIe root complex its own node: "
               "sgl-project/sglang#40055. CPU lists (24 cores a node), buses, NICs, module ids, distances and "
               "memory sizes are derived.",
    ),
    "gb200-tray": dict(
        model="NVIDIA GB200",
        nodes=["0-71", "72-143"], sockets=[[0], [1]], node_gib=480, smt=1,
        tree=[("0008:00", 0, ["gpu0@0008:01"]), ("0009:00", 0, ["gpu1@0009:01"]),
              ("0018:00", 1, ["gpu2@0018:01"]), ("0019:00", 1, ["gpu3@0019:01"])],
        switched=18, module_ids=[2, 1, 4, 3], clique=32766,
        gpu_numa=[2, 10, 18, 26], memory_affinity=["0,3-9,11-17"] * 2 + ["1,19-25,27-33"] * 2,
        source="NV18, CPU and NUMA affinity, GPU NUMA ids 2, 10, 18: sgl-project/sglang#11208; GPUs and CPUs of "
               "each socket: ishandhanani/srt-slurm#164; eight NUMA nodes a GPU, empty but for the first: "
               "bytedance/xpu-perf#129. Derived: GPU NUMA id 26, PCI domains, module ids, the fabric's UUID and "
               "clique (the domain spans 18 trays), distances, memory sizes. Its six NICs are left out: the "
               "source calls every GPU-NIC path SYS, for which sysfs has no reason.",
    ),
    "l40s-4": dict(
        model="NVIDIA L40S",
        nodes=["0-95,192-287", "96-191,288-383"], sockets=[[0], [1]], node_gib=384,
        tree=[("0000:00", 0, ["gpu0@01"]), ("0000:40", 0, ["gpu1@41"]),
              ("0000:80", 1, ["gpu2@81"]), ("0000:a0", 1, [("mlx5_0@a1/ib200", "mlx5_1@a1:00.1/ib200")]),
              ("0000:c0", 1, ["gpu3@c1"])],
        links={},
        source="The whole matrix, CPU lists, two NICs near GPUs 2 and 3: warpem/miss-alignment#106. PCI buses, "
               "distances and memory sizes are derived.",
    ),
    "pix-8": dict(
        model="NVIDIA GeForce RTX 4090",
        nodes=["0-31,64-95", "32-63,96-127"], sockets=[[0], [1]], node_gib=256,
        tree=[("0000:4a", 0, [[f"gpu{i}@{0x4E + i:02x}" for i in range(4)]]),
              ("0000:ca", 1, [[f"gpu{i + 4}@{0xCE + i:02x}" for i in range(4)]])],
        links={}, idle=True,
        source="{0-3} PIX, {4-7} PIX, SYS between: sgl-project/sglang#4655. GPU buses 4e-51 and ce-d1 and the "
               "model: NVIDIA/nccl-tests#307, a box of that shape. CPUs, distances and memory sizes are derived; "
               "PCIe links are recorded idle (Gen1).",
    ),
    "aws-p4d": dict(
        model="NVIDIA A100-SXM4-40GB", generation=3,
        virtual=True,
        nodes=["0-23,48-71", "24-47,72-95"], sockets=[[0], [1]], node_gib=576,
        tree=[
            ("0000:00", 0, [("rdmap16s27@10:1b.0/efa100", "gpu0@10:1c.0", "gpu1@10:1d.0"),
                            ("rdmap32s27@20:1b.0/efa100", "gpu2@20:1c.0", "gpu3@20:1d.0")]),
            ("0000:80", 1, [("rdmap144s27@90:1b.0/efa100", "gpu4@90:1c.0", "gpu5@90:1d.0"),
                            ("rdmap160s27@a0:1b.0/efa100", "gpu6@a0:1c.0", "gpu7@a0:1d.0"),
                            tuple(f"@b0:{s:02x}.0/nvswitch" for s in range(0x1A, 0x20))]),
        ],
        switched=12, module_ids=[1, 2, 3, 4, 5, 6, 7, 8],
        source="Two GPUs and a NIC per PCIe switch (buses 10 20 90 a0), 8 GT/s, CPU lists: aws/aws-ofi-nccl "
               "topology/p4d-24xl-topo.xml. NVSwitch addresses, module ids, distances and memory sizes are "
               "derived.",
    ),
    "aws-p5": dict(
        model="NVIDIA H100 80GB HBM3",
        virtual=True,
        nodes=["0-47,96-143", "48-95,144-191"], sockets=[[0], [1]], node_gib=1024,
        tree=[
            ("0000:00", 0, [[f"@{b:02x}/nvswitch" for b in range(0x05, 0x09)]]),
            ("0000:44", 0, [p5_group(0, 0x4F), p5_group(1, 0x60), p5_group(2, 0x71), p5_group(3, 0x82)]),
            ("0000:8e", 1, [p5_group(4, 0x93), p5_group(5, 0xA4), p5_group(6, 0xB5), p5_group(7, 0xC6)]),
        ],
        switched=18, module_ids=[1, 2, 3, 4, 5, 6, 7, 8],
        source="One GPU and four 100 Gb/s EFA cards per PCIe switch, card names (which give the buses): "
               "aws/aws-ofi-nccl topology/p5.48xl-topo.xml; two sockets of four GPUs: pytorch/ci-infra#696. CPU "
               "lists, NVSwitch buses, module ids, distances and memory sizes are derived.",
    ),
}
