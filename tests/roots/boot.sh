#!/bin/sh
# boot.sh LOWER UPPER SCRIPT: as enter.sh, but systemd is the first process, and SCRIPT, a path in the system, runs as
# a service of its, with the output in SCRIPT.log; then the system ends. It sees no control groups but those below one
# of its own: systemd removes whatever empty ones it finds, running sandboxers' too. Needs root.
set -eu

CONTROLLERS="memory pids cpu cpuset freezer"
OWN=wasm-sandboxer-test

case "${1:-}" in own | inside) ;; *) exec unshare --mount --propagation private "$0" own "$@" ;; esac
step=$1 lower=$2 upper=$3 script=$4
root=$upper.root
mkdir -p "$upper" "$upper.work" "$root"

if [ "$step" = own ]; then
    trees=$(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/self/mounts)
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
        trees="$trees $root" # systemd's own hierarchy, which cannot be made in another namespace
        mount -t cgroup -o "none,name=$OWN" cgroup "$root"
    fi
    group=wasm-sandboxer-boot-$$
    leave() {
        for tree in $trees; do
            [ ! -d "$tree/$group" ] || find "$tree/$group" -depth -type d -exec rmdir {} \;
        done
        for _ in 1 2 3; do # a hierarchy goes with its last mount, if its groups are quite gone by then
            ! mountpoint -q "$root" || umount "$root"
            sleep 1
            grep -q ":name=$OWN:" /proc/self/cgroup || break
            mount -t cgroup -o "none,name=$OWN" cgroup "$root"
        done
    }
    trap leave EXIT
    for tree in $trees; do
        mkdir "$tree/$group"
        for file in cpuset.cpus cpuset.mems; do # empty in a new group of version 1, which then takes no process
            [ ! -e "$tree/cpuset.memory_migrate" ] || cat "$tree/$file" >"$tree/$group/$file"
        done
        [ ! -e "$tree/$group/cpu.shares" ] || echo 16384 >"$tree/$group/cpu.shares" # as if it were many processes
    done
    (
        for tree in $trees; do
            echo 0 >"$tree/$group/cgroup.procs"
        done
        exec unshare --cgroup --mount --pid --fork --kill-child --uts --ipc "$0" inside "$lower" "$upper" "$script"
    )
    exit
fi
legacy=
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
    for name in systemd $CONTROLLERS; do
        mkdir "$root/sys/fs/cgroup/$name"
        kind=$name
        [ "$name" != systemd ] || kind=none,name=$OWN
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
