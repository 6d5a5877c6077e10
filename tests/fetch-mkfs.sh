#!/bin/sh
# fetch-mkfs.sh DEST: puts mkfs.ext4 below DEST, or does nothing where there is one. Nothing is installed.
set -eu
say() { printf 'fetch-mkfs: %s\n' "$*" >&2; }
# shellcheck source=packaging/private-apt.sh
. "$(dirname "$0")/../packaging/private-apt.sh"
program=usr/sbin/mkfs.ext4
"$1/$program" -V 2>/dev/null || fetch_programs "$1" mkfs trixie e2fsprogs "$program"
