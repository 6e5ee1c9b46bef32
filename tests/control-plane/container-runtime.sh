#!/usr/bin/env bash
# Fetches what a kubelet needs beside it, as Debian ships it, unpacked and not installed: containerd, runc,
# and busybox (static), of which the containers of the tests are made. Prints the folder they are in, which
# lies outside the tree and is kept; deleting it fetches what Debian has by then.
#
# Exit code 3: there is no apt-get, with a sentence what to do.
set -euo pipefail

packages=(containerd runc busybox-static)
programs=(containerd containerd-shim-runc-v2 ctr runc busybox)
cache="${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}"
folder="$cache/container-runtime"

say() { printf 'container runtime: %s\n' "$*" >&2; }

fetched() {
    local program
    for program in "${programs[@]}"; do
        [ -x "$folder/$program" ] || return 1
    done
}

download() { apt-get download -q "${packages[@]}" >&2; }

if fetched; then
    printf '%s\n' "$folder"
    exit
fi
if ! command -v apt-get > /dev/null; then
    say "there is no apt-get: put ${programs[*]} into $folder and run this again"
    exit 3
fi

mkdir -p "$cache"
# One at a time: the second caller waits and finds the folder there.
exec 9> "$cache/.container-runtime.lock"
flock 9
if fetched; then
    printf '%s\n' "$folder"
    exit
fi
say "fetching ${packages[*]} (30 MB, once)"
# Under the lock: what an interrupted run left.
rm -rf "$cache"/.container-runtime-*
work=$(mktemp -d "$cache/.container-runtime-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages" "$work/unpacked" "$work/programs"
# A fresh Debian has no lists of packages yet.
(cd "$work/packages" && { download || { apt-get update -q >&2 && download; }; })
for package in "$work"/packages/*.deb; do
    dpkg -x "$package" "$work/unpacked"
done
for program in "${programs[@]}"; do
    found=$(find "$work/unpacked" -type f -path "*bin/$program")
    [ -n "$found" ] || { say "no $program in ${packages[*]}"; exit 1; }
    mv "$found" "$work/programs/$program"
done
chmod 755 "$work/programs"
rm -rf "$folder"
mv -T "$work/programs" "$folder"
printf '%s\n' "$folder"
