#!/bin/sh
# build.sh SUITE FOLDER: wasm-sandboxer_VERSION_ARCH.deb for bookworm (Debian 12) or trixie (13), on any machine with
# dpkg-deb. Debian 12 has no libwasmedge 0.14: its package brings Debian 13's with all that it needs, in our folder.
set -eu

suite=$1
folder=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
build=${BUILD_PYTHON:-$root/.venv/bin/python}
say() { printf 'build-deb: %s\n' "$*" >&2; }

case "$suite" in
    bookworm) release=12 python=3.11 next=3.12 library= ;;
    trixie) release=13 python=3.13 next=3.14 library="libwasmedge0 (>= 0.14), libwasmedge0 (<< 0.15~), " ;;
    *) say "suites are bookworm and trixie"; exit 2 ;;
esac
version=$("$build" -c 'import importlib.metadata; print(importlib.metadata.version("wasm-sandboxer"))')
# PEP 440's 0.2.0.dev0 and 0.2.0rc1 come before 0.2.0, as Debian's ~ says.
version=$(printf '%s' "$version" | sed -E 's/\.?(dev|a|b|rc)([0-9])/~\1\2/')-1~deb$release
architecture=$(dpkg --print-architecture)

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$tree"
umask 022
"$root/packaging/install.sh" "$tree" /usr "$python"
if [ -z "$library" ]; then
    (
        trap - EXIT
        "$root/packaging/install-wasmedge.sh" --always trixie "$tree/usr/lib/wasm-sandboxer/wasmedge"
    )
fi
doc=$tree/usr/share/doc/wasm-sandboxer
gzip -n9c "$doc/CHANGELOG.md" >"$doc/changelog.gz"
cat >"$doc/copyright" <<EOF
Copyright: the wasm-sandboxer authors
License: Apache-2.0; its text is in /usr/share/common-licenses/Apache-2.0.
The Python packages in /usr/lib/wasm-sandboxer/lib have their licenses in their dist-info folders; libraries in
/usr/lib/wasm-sandboxer/wasmedge, where it is there, have theirs in its folder licenses.
EOF
rm "$doc/CHANGELOG.md"
mkdir "$tree/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$here/$script" "$tree/DEBIAN/$script"
done
echo /etc/default/wasm-sandboxer >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/control" <<EOF
Package: wasm-sandboxer
Version: $version
Architecture: $architecture
Maintainer: The wasm-sandboxer authors <wasm-sandboxer@localhost>
Installed-Size: $(du -sk --exclude DEBIAN "$tree" | cut -f 1)
Depends: ${library}python3 (>= $python~), python3 (<< $next~), libseccomp2, init-system-helpers
Suggests: containerd
Section: admin
Priority: optional
Description: sandboxer for container engines: WebAssembly workloads as processes
 A node agent that containerd and iSulad use over the Sandbox and Task APIs. It
 runs each WebAssembly instance as a process of its own, confined by the kernel.
EOF
(cd "$tree" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
mkdir -p "$folder"
dpkg-deb --root-owner-group -Zzstd --build "$tree" "$folder/wasm-sandboxer_${version}_$architecture.deb" >&2
