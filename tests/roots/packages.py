"""Debian packages in fresh systems: installed, upgraded while instances run, removed (``make roots-packages``)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from .rpm import rpm
from .system import FOLDER, ROOT, System, debian

SUITES = ("bookworm", "trixie")
LOOK = """
find / /run /tmp -xdev \\( -path /src -o -path /proc -o -path /var/log -o -path /var/lib/dpkg/info \\) -prune -o \
    \\( -name '*wasm-sandboxer*' -o -name '*kuasar-wasm*' -o -name '*-wasm-v1*' \\) -print
ls -l /proc/[0-9]*/exe 2>/dev/null | grep python || true
"""


def build(suite: str) -> Path:
    """The checkout's package."""
    folder = FOLDER / "packages" / suite
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([ROOT / "packaging" / "deb" / "build.sh", suite, folder], check=True)
    (made,) = folder.glob("*.deb")
    return made


def older(package: Path) -> Path:
    """The same as if of an earlier version."""
    tree, made = package.parent / "older", package.parent / "older.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub("(?m)^Version: .*", "Version: 0.1.9-1", control.read_text()))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True, stdout=subprocess.DEVNULL
    )
    shutil.rmtree(tree)
    return made


def life(suite: str) -> None:
    """One package's life. Raises ``CalledProcessError`` or ``AssertionError``."""
    new = build(suite)
    old = older(new)
    sleep = next(path for path in sorted((ROOT / ".cache" / "guests").glob("*/sleep.wasm")))
    system = System(debian(suite), f"{suite}-packages")
    try:
        system.take_tree()
        system.take(old, new, sleep)
        story = f"""
            set -eu
            export DEBIAN_FRONTEND=noninteractive
            apt-get -qq update
            apt-get -qq --yes install /{old.name} >/dev/null
            mkdir -p /tmp/client
            wasm-sandboxer --version
            wasm-sandboxer doctor || true
            /usr/lib/wasm-sandboxer/bin/python /src/tests/roots/packaged.py /{new.name}
            apt-get -qq --yes purge wasm-sandboxer >/dev/null
            rm -f /{old.name} /{new.name} /run/notify.sock
            rm -rf /tmp/client
            {LOOK}
        """
        done = system.output("sh", "-c", story)
        print(done)
        assert done.endswith("its settings are there still\n"), "something is left behind"
    finally:
        system.remove()


UNDER_SYSTEMD = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -y install /*.deb >/dev/null
systemctl is-active wasm-sandboxer
systemctl is-enabled wasm-sandboxer
wasm-sandboxer run -d --name it /sleep.wasm
systemctl restart wasm-sandboxer
wasm-sandboxer ps --format json | grep -o running
apt-get -qq -y purge wasm-sandboxer >/dev/null
systemctl is-active wasm-sandboxer || true
"""


def systemd(suite: str) -> None:
    """The package under a real systemd. Raises as ``life``."""
    (package,) = (FOLDER / "packages" / suite).glob("*_*.deb")
    sleep = next(path for path in sorted((ROOT / ".cache" / "guests").glob("*/sleep.wasm")))
    system = System(debian(suite), f"{suite}-systemd")
    try:
        system.take(package, sleep)
        system.output("sh", "-c", "apt-get -qq update; apt-get -qq -y install systemd-sysv >/dev/null")
        said = system.boot(UNDER_SYSTEMD)
        print("systemd:", *said.split()[-5:])
        assert said.split()[-5:] == ["active", "enabled", "it", "running", "inactive"], said
    finally:
        system.remove()


def wheel(suite: str) -> None:
    """The wheel in a virtual environment; libwasmedge by the command that doctor names. Raises as ``life``."""
    folder = FOLDER / "packages" / "wheel"
    subprocess.run([ROOT / "packaging" / "build-wheel.sh", folder], check=True)
    made = max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    hello = next(path for path in sorted((ROOT / ".cache" / "guests").glob("*/hello.wasm")))
    system = System(debian(suite), f"{suite}-wheel")
    try:
        system.take(made, hello)
        before = system.of_the_host()
        story = f"""
            set -eu
            python3 -m venv /src
            /src/bin/pip install -q /{made.name}
            /src/bin/wasm-sandboxer doctor | grep -o 'sh .*install-wasmedge.*' >/src/install
            test -s /src/install
            sh /src/install
            /src/bin/wasm-sandboxer run /{hello.name}
        """
        done = system.output("sh", "-c", story)
        assert done == "hello from WASI\n", done
        assert system.of_the_host() == before
        print("wheel:", done, end="")
    finally:
        system.remove()


def main() -> None:
    for suite in sys.argv[1:] or SUITES:
        print(f"{suite}:", flush=True)
        life(suite)
        wheel(suite)
        systemd(suite)
        if suite == "trixie":  # any system has the same rpmbuild
            rpm(suite)


if __name__ == "__main__":
    main()
