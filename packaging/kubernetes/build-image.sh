#!/bin/sh
# build-image.sh ARCHIVE [PYTHON-VERSION...]: the image of node-installer.yaml, for `ctr -n k8s.io images import` or a
# registry: the daemon for each of these versions of the nodes' /usr/bin/python3 (3.11 3.12 3.13), libwasmedge with all
# that it needs, and a static busybox that runs node.sh. No container tool is needed. $IMAGE is its name.
set -eu

archive=$1
shift
[ $# -gt 0 ] || set -- 3.11 3.12 3.13
here=$(cd "$(dirname "$0")" && pwd)
packaging=$here/..
build=${BUILD_PYTHON:-$packaging/../.venv/bin/python}
say() { printf 'build-image: %s\n' "$*" >&2; }

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM
umask 022
for version in "$@"; do
    "$packaging/install.sh" "$tree/payload/$version" /opt/wasm-sandboxer "$version"
done
(
    trap - EXIT
    "$packaging/install-wasmedge.sh" --always trixie "$tree/payload/wasmedge"
)
(
    # shellcheck source=packaging/private-apt.sh
    . "$packaging/private-apt.sh"
    private_apt_begin trixie
    private_apt_unpack "$private/new" busybox-static
    mkdir -p "$tree/bin" "$tree/licenses"
    cp "$private/new/usr/bin/busybox" "$tree/bin/busybox" 2>/dev/null || cp "$private/new/bin/busybox" "$tree/bin/busybox"
    cp "$private/new/usr/share/doc/busybox-static/copyright" "$tree/licenses/busybox-static"
)
ln -s busybox "$tree/bin/sh"
install -m 755 "$here/node.sh" "$tree/bin/node.sh"
(cd "$tree/payload" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16) >"$tree/version"
mv "$tree/version" "$tree/payload/version"
"$build" "$here/image.py" "$tree" "${IMAGE:-wasm-sandboxer-node:1}" "$archive"
