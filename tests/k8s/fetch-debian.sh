#!/bin/sh
# fetch-debian.sh DEST: etcd, runc and the CNI plug-ins under DEST, laid out as Debian does. Nothing is installed.
set -eu

say() { printf 'fetch-debian: %s\n' "$*" >&2; }

# shellcheck source=packaging/private-apt.sh
. "$(dirname "$0")/../../packaging/private-apt.sh"
fetch_programs "$1" k8s trixie "etcd-server runc containernetworking-plugins" \
    usr/bin/etcd usr/sbin/runc 'usr/lib/cni/*'
