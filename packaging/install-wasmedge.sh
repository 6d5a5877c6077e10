#!/bin/sh
# Puts libwasmedge (C API 0.14) on this machine, or does nothing where a fit library loads.
# Debian 13+, Ubuntu 25.04+ and Fedora package it. Debian 12 takes it from the next suite, with the
# machine's own mirror and key (libc6 is upgraded on the way); anything else gets told what to do.
set -eu

LIBRARY=libwasmedge.so.0
WANTED=0.14

say() { printf 'install-wasmedge: %s\n' "$*" >&2; }

fit() {
    found=$(python3 - "$LIBRARY" 2>/dev/null <<'PY' || true
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
lib.WasmEdge_VersionGet.restype = ctypes.c_char_p
print(lib.WasmEdge_VersionGet().decode())
PY
    )
    case "$found" in
        "$WANTED".*) return 0 ;;
        "") return 1 ;;
        *) say "$LIBRARY is version $found; this wants $WANTED.x"; return 1 ;;
    esac
}

by_hand() {
    say "no package of libwasmedge $WANTED.x is known for this system."
    say "Install it with upstream's own installer (into /usr/local), run ldconfig, and try again."
    exit 1
}

if fit; then
    exit 0
fi

SUDO=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "needs root: run it as root, or install sudo"; exit 1; }
    SUDO=sudo
fi
# shellcheck source=/dev/null
. /etc/os-release

apt_install() {
    $SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

# One stanza per deb822 source of this machine that serves the plain suite, for another suite.
next_suite_source() {
    awk -v from="$VERSION_CODENAME" -v to="$1" '
        BEGIN { RS = ""; FS = "\n" }
        {
            uris = signed = ""; plain = 0
            for (i = 1; i <= NF; i++) {
                if ($i ~ /^URIs:/) uris = $i
                if ($i ~ /^Signed-By:/) signed = $i
                if ($i ~ /^Suites:/ && (" " substr($i, 8) " ") ~ (" " from " ")) plain = 1
            }
            if (plain && uris != "") {
                print "Types: deb\n" uris "\nSuites: " to "\nComponents: main"
                if (signed != "") print signed
                exit
            }
        }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
}

# The same for the one-line format of /etc/apt/sources.list.
next_suite_line() {
    awk -v from="$VERSION_CODENAME" -v to="$1" '
        $1 == "deb" {
            for (i = 2; i <= NF; i++) if ($i == from) { $i = to; print; exit }
        }' /etc/apt/sources.list 2>/dev/null || true
}

from_trixie() {
    say "Debian 12 has no libwasmedge0: taking it from Debian 13 (pinned; libc6 is upgraded on the way)"
    stanza=$(next_suite_source trixie)
    line=$(next_suite_line trixie)
    if [ -n "$stanza" ]; then
        printf '%s\n' "$stanza" | $SUDO tee /etc/apt/sources.list.d/wasm-sandboxer-trixie.sources >/dev/null
    elif [ -n "$line" ]; then
        printf '%s\n' "$line" | $SUDO tee /etc/apt/sources.list.d/wasm-sandboxer-trixie.list >/dev/null
    else
        say "found no apt source for $VERSION_CODENAME to take the mirror from"
        by_hand
    fi
    printf 'Package: *\nPin: release n=trixie\nPin-Priority: 100\n' |
        $SUDO tee /etc/apt/preferences.d/wasm-sandboxer-trixie >/dev/null
    $SUDO apt-get update >&2
    apt_install -t trixie libwasmedge0
}

case "${ID:-} ${ID_LIKE:-}" in
    *debian*|*ubuntu*)
        if [ "${VERSION_CODENAME:-}" = bookworm ]; then
            from_trixie
        else
            $SUDO apt-get update >&2
            apt-cache show libwasmedge0 >/dev/null 2>&1 || by_hand
            apt_install libwasmedge0
        fi ;;
    *fedora*)
        $SUDO dnf install -y wasmedge >&2 ;;
    *) by_hand ;;
esac

fit || { say "installed, but $LIBRARY $WANTED.x still does not load"; exit 1; }
