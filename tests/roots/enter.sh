#!/bin/sh
# enter.sh LOWER UPPER COMMAND...: runs a command in a root file system made of LOWER, which stays as it is, and UPPER,
# which takes all changes (UPPER.work is the overlay's own), with the kernel's file systems, and a tmpfs on /tmp and
# /run. Mounts and processes are in namespaces of its own and end with the command. Needs root.
set -eu

[ "${1:-}" = inside ] || exec unshare --mount --propagation private --pid --fork --kill-child "$0" inside "$@"
shift
lower=$1 upper=$2
shift 2
root=$upper.root
mkdir -p "$upper" "$upper.work" "$root"
mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$upper.work" overlay "$root"
mkdir -p "$root/proc"
mount -t proc proc "$root/proc"
for name in sys dev; do
    mkdir -p "$root/$name"
    mount --rbind "/$name" "$root/$name"
done
for name in tmp run; do
    mkdir -p "$root/$name"
    mount -t tmpfs -o mode=1777 tmpfs "$root/$name"
done
# The network is the machine's: its names, and whom it trusts.
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then
        mkdir -p "$root$(dirname "$file")"
        [ -e "$root$file" ] || : >"$root$file"
        mount --bind "$file" "$root$file"
    fi
done
# Not by chroot alone: what changes its own root in turn (the compiler process) would have the machine's around it.
cd "$root"
pivot_root . .
umount -l .
cd /
# This stays, as the namespace's first process, and buries orphans.
"$@"
