// Program pod-resources asks a kubelet which devices it gave to which container, through the socket that
// monitoring programs use, with the kubelet's own types.
//
//	pod-resources SOCKET              one JSON line for each container and resource that has devices
//	pod-resources SOCKET PER_SECOND   asks so often until it is killed, and prints nothing but errors
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// patience bounds one call.
const patience = 10 * time.Second

// Held is one line of the answer.
type Held struct {
	Namespace string   `json:"namespace"`
	Pod       string   `json:"pod"`
	Container string   `json:"container"`
	Resource  string   `json:"resource"`
	Devices   []string `json:"devices"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pod-resources:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("usage: pod-resources SOCKET [PER_SECOND]")
	}
	connection, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	kubelet := api.NewPodResourcesListerClient(connection)
	if len(args) == 1 {
		return printOnce(kubelet)
	}
	perSecond, err := strconv.Atoi(args[1])
	if err != nil || perSecond < 1 {
		return fmt.Errorf("PER_SECOND is not a number above 0: %s", args[1])
	}
	askForEver(kubelet, time.Second/time.Duration(perSecond))
	return nil
}

func list(kubelet api.PodResourcesListerClient) (*api.ListPodResourcesResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return kubelet.List(ctx, &api.ListPodResourcesRequest{})
}

func printOnce(kubelet api.PodResourcesListerClient) error {
	answer, err := list(kubelet)
	if err != nil {
		return err
	}
	lines := json.NewEncoder(os.Stdout)
	for _, held := range heldDevices(answer) {
		if err := lines.Encode(held); err != nil {
			return err
		}
	}
	return nil
}

// heldDevices puts together what the kubelet tells apart: it has one entry for each device.
func heldDevices(answer *api.ListPodResourcesResponse) []Held {
	var all []Held
	for _, pod := range answer.GetPodResources() {
		for _, container := range pod.GetContainers() {
			ids := map[string][]string{}
			for _, devices := range container.GetDevices() {
				ids[devices.GetResourceName()] = append(ids[devices.GetResourceName()], devices.GetDeviceIds()...)
			}
			for resource, devices := range ids {
				sort.Strings(devices)
				all = append(all, Held{pod.GetNamespace(), pod.GetName(), container.GetName(), resource, devices})
			}
		}
	}
	return all
}

// askForEver calls one after the other where the kubelet is slower than asked for.
func askForEver(kubelet api.PodResourcesListerClient, every time.Duration) {
	for range time.Tick(every) {
		if _, err := list(kubelet); err != nil {
			fmt.Fprintln(os.Stderr, "pod-resources:", err)
		}
	}
}
