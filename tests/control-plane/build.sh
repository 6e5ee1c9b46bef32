#!/usr/bin/env bash
# Builds etcd, kube-apiserver, kube-scheduler and kubelet once, through the Go module proxy, and prints the
# folder they are in. The folder lies outside the tree and is named by what it was built from, so a second
# run takes no time and two checkouts share it. Beside them is pod-resources, which asks a kubelet what it gave.
#
#   build.sh            builds what is missing; progress on stderr, the folder on stdout
#   build.sh --where    prints the folder; exit code 1 when it has not been built yet
#   build.sh topology-manager
#                       builds the program that admits pods with the kubelet's own packages, prints its path
#
# Exit code 3: Go is missing or too old, with a sentence how to get it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

go_wanted=1.26
kubernetes_version=$(awk '/k8s.io\/kubernetes v/ && !/indirect/ { print $NF }' go.mod)
etcd_version=$(awk '/go.etcd.io\/etcd\/server\/v3 / && !/indirect/ { print $NF }' etcd/go.mod)

say() { printf 'control plane: %s\n' "$*" >&2; }

# The servers print these two apart from their version.
minor=$(printf '%s' "$kubernetes_version" | cut -d. -f2)
stamp="k8s.io/component-base/version"
flags="-s -w -X $stamp.gitVersion=$kubernetes_version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$minor"

# The key: versions for people, the hash of the module files, of our program and of the flags for certainty.
module_hash=$({ cat go.mod go.sum etcd/go.mod etcd/go.sum pod-resources/*; printf '%s' "$flags"; } | sha256sum | cut -c1-16)
key="kubernetes-$kubernetes_version-etcd-$etcd_version-$module_hash"
cache="${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}/control-plane"
folder="$cache/$key"

built() {
    local program
    for program in etcd kube-apiserver kube-scheduler kubelet pod-resources; do
        [ -x "$folder/$program" ] || return 1
    done
}

# In a folder and under a lock of its own: its modules are others, a change of it builds no server again,
# and it need not wait for one.
if [ "${1:-}" = topology-manager ]; then
    program_hash=$(cat topology-manager/* | sha256sum | cut -c1-16)
    cache="${cache%/*}/topology-manager"
    folder="$cache/kubernetes-$kubernetes_version-$program_hash"
    built() { [ -x "$folder/topology-manager" ]; }
fi

# What is printed when it is there.
print_built() {
    case "${1:-}" in
        topology-manager) printf '%s\n' "$folder/topology-manager" ;;
        *) printf '%s\n' "$folder" ;;
    esac
}

if [ "${1:-}" = --where ]; then
    printf '%s\n' "$folder"
    built
    exit
fi

if built; then
    print_built "$@"
    exit
fi

# Debian's packages and the official archive put Go in different places.
PATH="$PATH:/usr/local/go/bin:/usr/lib/go-$go_wanted/bin"
how_to_get_go="install Go $go_wanted or newer (https://go.dev/dl/, unpacked to /usr/local/go) and run this again"
if ! command -v go > /dev/null; then
    say "Go is not installed: $how_to_get_go"
    exit 3
fi
go_found=$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')
if [ "$(printf '%s\n%s\n' "$go_wanted" "$go_found" | sort -V | head -n 1)" != "$go_wanted" ]; then
    say "Go $go_found is older than $go_wanted, which Kubernetes $kubernetes_version needs: $how_to_get_go"
    exit 3
fi

mkdir -p "$cache"
# One build at a time: the second caller waits and finds the folder there.
exec 9> "$cache/.lock"
if ! flock --nonblock 9; then
    say "another build is running; waiting for it"
    flock 9
fi
if built; then
    print_built "$@"
    exit
fi

# Under the lock: what an interrupted build left.
rm -rf "$cache"/.building-*

export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="${GOFLAGS:-} -mod=readonly -buildvcs=false"
work=$(mktemp -d "$cache/.building-XXXXXX")
trap 'rm -rf "$work"' EXIT
rm -rf "$folder"

# build FOLDER PACKAGE NAME: niced and two at a time, for it shares the machine with the Rust build.
build() {
    say "building $3 (cold: minutes; warm: seconds)"
    local began=$SECONDS
    (cd "$1" && nice -n 10 go build -p 2 -trimpath -ldflags "$flags" -o "$work/$3" "$2") >&2
    say "built $3 in $((SECONDS - began)) s"
}

if [ "${1:-}" = topology-manager ]; then
    say "Kubernetes $kubernetes_version's topology manager into $folder"
    build topology-manager . topology-manager
else
    say "Kubernetes $kubernetes_version and etcd $etcd_version into $folder"
    build etcd go.etcd.io/etcd/server/v3 etcd
    build . k8s.io/kubernetes/cmd/kube-apiserver kube-apiserver
    build . k8s.io/kubernetes/cmd/kube-scheduler kube-scheduler
    build . k8s.io/kubernetes/cmd/kubelet kubelet
    build . ./pod-resources pod-resources
fi
chmod 755 "$work"
mv -T "$work" "$folder"
trap - EXIT
print_built "$@"
