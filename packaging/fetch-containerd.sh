#!/bin/sh
# Puts containerd 2.1+ (containerd, ctr, containerd-shim-runc-v2) and the CNI plug-ins, for pods with a
# network of their own, under DEST, laid out as Debian does; or does nothing where DEST has fit ones. With
# --peers also crun (built with WasmEdge), runc and wasmedge, for comparisons. This is for tests: nothing is
# installed on the machine.
#
# Debian has containerd 2.1 in sid only, and its programs run on Debian 12 with the libc6 that
# install-wasmedge.sh brings. The packages come from the machine's own mirror and key, through an apt
# configuration that lives in a temporary folder, so the machine's sources stay as they are.
set -eu

usage() { echo "usage: fetch-containerd.sh [--peers] DEST" >&2; exit 2; }
say() { printf 'fetch-containerd: %s\n' "$*" >&2; }

peers=
dest=
while [ $# -gt 0 ]; do
    case "$1" in
        --peers) peers=1 ;;
        -*) usage ;;
        *) [ -z "$dest" ] || usage; dest=$1 ;;
    esac
    shift
done
[ -n "$dest" ] || usage

# containerd 2.1 is the first that takes a task address from a sandboxer without patches in every release.
fit_containerd() {
    found=$("$dest/usr/bin/containerd" --version 2>/dev/null | awk '{ sub(/^v/, "", $3); print $3 }')
    case "$found" in
        2.0.*|"") return 1 ;;
        2.*|[3-9].*) "$dest/usr/bin/ctr" --version >/dev/null 2>&1 && [ -x "$dest/usr/lib/cni/ptp" ] ;;
        *) return 1 ;;
    esac
}

fit_peers() {
    "$dest/usr/sbin/runc" --version >/dev/null 2>&1 &&
        "$dest/usr/bin/wasmedge" --version >/dev/null 2>&1 && with_libraries "$dest/usr/bin/crun" --version 2>/dev/null |
        grep -q '+WASM:wasmedge'
}

with_libraries() {
    LD_LIBRARY_PATH=$(ls -d "$dest"/usr/lib/*-linux-gnu 2>/dev/null | head -n 1) "$@"
}

need_containerd=1
need_peers=$peers
fit_containerd && need_containerd=
[ -n "$need_peers" ] && fit_peers && need_peers=
[ -n "$need_containerd$need_peers" ] || exit 0

for tool in apt-get dpkg awk; do
    command -v "$tool" >/dev/null || {
        say "$tool is not here: this is for Debian. Put containerd 2.1+ and ctr into $dest/usr/bin by hand."
        exit 1
    }
done

DEBIAN=' bookworm trixie forky sid stable testing unstable '

# The machine's Debian source, for other suites: the first deb822 stanza or line that serves a plain suite.
source_stanza() {
    awk -v plain="$DEBIAN" -v to="$1" '
        BEGIN { RS = ""; FS = "\n" }
        {
            uris = signed = ""; found = 0
            for (i = 1; i <= NF; i++) {
                if ($i ~ /^URIs:/) uris = $i
                if ($i ~ /^Signed-By:/) signed = $i
                if ($i ~ /^Suites:/) {
                    n = split(substr($i, 8), suites, " ")
                    for (j = 1; j <= n; j++) if (index(plain, " " suites[j] " ")) found = 1
                }
            }
            if (found && uris != "") {
                print "Types: deb\n" uris "\nSuites: " to "\nComponents: main"
                if (signed != "") print signed
                exit
            }
        }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
}

source_lines() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | awk -v plain="$DEBIAN" -v to="$1" '
        $1 == "deb" {
            for (i = 2; i <= NF; i++) if (index(plain, " " $i " ")) {
                options = ""
                for (j = 2; j < i - 1; j++) options = options $j " "
                n = split(to, suites, " ")
                for (j = 1; j <= n; j++) print "deb " options $(i - 1) " " suites[j] " main"
                exit
            }
        }' || true
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs"

suites=
[ -n "$need_containerd" ] && suites=sid
[ -n "$need_peers" ] && suites="${suites:+$suites }trixie"
sources=$work/debian.sources
source_stanza "$suites" >"$sources"
if [ ! -s "$sources" ]; then
    sources=$work/debian.list
    source_lines "$suites" >"$sources"
fi
[ -s "$sources" ] || {
    say "no Debian source is configured here to take the mirror from."
    say "Put containerd 2.1+ and ctr into $dest/usr/bin by hand."
    exit 1
}

private_apt() {
    apt-get -q \
        -o Dir::Etc::sourcelist="$sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Sandbox::User="$(id -un)" "$@" >&2
}

set --
[ -n "$need_containerd" ] && set -- "$@" containerd/sid containernetworking-plugins/sid
# crun needs libyajl2, which few machines have; it is unpacked beside it and found with LD_LIBRARY_PATH.
[ -n "$need_peers" ] && set -- "$@" crun/trixie libyajl2/trixie runc/trixie wasmedge/trixie

private_apt update
(cd "$work/debs" && private_apt download "$@")
mkdir -p "$dest"
for deb in "$work"/debs/*.deb; do
    dpkg -x "$deb" "$dest"
done

fit_containerd || {
    say "unpacked, but $dest/usr/bin/containerd does not run as 2.1 or later: on Debian 12, run install-wasmedge.sh first"
    exit 1
}
[ -z "$peers" ] || fit_peers || { say "unpacked, but the peers in $dest do not run (libwasmedge0 missing?)"; exit 1; }
