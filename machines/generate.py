#!/usr/bin/env python3
"""Writes the two files of every machine of facts.py.

NAME.raw.json is what NVML, sysfs and hwloc answer there; NAME.json is the NodeTopology that the
agent derives from it.

    machines/generate.py                    writes the raw files
    machines/generate.py --agent PROGRAM    and, with berth-node-agent, the topologies
    machines/generate.py --check […]        writes nothing, fails if a committed file differs
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import uuid

from facts import MACHINES, MODELS

HERE = pathlib.Path(__file__).resolve().parent
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "machines.berth.dev")
NOT_SUPPORTED = {"error": "NVML_ERROR_NOT_SUPPORTED"}
INVALID_ARGUMENT = {"error": "NVML_ERROR_INVALID_ARGUMENT"}

# By NVLink generation: GB/s of a link and direction in MB/s, and nvmlNvlinkVersion_t's number.
LINK_MB_PER_S = {1: 20000, 2: 25000, 3: 25781, 4: 26562, 5: 53125}
NVLINK_VERSION = {1: 1, 2: 2, 3: 4, 4: 6, 5: 7}
DRIVER = {"volta": "535.183.01", "ampere": "550.127.05", "hopper": "570.172.08", "ada": "570.172.08",
          "consumer": "570.172.08"}
NVML_MAJOR = {"535": "12", "550": "12", "570": "12"}
PORTS = {
    "ib100": ("15b3", "0x020700", "100 Gb/sec (4X EDR)"),
    "ib200": ("15b3", "0x020700", "200 Gb/sec (4X HDR)"),
    "ib400": ("15b3", "0x020700", "400 Gb/sec (4X NDR)"),
    "roce100": ("15b3", "0x020000", "100 Gb/sec (4X EDR)"),
    "efa100": ("1d0f", "0x020000", "100 Gb/sec (4X EDR)"),
}
# nvmlGpuTopologyLevel_t
INTERNAL, SINGLE, MULTIPLE, HOSTBRIDGE, NODE, SYSTEM = 0, 10, 20, 30, 40, 50
P2P_OK, P2P_GPU_NOT_SUPPORTED, P2P_NOT_SUPPORTED = 0, 2, 5
REMOTE_GPU, REMOTE_SWITCH = 0, 2
VENDOR_NVIDIA = "0x10de"


class Device:
    """A leaf of the PCI tree: its name, kind, address, NUMA node and the bridges above it."""

    def __init__(self, text, root, numa):
        text, _, self.kind = text.partition("/")
        self.name, _, place = text.partition("@")
        if self.name.startswith("gpu"):
            self.kind, self.index = "gpu", int(self.name[3:])
        domain, bus, slot = re.fullmatch(r"(?:(\w{4}):)?(\w{2})(?::(\w{2}\.\w))?", place).groups()
        self.domain, self.bus, self.slot = domain or root[:4], int(bus, 16), slot or "00.0"
        self.root, self.numa = root, numa
        self.above = []  # ids of switches (and shared buses), outermost first
        self.bridges = []  # addresses of the bridges, outermost first

    @property
    def address(self):
        return f"{self.domain}:{self.bus:02x}:{self.slot}"

    @property
    def nvml_address(self):
        return f"0000{self.address}".upper()

    @property
    def path(self):
        return "/".join([f"devices/pci{self.root}", *self.bridges, self.address])


def lowest_bus(port):
    """The first bus that a port needs: a switch takes two before its first child's."""
    if isinstance(port, Device):
        return port.bus
    first = min(lowest_bus(child) for child in port)
    return first if isinstance(port, tuple) else first - 2


def parse(port, root, numa):
    if isinstance(port, str):
        return Device(port, root, numa)
    return type(port)(parse(child, root, numa) for child in port)


def place(port, bridges, above, used):
    """Gives every device below `port` its bridges. `bridges` ends with the port that leads here."""
    if isinstance(port, Device):
        port.bridges, port.above = bridges, above
        return
    if isinstance(port, tuple):
        for child in port:
            place(child, bridges, above + [id(port)], used)
        return
    domain, low = bridges[-1][:4], lowest_bus(port)
    for bus in (low, low + 1):
        assert (domain, bus) not in used, f"bus {bus:02x} of {domain} is used twice"
        used.add((domain, bus))
    upstream = f"{domain}:{low:02x}:00.0"
    for slot, child in enumerate(port):
        downstream = f"{domain}:{low + 1:02x}:{slot:02x}.0"
        place(child, bridges + [upstream, downstream], above + [id(port)], used)


