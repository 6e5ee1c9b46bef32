package main

import (
	"fmt"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/utils/cpuset"
)

// Status is what of a NodeTopology's status the kubelet's managers go by.
type Status struct {
	Gpus []struct {
		Uuid     string `json:"uuid"`
		NumaNode *int64 `json:"numaNode"`
		Health   struct {
			State string `json:"state"`
		} `json:"health"`
	} `json:"gpus"`
	Numa []struct {
		Id        int      `json:"id"`
		Cpus      string   `json:"cpus"`
		Distances []uint64 `json:"distances"`
	} `json:"numa"`
	Kubelet struct {
		Policy     string            `json:"topologyManagerPolicy"`
		Scope      string            `json:"topologyManagerScope"`
		Options    map[string]string `json:"topologyManagerPolicyOptions"`
		CpuPolicy  string            `json:"cpuManagerPolicy"`
		CpuOptions map[string]string `json:"cpuManagerPolicyOptions"`
		Reserved   string            `json:"reservedCpus"`
	} `json:"kubelet"`
}

// nodes is the machine as cAdvisor would tell it: every CPU a core, every NUMA node a socket.
func (s *Status) nodes() []cadvisorapi.Node {
	var nodes []cadvisorapi.Node
	for _, numa := range s.Numa {
		node := cadvisorapi.Node{Id: numa.Id, Distances: numa.Distances}
		for _, cpu := range cpus(numa.Cpus).List() {
			core := cadvisorapi.Core{Id: cpu, Threads: []int{cpu}, SocketID: numa.Id}
			node.Cores = append(node.Cores, core)
		}
		nodes = append(nodes, node)
	}
	return nodes
}

func (s *Status) machine() *cadvisorapi.MachineInfo {
	machine := cadvisorapi.MachineInfo{Topology: s.nodes(), NumSockets: len(s.Numa)}
	for _, node := range machine.Topology {
		machine.NumCores += len(node.Cores)
	}
	machine.NumPhysicalCores = machine.NumCores
	return &machine
}

// devices is what Berth's plugin lists: a NUMA node where it is known, and whether it works.
func (s *Status) devices() []*pluginapi.Device {
	var devices []*pluginapi.Device
	for _, gpu := range s.Gpus {
		device := pluginapi.Device{ID: gpu.Uuid, Health: pluginapi.Unhealthy}
		if gpu.Health.State == "healthy" || gpu.Health.State == "degraded" {
			device.Health = pluginapi.Healthy
		}
		if gpu.NumaNode != nil {
			device.Topology = &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: *gpu.NumaNode}}}
		}
		devices = append(devices, &device)
	}
	return devices
}

// othersPod holds what is held.
func othersPod(read *Case) *v1.Pod {
	count := resource.MustParse(fmt.Sprint(len(read.HeldGpus)))
	limits := v1.ResourceList{v1.ResourceName(read.Resource): count}
	container := v1.Container{Name: "others", Resources: v1.ResourceRequirements{Limits: limits}}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "others", UID: "others"},
		Spec:       v1.PodSpec{Containers: []v1.Container{container}},
	}
}

func cpus(list string) cpuset.CPUSet {
	set, err := cpuset.Parse(list)
	if err != nil {
		fail(err)
	}
	return set
}
