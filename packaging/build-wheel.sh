#!/bin/sh
# build-wheel.sh FOLDER: the wheel of this checkout, from a copy of its files: what an earlier build left is not in it.
set -eu

folder=$1
root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD_PYTHON:-$root/.venv/bin/python}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$folder"
(cd "$root" && cp -r pyproject.toml README.md LICENSE packaging sandbox_api supervisor workers "$copy")
"$build" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" "$copy"
