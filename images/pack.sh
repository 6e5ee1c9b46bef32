#!/usr/bin/env bash
# pack.sh NAME ROOT TAR USER [WORD…]: packs a folder as a container image of one layer, without Docker: an OCI
# image layout in a tar, as `ctr image import`, `podman load` and `skopeo` take it. NAME with its tag, as pods
# spell it; USER as UID:GID; the words are its entry point. The same folder gives the same bytes.
set -euo pipefail

if [ $# -lt 4 ]; then
    printf 'usage: pack.sh NAME ROOT TAR USER [WORD...]\n' >&2
    exit 2
fi
name=$1 root=$2 tar=$3 user=$4
shift 4
words=$(printf ',"%s"' "$@")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs="$work/layout/blobs/sha256"
mkdir -p "$blobs"

pack() { tar --create --file "$1" --directory "$2" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "${@:3}"; }
sha256() { sha256sum "$1" | cut -d' ' -f1; }

# blob FILE TYPE: moves it to where its hash says, prints the descriptor.
blob() {
    local digest size
    digest=$(sha256 "$1")
    size=$(stat -c %s "$1")
    mv "$1" "$blobs/$digest"
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s' "$2" "$digest" "$size"
}

case "$(uname -m)" in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$(uname -m) ;;
esac
pack "$work/layer" "$root" .
layer_digest=$(sha256 "$work/layer")
layer="$(blob "$work/layer" layer.v1.tar)}"
printf '{"architecture":"%s","os":"linux","config":{"User":"%s","Env":["PATH=/bin"],"Entrypoint":[%s]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$user" "${words#,}" "$layer_digest" > "$work/config"
config="$(blob "$work/config" config.v1+json)}"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
    "$config" "$layer" > "$work/manifest"
manifest="$(blob "$work/manifest" manifest.v1+json)"
# containerd reads its own key first; the other one is what the specification names.
printf '{"schemaVersion":2,"manifests":[%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$manifest" "$name" "${name##*:}" > "$work/layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "$work/layout/oci-layout"
pack "$tar" "$work/layout" oci-layout index.json blobs
