#!/usr/bin/env bash
# Builds kwok, which plays a thousand kubelets for `./x bench scheduler`, through the Go module proxy, and
# prints the folder that it is in, with its stages beside it. Not part of `./x test`.
#
#   build.sh            builds it if it is missing; progress on stderr, the folder on stdout
#
# Exit code 3: Go is missing or too old.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

go_wanted=1.26
version=$(awk '$1 == "require" && $2 == "sigs.k8s.io/kwok" { print $3 }' go.mod)
cache="${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}/kwok"
folder="$cache/$version-$(cat go.mod go.sum build.sh | sha256sum | cut -c1-16)"
# A node becomes Ready and stays so, a pod runs as soon as it is bound, and goes when it is deleted.
stages=(node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease
    pod/fast/pod-ready pod/fast/pod-delete)

say() { printf 'kwok: %s\n' "$*" >&2; }

if [ -x "$folder/kwok" ]; then
    printf '%s\n' "$folder"
    exit
fi
PATH="$PATH:/usr/local/go/bin:/usr/lib/go-$go_wanted/bin"
go_found=$(GOTOOLCHAIN=local go env GOVERSION 2> /dev/null | sed 's/^go//' || true)
if [ "$(printf '%s\n%s\n' "$go_wanted" "$go_found" | sort -V | head -n 1)" != "$go_wanted" ]; then
    say "Go $go_wanted is needed, found '$go_found': https://go.dev/dl/, unpacked to /usr/local/go"
    exit 3
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/.building-XXXXXX")
trap 'rm -rf "$work"' EXIT
say "building $version (cold: minutes; warm: seconds)"
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="${GOFLAGS:-} -mod=readonly -buildvcs=false"
nice -n 10 go build -p 2 -trimpath -ldflags '-s -w' -o "$work/kwok" sigs.k8s.io/kwok/cmd/kwok >&2
source=$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)
for stage in "${stages[@]}"; do
    printf -- '---\n'
    cat "$source/kustomize/stage/$stage.yaml"
    printf '\n'
done > "$work/stages.yaml"
chmod 755 "$work"
mkdir -p "$folder"
mv "$work/stages.yaml" "$work/kwok" "$folder/"
printf '%s\n' "$folder"
