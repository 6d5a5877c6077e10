#!/bin/sh
# debootstrap.sh SUITE FOLDER PACKAGE,...: a minimal Debian from the machine's mirror, by a debootstrap that is fetched
# for it. Nothing is installed on the machine.
set -eu
say() { printf 'debootstrap: %s\n' "$*" >&2; }
# shellcheck source=packaging/private-apt.sh
. "$(dirname "$0")/../../packaging/private-apt.sh"
private_apt_begin "$1"
mirror=$(cat "$private"/debian.* | awk '$1 == "URIs:" { print $2; exit }
    $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }')
(cd "$private" && private_apt download debootstrap)
dpkg -x "$private"/debootstrap_*.deb "$private/tool"
PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBOOTSTRAP_DIR=$private/tool/usr/share/debootstrap \
    sh "$private/tool/usr/sbin/debootstrap" --variant=minbase --include="$3" "$1" "$2" "$mirror"
# The machine's own settings for fetching (dates, proxies): a clock that is wrong here is wrong there.
apt-config dump | grep -E '^Acquire::(Check|http|https)' >"$2/etc/apt/apt.conf.d/99machine" || true
