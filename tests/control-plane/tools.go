//go:build tools

// Package tools names the three programs of Kubernetes that the tests run, so that `go mod tidy`
// keeps what they need and nothing else.
package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
