package main

import (
	"context"
	"slices"
	_ "unsafe" // for go:linkname

	cadvisorapi "github.com/google/cadvisor/lib/model"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
)

type deviceManager = *devicemanager.ManagerImpl

// newDeviceManager is NewManagerImpl with a folder of one's own instead of /var/lib/kubelet, where
// only root may write. The package keeps it to itself.
//
//go:linkname newDeviceManager k8s.io/kubernetes/pkg/kubelet/cm/devicemanager.newManagerImpl
func newDeviceManager(logger klog.Logger, socket string, nodes []cadvisorapi.Node, store topologymanager.Store) (deviceManager, error)

// allReady stands for the kubelet's sources of pods after its start.
type allReady struct{}

func (allReady) AddSource(string) {}
func (allReady) AllReady() bool   { return true }

// plugin is a device plugin that prefers what it is told to, called without a socket.
type plugin struct {
	pluginapi.DevicePluginClient
	resource  string
	container string
	prefer    map[string][]string
}

func (p *plugin) API() pluginapi.DevicePluginClient { return p }
func (p *plugin) Resource() string                  { return p.resource }
func (p *plugin) SocketPath() string                { return "in-process" }

func (p *plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty, ...grpc.CallOption) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true}, nil
}

// GetPreferredAllocation answers what it must include, then what it prefers of what is there.
func (p *plugin) GetPreferredAllocation(_ context.Context, request *pluginapi.PreferredAllocationRequest, _ ...grpc.CallOption) (*pluginapi.PreferredAllocationResponse, error) {
	asked := request.ContainerRequests[0]
	ids := slices.Clone(asked.MustIncludeDeviceIDs)
	for _, id := range p.prefer[p.container] {
		if slices.Contains(asked.AvailableDeviceIDs, id) && !slices.Contains(ids, id) && len(ids) < int(asked.AllocationSize) {
			ids = append(ids, id)
		}
	}
	one := pluginapi.ContainerPreferredAllocationResponse{DeviceIDs: ids}
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{&one}}, nil
}

func (p *plugin) Allocate(context.Context, *pluginapi.AllocateRequest, ...grpc.CallOption) (*pluginapi.AllocateResponse, error) {
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{{}}}, nil
}
