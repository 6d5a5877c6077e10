#!/bin/sh
# boot.sh LOWER UPPER SCRIPT: as enter.sh, but systemd is the first process, and SCRIPT, a path in the system, runs as
# a service of its, with the output in SCRIPT.log; then the system ends. The control groups are a hierarchy of its own
# for systemd and the machine's for the rest (version 1), or the machine's own part of version 2. Needs root.
set -eu

[ "${1:-}" = inside ] ||
    exec unshare --mount --propagation private --pid --fork --kill-child --uts --ipc "$0" inside "$@"
lower=$2 upper=$3 script=$4
root=$upper.root
legacy=
mkdir -p "$upper" "$upper.work" "$root"
mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$upper.work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    # systemd 256 and 257 (Debian 13) want to be told; in a container its own arguments are the kernel's command line.
    legacy="systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    for name in systemd memory pids cpu cpuset freezer; do
        mkdir "$root/sys/fs/cgroup/$name"
        kind=$name
        [ "$name" != systemd ] || kind=none,name=wasm-sandboxer-test
        mount -t cgroup -o "$kind" cgroup "$root/sys/fs/cgroup/$name"
    done
fi
cat >"$root/etc/systemd/system/try.service" <<EOF
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c "sh $script >$script.log 2>&1; systemctl exit 0"
EOF
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../try.service "$root/etc/systemd/system/multi-user.target.wants/try.service"
cd "$root"
pivot_root . .
umount -l .
cd /
# shellcheck disable=SC2086
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --show-status=0 $legacy
