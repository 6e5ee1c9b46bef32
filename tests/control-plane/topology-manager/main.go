// Program topology-manager admits pods as the kubelet does, with the kubelet's own packages, so that
// what Berth foresees can be compared with what happens.
//
// Reads one case per line from stdin: a node's status as its agent publishes it, a pod, what others
// hold, and what the device plugin would prefer. Writes one answer per line: whether the pod is
// admitted, which NUMA nodes were decided for each container, and which GPUs it was given.
//
// The topology manager, the device manager and the static CPU manager's policy are those of the
// kubelet, unchanged; a device plugin is called as the kubelet calls one, but within this process.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

// caseLineMax bounds one line; a machine of 16 GPUs with its links is 100 KB.
const caseLineMax = 4 << 20

// Case is what stdin brings.
type Case struct {
	Status   Status   `json:"status"`
	Resource string   `json:"resource"`
	Pod      v1.Pod   `json:"pod"`
	HeldGpus []string `json:"heldGpus"`
	HeldCpus string   `json:"heldCpus"`
	// Prefer is what the plugin prefers for each container; any for one that is not listed.
	Prefer map[string][]string `json:"prefer"`
}

// Answer is what stdout tells.
type Answer struct {
	// Starts is false where the kubelet refuses to start on such a machine.
	Starts     bool        `json:"starts"`
	Admitted   bool        `json:"admitted"`
	Message    string      `json:"message"`
	Containers []Container `json:"containers"`
}

// Container is one container that was let in.
type Container struct {
	Name string `json:"name"`
	// NumaNodes is null where the topology manager has no wish.
	NumaNodes []int    `json:"numaNodes"`
	Gpus      []string `json:"gpus"`
}

func main() {
	klog.SetLogger(klog.Logger{})
	ctx := klog.NewContext(context.Background(), klog.Logger{})
	folder, err := os.MkdirTemp("/dev/shm", "topology-manager-") // the device manager syncs each write
	if err != nil {
		if folder, err = os.MkdirTemp("", "topology-manager-"); err != nil {
			fail(err)
		}
	}
	defer os.RemoveAll(folder)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, caseLineMax)
	out := json.NewEncoder(os.Stdout)
	for number := 0; lines.Scan(); number++ {
		var read Case
		if err := json.Unmarshal(lines.Bytes(), &read); err != nil {
			fail(fmt.Errorf("case %d: %w", number, err))
		}
		answer, err := answer(ctx, &read, filepath.Join(folder, fmt.Sprint(number)))
		if err != nil {
			fail(fmt.Errorf("case %d: %w", number, err))
		}
		if err := out.Encode(answer); err != nil {
			fail(err)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "topology-manager:", err)
	os.Exit(1)
}

func answer(ctx context.Context, read *Case, folder string) (*Answer, error) {
	logger := klog.FromContext(ctx)
	kubelet := read.Status.Kubelet
	manager, err := topologymanager.NewManager(logger, read.Status.nodes(), kubelet.Policy, kubelet.Scope, kubelet.Options)
	if err != nil {
		return &Answer{Message: err.Error()}, nil
	}
	devices, err := startDevices(ctx, read, manager, folder)
	if err != nil {
		return nil, err
	}
	defer devices.stop(logger)
	manager.AddHintProvider(logger, devices)
	if kubelet.CpuPolicy == "static" {
		cpus, err := startCpus(logger, read, manager)
		if err != nil {
			return nil, err
		}
		manager.AddHintProvider(logger, cpus)
	}
	attributes := lifecycle.PodAdmitAttributes{Pod: &read.Pod, Operation: lifecycle.AddOperation}
	result := manager.Admit(ctx, &attributes)
	return &Answer{
		Starts:     true,
		Admitted:   result.Admit,
		Message:    result.Message,
		Containers: containers(logger, read, manager, devices),
	}, nil
}

// containers lists those whose NUMA nodes were decided, in the order of admission.
func containers(logger klog.Logger, read *Case, manager topologymanager.Manager, devices *devices) []Container {
	all := []Container{}
	for _, container := range append(read.Pod.Spec.InitContainers, read.Pod.Spec.Containers...) {
		hint := manager.GetAffinity(logger, string(read.Pod.UID), container.Name)
		one := Container{Name: container.Name, Gpus: devices.given(&read.Pod, container.Name)}
		if hint.NUMANodeAffinity != nil {
			one.NumaNodes = hint.NUMANodeAffinity.GetBits()
		}
		all = append(all, one)
	}
	return all
}

// devices is the kubelet's device manager with one plugin of ours.
type devices struct {
	deviceManager
	plugin *plugin
}

func startDevices(ctx context.Context, read *Case, store topologymanager.Store, folder string) (*devices, error) {
	logger := klog.FromContext(ctx)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	// Others came in when this pod's NUMA nodes were not decided yet.
	before := &switchedStore{Store: store}
	manager, err := newDeviceManager(logger, filepath.Join(folder, "kubelet.sock"), read.Status.nodes(), before)
	if err != nil {
		return nil, err
	}
	others := othersPod(read)
	pods := func() []*v1.Pod { return []*v1.Pod{others, &read.Pod} }
	if err := manager.Start(logger, pods, allReady{}, containermap.NewContainerMap(), sets.New[string]()); err != nil {
		return nil, err
	}
	started := &devices{manager, &plugin{resource: read.Resource, prefer: map[string][]string{"others": read.HeldGpus}}}
	if err := manager.PluginConnected(ctx, read.Resource, started.plugin); err != nil {
		return nil, err
	}
	listed := pluginapi.ListAndWatchResponse{Devices: read.Status.devices()}
	manager.PluginListAndWatchReceiver(logger, read.Resource, &listed)
	if len(read.HeldGpus) > 0 {
		if err := started.Allocate(ctx, others, &others.Spec.Containers[0], lifecycle.AddOperation); err != nil {
			return nil, fmt.Errorf("giving others their GPUs: %w", err)
		}
	}
	started.plugin.prefer = read.Prefer
	before.isOn = true
	return started, nil
}

func (d *devices) stop(logger klog.Logger) {
	_ = d.Stop(logger)
}

// Allocate tells the plugin for whom it is asked, which the plugin API does not.
func (d *devices) Allocate(ctx context.Context, pod *v1.Pod, container *v1.Container, operation lifecycle.Operation) error {
	d.plugin.container = container.Name
	return d.deviceManager.Allocate(ctx, pod, container, operation)
}

func (d *devices) given(pod *v1.Pod, container string) []string {
	ids := []string{}
	for id := range d.GetDevices(string(pod.UID), container)[d.plugin.resource] {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// switchedStore has no wish until it is on.
type switchedStore struct {
	topologymanager.Store
	isOn bool
}

func (s *switchedStore) GetAffinity(logger klog.Logger, pod, container string) topologymanager.TopologyHint {
	if !s.isOn {
		return topologymanager.TopologyHint{}
	}
	return s.Store.GetAffinity(logger, pod, container)
}
