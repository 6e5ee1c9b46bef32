#!/usr/bin/env bash
# install.sh: installs the openai client that is pinned here into the cache folder and prints where; what is
# there already stays. Ends with 3 where there is no Python that can run it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache="${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}"

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || exit 3
python3 -m pip --version > /dev/null 2>&1 || exit 3

# Compiled parts are for one version of Python.
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
pinned=$(sha256sum "$here/requirements.txt" | cut -c 1-16)
folder="$cache/openai/$pinned-python$version"
if [ ! -d "$folder" ]; then
    mkdir -p "$cache/openai"
    work=$(mktemp -d "$cache/openai/.installing-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        --target "$work/client" --requirement "$here/requirements.txt" >&2
    # Another one may have been faster.
    mv -T "$work/client" "$folder" 2> /dev/null || [ -d "$folder" ]
fi
printf '%s\n' "$folder"
