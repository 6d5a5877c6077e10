#!/bin/sh
# Puts prometheus and promtool, as Debian has them, under DEST; or does nothing where DEST has them. This is for tests:
# nothing is installed on the machine.
set -eu

[ $# = 1 ] || { echo "usage: fetch-prometheus.sh DEST" >&2; exit 2; }
dest=$1
say() { printf 'fetch-prometheus: %s\n' "$*" >&2; }

fit() {
    "$dest/usr/bin/prometheus" --version >/dev/null 2>&1 && "$dest/usr/bin/promtool" --version >/dev/null 2>&1
}

fit && exit 0
# shellcheck source=packaging/private-apt.sh
. "$(dirname "$0")/private-apt.sh"
fetch_programs "$dest" prometheus trixie "prometheus promtool" usr/bin/prometheus usr/bin/promtool
fit || { say "fetched, but $dest/usr/bin/prometheus does not run"; exit 1; }