def devices_of(machine):
    found, used, placed = [], set(), []

    def collect(port):
        if isinstance(port, Device):
            found.append(port)
        else:
            for child in port:
                collect(child)

    for root, numa, ports in machine["tree"]:
        ports = [parse(port, root, numa) for port in ports]
        placed.append(ports)
        for slot, port in enumerate(ports):
            collect(port)
            place(port, [f"{root}:{slot + 1:02x}.0"], [], used)
    assert len({d.address for d in found}) == len(found), "two devices have one address"
    taken = {(d.domain, d.bus) for d in found}
    assert not taken & used, f"a bridge and a device share {taken & used}"
    return found


def ancestor(a, b):
    """nvmlDeviceGetTopologyCommonAncestor of two devices."""
    if a is b:
        return INTERNAL
    if a.root != b.root:
        return NODE if a.numa == b.numa else SYSTEM
    shared = len([1 for x, y in zip(a.above, b.above) if x == y])
    if shared == 0:
        return HOSTBRIDGE
    return SINGLE if len(a.above) == shared and len(b.above) == shared else MULTIPLE


def cpus_of(text):
    cpus = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def cpu_list(cpus):
    runs = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] + 1 == cpu:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def stable_uuid(*parts):
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


# --- NVML ---


def switched_links(machine, gpu, switches, generation):
    """Links that end at NVSwitches, spread evenly; NVLink 5 switches have no PCI address."""
    lanes = machine["switched"]
    mine = [switches[i] for i in machine.get("switches_of", lambda _: range(len(switches)))(gpu.index)]
    return [
        link(generation, REMOTE_SWITCH, mine[lane * len(mine) // lanes].nvml_address if mine else NOT_SUPPORTED)
        for lane in range(lanes)
    ]


def direct_links(machine, gpu, gpus, generation):
    links = []
    for (a, b), lanes in sorted(machine["links"].items()):
        if gpu.index in (a, b):
            peer = gpus[b if gpu.index == a else a]
            links += [link(generation, REMOTE_GPU, peer.nvml_address)] * lanes
    return links


def link(generation, remote_type, remote):
    return {"active": True, "version": NVLINK_VERSION[generation], "remoteType": remote_type,
            "remotePciBusId": remote, "speedMbPerSecond": LINK_MB_PER_S[generation]}


def p2p(machine, gpu, other):
    if gpu is other:
        return INVALID_ARGUMENT
    pair = (min(gpu.index, other.index), max(gpu.index, other.index))
    joined = "switched" in machine or pair in machine["links"]
    return P2P_OK if joined else P2P_NOT_SUPPORTED


def p2p_memory(machine, gpu, other):
    """Reads and writes work between data-center GPUs over whatever joins them; a GeForce has none."""
    if gpu is other:
        return INVALID_ARGUMENT
    return P2P_GPU_NOT_SUPPORTED if MODELS[machine["model"]]["era"] == "consumer" else P2P_OK


def gpu_answers(name, machine, gpu, gpus, switches):
    model = MODELS[machine["model"]]
    era, generation = model["era"], machine.get("generation", model["generation"])
    if "switched" in machine:
        nvlinks = switched_links(machine, gpu, switches, model["nvlink"])
    else:
        nvlinks = direct_links(machine, gpu, gpus, model["nvlink"])
    modern, data_center = era in ("ampere", "hopper", "ada"), era != "consumer"
    module_ids = machine.get("module_ids")
    return {
        "uuid": "GPU-" + stable_uuid(name, gpu.index),
        "minor": gpu.index,
        "moduleId": module_ids[gpu.index] if module_ids else NOT_SUPPORTED,
        "name": machine["model"],
        "pciBusId": gpu.nvml_address,
        "memoryTotalBytes": model["mib"] << 20,
        "computeCapability": list(model["capability"]),
        "pcieGeneration": 1 if machine.get("idle") else generation,
        "pcieWidth": 16,
        "pcieMaxGeneration": generation,
        "pcieMaxWidth": 16,
        "cpuAffinity": machine["nodes"][gpu.numa],
        "memoryAffinity": memory_affinity(machine, gpu),
        "numaNodeId": machine["gpu_numa"][gpu.index] if "gpu_numa" in machine else NOT_SUPPORTED,
        "commonAncestors": [ancestor(gpu, other) for other in gpus],
        "p2pNvlink": [p2p(machine, gpu, other) for other in gpus],
        "p2pRead": [p2p_memory(machine, gpu, other) for other in gpus],
        "p2pWrite": [p2p_memory(machine, gpu, other) for other in gpus],
        # NVLink carries atomic operations, PCIe does not (CUDA's cudaDevP2PAttrNativeAtomicSupported)
        "p2pAtomics": [p2p(machine, gpu, other) for other in gpus],
        "nvlinkCount": len(nvlinks) if model["nvlink"] is not None else NOT_SUPPORTED,
        "nvswitchLinkCount": nvswitch_link_count(machine, era),
        "nvlinks": nvlinks,
        "migMode": 0 if era in ("ampere", "hopper") else NOT_SUPPORTED,
        "fabric": fabric(name, machine, era),
        "eccUncorrectedVolatile": 0 if data_center else NOT_SUPPORTED,
        "remappedRowsPending": False if modern else NOT_SUPPORTED,
        "remappedRowsFailed": False if modern else NOT_SUPPORTED,
        "retiredPagesPending": False if era == "volta" else NOT_SUPPORTED,
        **limits(machine, model),
    }


def limits(machine, model):
    """What a data sheet or a guide gives; what none does is recorded as not supported."""
    watts = model["watts"]
    least_and_most = machine.get("watts_range", model.get("watts_range"))
    slowdown, shutdown = model.get("celsius", (NOT_SUPPORTED, NOT_SUPPORTED))
    answers = {
        "powerDefaultMilliwatts": watts * 1000,
        "powerEnforcedMilliwatts": watts * 1000,
        "powerRangeMilliwatts": [limit * 1000 for limit in least_and_most] if least_and_most else NOT_SUPPORTED,
        "slowdownCelsius": slowdown,
        "shutdownCelsius": shutdown,
        "virtualizationMode": 1 if machine.get("virtual") else 0,
    }
    if "gpu_numa" in machine:
        answers["c2cEnabled"] = True
    return answers


def memory_affinity(machine, gpu):
    return cpus_of(machine["memory_affinity"][gpu.index]) if "memory_affinity" in machine else [gpu.numa]


def nvswitch_link_count(machine, era):
    if "switched" in machine and era != "volta":
        return machine["switched"]
    return 0 if era in ("ampere", "hopper") else NOT_SUPPORTED


def fabric(name, machine, era):
    """Registered since Hopper; the UUID is zero where the fabric does not leave the machine."""
    if era != "hopper":
        return NOT_SUPPORTED
    clique = machine.get("clique", 0)
    cluster = stable_uuid(name, "fabric") if clique else str(uuid.UUID(int=0))
    return {"clusterUuid": cluster, "cliqueId": clique, "state": 3, "status": 0, "healthMask": 0}


def nvml(name, machine, gpus, switches):
    driver = DRIVER[MODELS[machine["model"]]["era"]]
    return {
        "driverVersion": driver,
        "nvmlVersion": f"{NVML_MAJOR[driver[:3]]}.{driver}",
        "deviceCount": len(gpus),
        "gpus": [gpu_answers(name, machine, gpu, gpus, switches) for gpu in gpus],
    }


# --- sysfs and hwloc ---


def pci(device, machine):
    vendor, kind = {"gpu": ("10de", "0x030200"), "nvswitch": ("10de", "0x068000")}.get(
        device.kind, PORTS.get(device.kind, ("", "", ""))[:2])
    if machine["model"].startswith("NVIDIA GeForce"):
        kind = "0x030000"
    return {"devicePath": device.path, "vendor": f"0x{vendor}", "class": kind,
            "numaNode": str(device.numa), "localCpulist": machine["nodes"][device.numa]}


def socket_of(machine, node):
    return next(i for i, nodes in enumerate(machine["sockets"]) if node in nodes)


def distance(machine, a, b):
    """10 for itself, 12 inside a socket, 32 between (21 where a socket is one node)."""
    if a == b:
        return 10
    if socket_of(machine, a) == socket_of(machine, b):
        return 12
    return 32 if len(machine["nodes"]) > 2 else 21


def numa_nodes(machine):
    if "gpu_numa" in machine:
        return grace_nodes(machine)
    nodes = range(len(machine["nodes"]))
    return {
        str(node): {"cpulist": machine["nodes"][node],
                    "distance": " ".join(str(distance(machine, node, other)) for other in nodes),
                    "memTotalKb": machine["node_gib"] << 20,
                    "hugePages": {"2048": 0, "1048576": 0}}
        for node in nodes
    }


def grace_nodes(machine):
    """Grace: one node a socket, then eight a GPU, of which the first is its memory."""
    homes = {node: node for node in range(len(machine["nodes"]))}
    for index, first in enumerate(machine["gpu_numa"]):
        homes |= {node: index // 2 for node in range(first, first + 8)}
    cpus = len(machine["nodes"])

    def apart(a, b):
        if a == b:
            return 10
        near, memories = homes[a] == homes[b], (a >= cpus) + (b >= cpus)
        return (40, 80 if near else 120, 160)[memories]

    def node(number):
        if number < cpus:
            kilobytes = machine["node_gib"] << 20
        else:
            kilobytes = MODELS[machine["model"]]["mib"] << 10 if number in machine["gpu_numa"] else 0
        return {"cpulist": machine["nodes"][number] if number < cpus else "",
                "distance": " ".join(str(apart(number, other)) for other in sorted(homes)),
                "memTotalKb": kilobytes,
                "hugePages": {"2048": 0, "524288": 0, "16777216": 0}}

    return {str(number): node(number) for number in sorted(homes)}


def port(device):
    return {"pci": device.address, "rate": PORTS[device.kind][2]}


def sysfs(machine, devices):
    nics = [d for d in devices if d.kind in PORTS]
    every = [cpu for text in machine["nodes"] for cpu in cpus_of(text)]
    return {
        "pci": {d.address: pci(d, machine) for d in sorted(devices, key=lambda d: d.address)},
        "numa": numa_nodes(machine),
        "infiniband": {d.name: port(d) for d in sorted(nics, key=lambda d: d.name)},
        "net": {},
        "cpusOnline": cpu_list(every),
    }


def hwloc(machine):
    nodes = [cpus_of(text) for text in machine["nodes"]]
    threads = machine.get("smt", 2)
    cores = []
    for cpus in nodes:
        count = len(cpus) // threads
        cores += [cpu_list(cpus[i::count]) for i in range(count)]
    return {
        "packages": [cpu_list([c for n in socket for c in nodes[n]]) for socket in machine["sockets"]],
        "numa": {str(i): {"cpus": machine["nodes"][i], "memoryBytes": machine["node_gib"] << 30}
                 for i in range(len(nodes))},
        "cores": cores,
        **caches(machine, cores),
    }


def caches(machine, cores):
    """Of machines whose processor is known: those of the last level over `cores_each` cores, the others by core."""
    cpu = machine.get("cpu")
    if not cpu:
        return {}
    last, level2, level1 = cpu["l3_kib"], cpu["l2_kib"], cpu["l1_kib"]
    each = cpu["cores_each"]
    shared = [cores[i:i + each] for i in range(0, len(cores), each)]

    def alike(level, kind, kib, sets):
        return {"level": level, "kind": kind, "sizeBytes": kib << 10, "cpus": sets}

    return {"caches": [
        alike(3, "unified", last, [cpu_list([c for core in group for c in cpus_of(core)]) for group in shared]),
        alike(2, "unified", level2, cores),
        alike(1, "data", level1[0], cores),
        alike(1, "instruction", level1[1], cores),
    ]}


def raw(name, machine):
    devices = devices_of(machine)
    gpus = sorted((d for d in devices if d.kind == "gpu"), key=lambda d: d.index)
    switches = [d for d in devices if d.kind == "nvswitch"]
    assert [d.index for d in gpus] == list(range(len(gpus)))
    return {
        "source": machine["source"],
        "bootId": stable_uuid(name, "boot"),
        "nvml": nvml(name, machine, gpus, switches),
        "sysfs": sysfs(machine, devices),
        "hwloc": hwloc(machine),
    }


# --- text ---


def write(value, indent=0, width=150):
    """JSON with everything short on one line, so that a link or a PCI device is one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= width or not isinstance(value, (dict, list)):
        return flat
    pad, end = " " * (indent + 2), " " * indent
    if isinstance(value, dict):
        parts = [f"{pad}{json.dumps(k)}: {write(v, indent + 2)}" for k, v in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{end}}}"
    if all(not isinstance(item, (dict, list)) for item in value):
        return wrapped(value, pad, end, width)
    return "[\n" + ",\n".join(pad + write(item, indent + 2) for item in value) + f"\n{end}]"


def wrapped(items, pad, end, width):
    lines, line = [], ""
    for item in items:
        cell = json.dumps(item, ensure_ascii=False)
        if line and len(pad) + len(line) + len(cell) + 2 > width:
            lines.append(line)
            line = ""
        line += (", " if line else "") + cell
    return "[\n" + ",\n".join(pad + line for line in [*lines, line]) + f"\n{end}]"


# --- NodeTopology ---


def topology(agent, name, source):
    """What the agent prints for the raw file, less what is of the run and not of the machine."""
    command = [agent, "--probe", f"recorded:{HERE / name}.raw.json", "--node-name", name,
               "--once", "--print", "json", "--log", "warn"]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    seen["metadata"] = {"annotations": {"berth.dev/source": source}, "name": name}
    for volatile in ("observedAt", "agentVersion"):
        seen["status"].pop(volatile, None)
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agent", metavar="PROGRAM")
    parser.add_argument("--check", action="store_true")
    args, stale = parser.parse_args(), []

    def keep(file, value):
        path, text = HERE / file, write(value) + "\n"
        if not args.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(file)

    for name, machine in MACHINES.items():
        keep(f"{name}.raw.json", raw(name, machine))
        if args.agent:
            keep(f"{name}.json", topology(args.agent, name, machine["source"]))
    if stale:
        sys.exit(f"not as generated: {', '.join(stale)}; run machines/generate.py")


if __name__ == "__main__":
    main()
