#!/usr/bin/env bash
# image.sh NAME PROGRAM TAR: packs one of our programs as a container image that runs it as uid 65532, with
# nothing else in it than the libraries that `ldd` names and those that NVIDIA's ask for when they are opened at
# run time, as Debian ships them here. Of each Debian package that something comes from, its version, its
# copyright file and the licences that this refers to are in /usr/share/doc and /usr/share/common-licenses; of each
# crate that the program is linked from in /usr/share/doc/berth/third-party. Prints size and SHA-256.
#
# The same program and the same packages give the same bytes.
set -euo pipefail

if [ $# -ne 3 ]; then
    printf 'usage: image.sh NAME PROGRAM TAR\n' >&2
    exit 2
fi
name=$1 program=$2 tar=$3
images=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
user=65532
entry=/usr/bin/$(basename "$program")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# Its mode is the image's.
chmod 755 "$root"
umask 022

fail() { printf 'image %s: %s\n' "$name" "$*" >&2; exit 1; }

# One file as it is, its folders made.
put() { install -D --mode="$1" "$2" "$root$3"; }

# Paths as the program asks for them; none where it is linked statically. The last three are empty since glibc
# 2.34, but libnvidia-ml and libcuda, which a container runtime adds, still name them.
libraries() {
    local named c
    named=$(ldd "$program" 2> /dev/null | grep -oE '/[^ ]+' | sort -u || true)
    printf '%s\n' "$named"
    c=$(grep -E '/libc\.so\.6$' <<< "$named") || return 0
    printf '%s\n' "${c%/*}/libdl.so.2" "${c%/*}/libpthread.so.0" "${c%/*}/librt.so.1"
}

# What it was built for: a static program of ours holds musl.
target() {
    case "$(ldd "$program" 2>&1 || true)" in
        *"not a dynamic executable"* | *"statically linked"*) printf '%s-unknown-linux-musl\n' "$(uname -m)" ;;
        *) printf '%s-unknown-linux-gnu\n' "$(uname -m)" ;;
    esac
}

# package_of FILE: dpkg knows some files by the path before /lib became a link to /usr/lib.
package_of() {
    local found
    found=$(dpkg-query --search "$1" 2> /dev/null || dpkg-query --search "${1#/usr}" 2> /dev/null) \
        || fail "$1 is from no Debian package, so its licence is not known"
    printf '%s\n' "${found%%: *}"
}

put_licences() {
    local package=$1 file text
    file=/usr/share/doc/${package%%:*}/copyright
    [ -f "$file" ] || fail "the package $package says nothing about its licence"
    put 644 "$file" "$file"
    # A sentence may end after the path.
    for text in $(grep -oE '/usr/share/common-licenses/[A-Za-z0-9.+-]*[A-Za-z0-9]' "$file" | sort -u); do
        put 644 "$text" "$text"
    done
}

put 755 "$program" "$entry"
strip --strip-debug "$root$entry"
put 644 "$images/../LICENSE" /usr/share/doc/berth/copyright
"$images/notices.py" "$(basename "$program")" "$(target)" > "$root/usr/share/doc/berth/third-party"
packages=()
for library in $(libraries); do
    [ "$library" != "$program" ] || continue
    file=$(readlink -f "$library")
    put 755 "$file" "/usr${library#/usr}"
    packages+=("$(package_of "$file")")
done
for package in $(printf '%s\n' "${packages[@]}" | sort -u); do
    put_licences "$package"
    dpkg-query --show --showformat '${Package} ${Version} (source: ${source:Package} ${source:Version})\n' "$package"
done > "$root/usr/share/doc/debian-packages"
for folder in bin lib lib64; do
    mkdir -p "$root/usr/$folder"
    ln -s "usr/$folder" "$root/$folder"
done
mkdir "$root/etc"
printf 'root:x:0:0::/:\nberth:x:%s:%s::/:\n' $user $user > "$root/etc/passwd"
printf 'root:x:0:\nberth:x:%s:\n' $user > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"

mkdir -p "$(dirname "$tar")"
"$images/pack.sh" "$name" "$root" "$tar" "$user:$user" "$entry"
printf '%s  %s  %s  sha256:%s\n' "$name" "$tar" "$(numfmt --to=si --suffix=B "$(stat -c %s "$tar")")" \
    "$(sha256sum "$tar" | cut -d' ' -f1)"
