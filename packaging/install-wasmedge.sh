#!/bin/sh
# install-wasmedge.sh [--always SUITE] FOLDER [PYTHON]: has libwasmedge (C API 0.14) for that interpreter. Where the
# machine has a fit one, does nothing; else fetches Debian's with all that it needs, the C library included, into
# FOLDER. Nothing is installed, and no source, pin or package of the machine's changes. FOLDER/lib is what helpers find
# (supervisor/host/interpreters.py), FOLDER/licenses are the packages' copyright files. With --always it is that
# Debian suite's, whatever the machine has: for a package.
set -eu

LIBRARY=libwasmedge.so.0
WANTED=0.14

say() { printf 'install-wasmedge: %s\n' "$*" >&2; }

suite=
always=
if [ "${1:-}" = --always ]; then
    always=1
    suite=$2
    shift 2
fi
[ $# -ge 1 ] || { echo "usage: install-wasmedge.sh [--always SUITE] FOLDER [PYTHON]" >&2; exit 2; }
folder=$1
here=$(dirname "$0")
# python3 may be a script that looks for the real one.
python=$("${2:-python3}" -c 'import sys; print(sys.executable)')

# fit LIBRARY COMMAND...: whether that library loads in the interpreter that COMMAND starts, and is the wanted one.
fit() {
    library=$1
    shift
    found=$("$@" -I -S - "$library" 2>/dev/null <<'PY' || true
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
lib.WasmEdge_VersionGet.restype = ctypes.c_char_p
print(lib.WasmEdge_VersionGet().decode())
PY
    )
    case "$found" in
        "$WANTED".*) return 0 ;;
        "") return 1 ;;
        *) say "$library is version $found; this wants $WANTED.x"; return 1 ;;
    esac
}

loader() { ls "$folder"/lib/ld-linux-*.so.* 2>/dev/null; }

folder_fit() {
    if loader=$(loader); then
        fit "$folder/lib/$LIBRARY" "$loader" --library-path "$folder/lib" "$python"
    else
        fit "$folder/lib/$LIBRARY" env LD_LIBRARY_PATH="$folder/lib" "$python"
    fi
}

by_hand() {
    say "no package of libwasmedge $WANTED.x could be fetched for this system."
    say "Install it (Fedora: dnf install wasmedge; elsewhere upstream's own installer) and try again,"
    say "or name your own: WASM_SANDBOXER_LIBWASMEDGE=/path/to/$LIBRARY"
    exit 1
}

if [ -n "$always" ]; then
    :
elif [ -n "${WASM_SANDBOXER_LIBWASMEDGE:-}" ]; then
    [ ! -d "$WASM_SANDBOXER_LIBWASMEDGE/lib" ] || folder=$WASM_SANDBOXER_LIBWASMEDGE
    if folder_fit || fit "$WASM_SANDBOXER_LIBWASMEDGE" "$python"; then exit 0; fi
    say "WASM_SANDBOXER_LIBWASMEDGE=$WASM_SANDBOXER_LIBWASMEDGE: no fit libwasmedge"
    exit 1
elif [ -d "$folder/lib" ]; then
    # Helpers look there first.
    if folder_fit; then exit 0; fi
elif fit "$LIBRARY" "$python"; then
    exit 0
fi

# shellcheck source=/dev/null
. /etc/os-release
# shellcheck source=packaging/private-apt.sh
. "$here/private-apt.sh"

[ -n "$suite" ] || [ "${VERSION_CODENAME:-}" != bookworm ] || suite=trixie
say "fetching libwasmedge $WANTED.x into $folder"
private_apt_begin "$suite" || by_hand
new=$private/new
private_apt_unpack "$new" libwasmedge0 || by_hand
made=$private/made
mkdir -p "$made/licenses"
libraries_of "$new" "$made/lib"
for file in "$new"/usr/share/doc/*/copyright; do
    cp -L "$file" "$made/licenses/$(basename "$(dirname "$file")")" 2>/dev/null || true
done
rm -rf "$folder" "$folder.part"
mkdir -p "$(dirname "$folder")"
cp -a "$made" "$folder.part"
mv "$folder.part" "$folder"
# The loader is left away where the host's C library is as new: one C library less, and its security updates count.
host=$("$python" -c 'import os; print(os.confstr("CS_GNU_LIBC_VERSION").split()[1])')
fetched=$("$(loader)" --version | sed -n '1s/.* \([0-9.]*[0-9]\)\.*$/\1/p')
if [ -z "$always" ] && [ "$(printf '%s\n' "$host" "$fetched" | sort -V | head -n 1)" = "$fetched" ]; then
    dpkg -c "$private"/cache/archives/libc6_*.deb | sed -n 's|.*/\([^/ ]*\.so[^/ ]*\).*|\1|p' |
        while read -r name; do rm -f "$folder/lib/$name"; done
fi

folder_fit || { say "fetched, but $folder/lib/$LIBRARY $WANTED.x does not load"; exit 1; }
