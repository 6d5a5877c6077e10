#!/bin/sh
# install.sh DESTDIR PREFIX [PYTHON-VERSION]: what packages hold. The daemon lies in a virtual environment of its own,
# PREFIX/lib/wasm-sandboxer, and never in the system's site-packages: other projects have modules of our names.
# With PYTHON-VERSION (3.13) it is for that version of /usr/bin/python3, which need not be here.
# $BUILD_PYTHON is an interpreter with pip, and this checkout installed.
set -eu

destdir=$1
prefix=$2
here=$(cd "$(dirname "$0")" && pwd)
build=${BUILD_PYTHON:-$here/../.venv/bin/python}
ours=$destdir$prefix/lib/wasm-sandboxer
target=
if [ $# -gt 2 ]; then
    version=$3
    python=/usr/bin/python3
    target="--python-version $version --implementation cp --only-binary :all:"
    for tag in manylinux_2_28 manylinux_2_17 manylinux2014; do
        target="$target --platform ${tag}_$(uname -m)"
    done
else
    python=$("$build" -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
    version=$("$build" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
"$here/build-wheel.sh" "$work"
rm -rf "$ours"
mkdir -p "$ours/bin" "$ours/lib"
# shellcheck disable=SC2086
"$build" -m pip install --quiet --disable-pip-version-check --no-compile --constraint "$here/../constraints.txt" \
    $target --target "$ours/lib/python$version/site-packages" "$work"/*.whl
# pip puts programs and data into the target: there are our own ways to both.
rm -rf "$ours/lib/python$version/site-packages/bin" "$ours/lib/python$version/site-packages/share"
# What pip notes of where it took things from is of this machine.
rm -f "$ours"/lib/python*/site-packages/*.dist-info/direct_url.json
find "$ours/lib" -type f -exec chmod a-x {} +
find "$ours/lib" -name '*.py' -exec sed -i '1{/^#!/d}' {} +
ln -s "$python" "$ours/bin/python"
printf 'home = %s\ninclude-system-site-packages = false\n' "$(dirname "$python")" >"$ours/pyvenv.cfg"
cat >"$ours/bin/wasm-sandboxer" <<EOF
#!$prefix/lib/wasm-sandboxer/bin/python -I
import sys

from supervisor.cli import main

sys.exit(main(prog_name="wasm-sandboxer"))
EOF
chmod 755 "$ours/bin/wasm-sandboxer"

put() { # put MODE FILE TARGET: relative to PREFIX
    mkdir -p "$destdir$(dirname "$3")"
    sed "s|/usr/local/|$prefix/|g" "$2" >"$destdir$3"
    chmod "$1" "$destdir$3"
}

mkdir -p "$destdir$prefix/bin"
ln -sf ../lib/wasm-sandboxer/bin/wasm-sandboxer "$destdir$prefix/bin/wasm-sandboxer"
put 755 "$here/containerd/containerd-shim-wasm-v1" "$prefix/bin/containerd-shim-wasm-v1"
put 644 "$here/systemd/wasm-sandboxer.service" "$prefix/lib/systemd/system/wasm-sandboxer.service"
put 644 "$here/systemd/wasm-sandboxer.default" /etc/default/wasm-sandboxer
share=$prefix/share/wasm-sandboxer
put 644 "$here/containerd/config.toml" "$share/containerd/wasm.toml"
put 644 "$here/isulad/daemon.json" "$share/isulad/daemon.json"
put 644 "$here/prometheus/alerts.yml" "$share/prometheus/alerts.yml"
put 644 "$here/prometheus/dashboard.json" "$share/prometheus/dashboard.json"
# Where a wheel has them in its environment: doctor names them.
put 755 "$here/install-wasmedge.sh" "$prefix/lib/wasm-sandboxer/share/wasm-sandboxer/install-wasmedge.sh"
put 644 "$here/private-apt.sh" "$prefix/lib/wasm-sandboxer/share/wasm-sandboxer/private-apt.sh"
doc=$prefix/share/doc/wasm-sandboxer
put 644 "$here/README.md" "$doc/README.md"
put 644 "$here/../CHANGELOG.md" "$doc/CHANGELOG.md"
put 644 "$here/../LICENSE" "$doc/copyright"

# The program writes these itself.
program() { (cd "$here/.." && "$build" -m supervisor "$@"); }
completion() { # completion SHELL TARGET
    mkdir -p "$(dirname "$2")"
    program completion "$1" >"$2"
}
completion bash "$destdir$prefix/share/bash-completion/completions/wasm-sandboxer"
completion zsh "$destdir$prefix/share/zsh/vendor-completions/_wasm-sandboxer"
completion fish "$destdir$prefix/share/fish/vendor_completions.d/wasm-sandboxer.fish"
mkdir -p "$destdir$prefix/share/man/man8"
program man | gzip -n9 >"$destdir$prefix/share/man/man8/wasm-sandboxer.8.gz"
