#!/bin/sh
# make-venv.sh PYTHON FOLDER: a virtual environment with this checkout and its tools in it, at the versions that CI
# tested (constraints.txt).
set -eu

python=$1
folder=$2

say() { printf 'make-venv: %s\n' "$*" >&2; }

command -v "$python" >/dev/null || { say "no $python: install Python 3.11 or later"; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "$python is older than 3.11"; exit 1; }

"$python" -c 'import ensurepip, venv' 2>/dev/null || {
    say "this Python has no venv module: install it (Debian, Ubuntu: python3-venv)"
    exit 1
}
# One whose making was interrupted may have half a package in it, which pip takes for a whole one: it is made again.
unfinished=$folder/.unfinished
if [ -e "$unfinished" ] || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$folder"
    mkdir -p "$folder"
    : >"$unfinished"
    "$python" -m venv "$folder"
fi
: >"$unfinished"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,wasmtime]'
rm "$unfinished"
