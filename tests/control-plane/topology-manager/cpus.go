package main

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm/cpumanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/cpumanager/state"
	"k8s.io/kubernetes/pkg/kubelet/cm/cpumanager/topology"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

// staticCpus is the kubelet's static CPU-manager policy with a state in memory.
type staticCpus struct {
	policy cpumanager.Policy
	state  state.State
}

func startCpus(logger klog.Logger, read *Case, store topologymanager.Store) (*staticCpus, error) {
	machine, err := topology.Discover(logger, read.Status.machine())
	if err != nil {
		return nil, err
	}
	reserved := cpus(read.Status.Kubelet.Reserved)
	options := read.Status.Kubelet.CpuOptions
	policy, err := cpumanager.NewStaticPolicy(logger, machine, reserved.Size(), reserved, store, options)
	if err != nil {
		return nil, err
	}
	started := &staticCpus{policy, state.NewMemoryState(logger)}
	if err := policy.Start(logger, started.state); err != nil {
		return nil, err
	}
	if held := cpus(read.HeldCpus); held.Size() > 0 {
		started.state.SetCPUSet("others", "others", held)
		started.state.SetDefaultCPUSet(started.state.GetDefaultCPUSet().Difference(held))
	}
	return started, nil
}

func (c *staticCpus) GetTopologyHints(logger klog.Logger, pod *v1.Pod, container *v1.Container, operation lifecycle.Operation) map[string][]topologymanager.TopologyHint {
	return c.policy.GetTopologyHints(logger, c.state, pod, container, operation)
}

func (c *staticCpus) GetPodTopologyHints(logger klog.Logger, pod *v1.Pod, operation lifecycle.Operation) map[string][]topologymanager.TopologyHint {
	return c.policy.GetPodTopologyHints(logger, c.state, pod, operation)
}

func (c *staticCpus) Allocate(ctx context.Context, pod *v1.Pod, container *v1.Container, operation lifecycle.Operation) error {
	return c.policy.Allocate(klog.FromContext(ctx), c.state, pod, container, operation)
}

func (c *staticCpus) AllocatePod(logger klog.Logger, pod *v1.Pod, operation lifecycle.Operation) error {
	return c.policy.AllocatePod(logger, c.state, pod, operation)
}
