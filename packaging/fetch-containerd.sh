#!/bin/sh
# Puts containerd 2.1+ (containerd, ctr, containerd-shim-runc-v2), runc and the CNI plug-ins, for pods with a
# network of their own, under DEST, laid out as Debian does; or does nothing where DEST has fit ones. With
# --peers also crun (built with WasmEdge) and wasmedge, for comparisons. This is for tests: nothing is
# installed on the machine, and the programs run by the libraries that they came with.
#
# Debian has containerd 2.1 in sid only.
set -eu

usage() { echo "usage: fetch-containerd.sh [--peers] DEST" >&2; exit 2; }
say() { printf 'fetch-containerd: %s\n' "$*" >&2; }

peers=
dest=
while [ $# -gt 0 ]; do
    case "$1" in
        --peers) peers=1 ;;
        -*) usage ;;
        *) [ -z "$dest" ] || usage; dest=$1 ;;
    esac
    shift
done
[ -n "$dest" ] || usage
here=$(dirname "$0")
# shellcheck source=packaging/private-apt.sh
. "$here/private-apt.sh"

# containerd 2.1 is the first that takes a task address from a sandboxer without patches in every release.
fit_containerd() {
    found=$("$dest/usr/bin/containerd" --version 2>/dev/null | awk '{ sub(/^v/, "", $3); print $3 }')
    case "$found" in
        2.0.*|"") return 1 ;;
        2.*|[3-9].*) "$dest/usr/bin/ctr" --version >/dev/null 2>&1 && "$dest/usr/sbin/runc" --version >/dev/null 2>&1 &&
            [ -x "$dest/usr/lib/cni/ptp" ] ;;
        *) return 1 ;;
    esac
}

fit_peers() {
    "$dest/usr/bin/wasmedge" --version >/dev/null 2>&1 &&
        "$dest/usr/bin/crun" --version 2>/dev/null | grep -q '+WASM:wasmedge'
}

fit_containerd || fetch_programs "$dest" containerd sid "containerd containernetworking-plugins" \
    usr/bin/containerd usr/bin/ctr usr/bin/containerd-shim-runc-v2 usr/sbin/runc 'usr/lib/cni/*'
[ -z "$peers" ] || fit_peers || fetch_programs "$dest" peers trixie "crun wasmedge" usr/bin/crun usr/bin/wasmedge

fit_containerd || { say "fetched, but $dest/usr/bin/containerd does not run as 2.1 or later"; exit 1; }
[ -z "$peers" ] || fit_peers || { say "fetched, but the peers in $dest do not run"; exit 1; }
