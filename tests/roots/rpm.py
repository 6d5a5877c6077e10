"""The RPM, built by rpmbuild in a fresh Debian: what it holds is what ``make install`` puts there, and it runs."""

from __future__ import annotations

import subprocess

from .system import ROOT, System, debian

# Debian's rpmbuild has neither Fedora's packages nor its macros.
STORY = """
set -eu
export DEBIAN_FRONTEND=noninteractive
exec 3>&1 >&2
apt-get -qq update
apt-get -qq --yes install cpio libseccomp2 libwasmedge0 rpm rpmlint
version=$(sed -n 's/^Version: *//p' packaging/rpm/wasm-sandboxer.spec)
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p /tmp/rpm/SOURCES
tar czf "/tmp/rpm/SOURCES/wasm-sandboxer-$version.tar.gz" --exclude ./.venv --exclude ./.cache \
    --transform "s|^[.]|wasm-sandboxer-$version|" .
rpmbuild -bb --quiet --nodeps --define '_topdir /tmp/rpm' --define '_unitdir /usr/lib/systemd/system' \
    --define 'systemd_post() :' --define 'systemd_preun() :' --define 'systemd_postun_with_restart() :' \
    --define "python3_version $python" packaging/rpm/wasm-sandboxer.spec
rpmlint -r packaging/rpm/wasm-sandboxer.rpmlintrc packaging/rpm/wasm-sandboxer.spec /tmp/rpm/RPMS/*/*.rpm >&3

make install DESTDIR=/tmp/made prefix=/usr
mkdir /tmp/unpacked
rpm2cpio /tmp/rpm/RPMS/*/*.rpm | (cd /tmp/unpacked && cpio -id --quiet)
# rpmbuild compiles Python, strips libraries, and has a folder for licences; pip's records name temporary folders.
for tree in made unpacked; do
    (cd "/tmp/$tree"
        find . ! -type d ! -path '*/__pycache__/*' ! -path ./usr/share/licenses/'*' | sort >"/tmp/$tree.names"
        find . -type f ! -name '*.so*' ! -name '*.pyc' ! -name RECORD ! -path ./usr/share/licenses/'*' \\
            -exec sha256sum {} + | sort >"/tmp/$tree.sums")
done
diff /tmp/made.names /tmp/unpacked.names >&3
diff /tmp/made.sums /tmp/unpacked.sums >&3

rpm --install --nodeps /tmp/rpm/RPMS/*/*.rpm
wasm-sandboxer run /hello.wasm >&3
rpm --erase --nodeps wasm-sandboxer
find /usr /etc -name '*wasm-sandboxer*' >&3
"""


def rpm(suite: str) -> None:
    """Build, lint, compare, install and remove it. Raises ``AssertionError``."""
    hello = next(path for path in sorted((ROOT / ".cache" / "guests").glob("*/hello.wasm")))
    system = System(debian(suite), f"{suite}-rpm")
    try:
        system.take_tree()
        system.take(hello)
        try:
            said = system.output("sh", "-c", f"cd /src && {STORY}")
        except subprocess.CalledProcessError as error:
            raise AssertionError(error.output) from None
        assert " 0 errors," in said, said
        assert said.splitlines()[-1] == "hello from WASI", said
        print("rpm:", *said.splitlines()[-2:])
    finally:
        system.remove()
