//go:build tools

// Package tools names etcd, so that `go mod tidy` keeps what it needs and nothing else.
package tools

import _ "go.etcd.io/etcd/server/v3"
