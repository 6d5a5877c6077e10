#!/bin/sh
# make-venv.sh PYTHON FOLDER: a virtual environment with this checkout and its tools in it.
# Installs Debian's python3-venv where Python lacks it.
set -eu

python=$1
folder=$2

say() { printf 'make-venv: %s\n' "$*" >&2; }

command -v "$python" >/dev/null || { say "no $python: install Python 3.11 or later"; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "$python is older than 3.11"; exit 1; }

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    SUDO=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "python3-venv is missing: install it, or run as root"; exit 1; }
        SUDO=sudo
    fi
    command -v apt-get >/dev/null || { say "this Python has no venv module: install it"; exit 1; }
    $SUDO apt-get update >&2
    $SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv >&2
fi

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
