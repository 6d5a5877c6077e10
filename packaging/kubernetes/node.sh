#!/bin/sh
# node.sh install|remove|wait: what the image of node-installer.yaml does on a node, whose root is at $HOST (/host).
# Install is for a first time, an upgrade and a repair: what is there as wanted stays, and only what changed is restarted.
set -eu

host=${HOST:-/host}
payload=${PAYLOAD:-/payload}
opt=opt/wasm-sandboxer
unit=etc/systemd/system/wasm-sandboxer.service
main=etc/containerd/config.toml
fragment=etc/containerd/conf.d/wasm.toml
shim=usr/local/bin/containerd-shim-wasm-v1
command=usr/local/bin/wasm-sandboxer
settings=etc/default/wasm-sandboxer
ours='# Written by wasm-sandboxer, which removes it again.'

# busybox has all that is called here; its programs have no files of their own in the image.
for program in cat chmod chroot cmp cp grep ls mkdir mv rm sed sleep tr; do
    eval "$program() { busybox $program \"\$@\"; }"
done
say() { echo "wasm-sandboxer: $*"; }
fail() { say "$*" >&2; exit 1; }
on_host() { chroot "$host" "$@"; }
service() { SYSTEMD_IGNORE_CHROOT=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin on_host systemctl "$@"; }

# put MODE FILE TARGET: whether the target had to change
put() {
    if cmp -s "$2" "$host/$3" 2>/dev/null; then return 1; fi
    mkdir -p "$host/${3%/*}"
    cp "$2" "$host/$3.new"
    chmod "$1" "$host/$3.new"
    mv "$host/$3.new" "$host/$3"
    say "/$3 is written"
}

# import_fragment: has containerd's main file name the fragment; whether that had to change
import_fragment() {
    if [ ! -s "$host/$main" ]; then
        printf '%s\nversion = 3\nimports = ["/%s"]\n' "$ours" "$fragment" >"$host/$main.new"
    elif grep -Eq '^[^#]*(/etc/containerd/conf\.d/\*\.toml|/etc/containerd/conf\.d/wasm\.toml)' "$host/$main"; then
        return 1
    elif grep -Eq '^imports *= *\[' "$host/$main"; then
        sed "s|^imports *= *\[|&\"/$fragment\", |" "$host/$main" >"$host/$main.new"
    else
        sed "s|^version *= *[34].*|&\nimports = [\"/$fragment\"]|" "$host/$main" >"$host/$main.new"
    fi
    mv "$host/$main.new" "$host/$main"
    say "/$main names /$fragment"
}

install() {
    python=$(on_host /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
        fail "the node has no /usr/bin/python3: install Python 3.11 or later"
    [ -d "$payload/$python" ] || fail "the node has Python $python; this image is for $(cd "$payload" && ls -d 3.* | tr '\n' ' ')"
    [ ! -s "$host/$main" ] || grep -Eq '^version *= *[34]' "$host/$main" ||
        fail "/$main is of version 2, and would lose its settings to a fragment of version 3:" \
            "write it so by 'containerd config migrate', try it, and the next attempt of this pod goes on"
    version="$(cat "$payload/version") $python"
    from=$payload/$python
    renewed=
    if [ "$(cat "$host/$opt/version" 2>/dev/null)" != "$version" ]; then
        rm -rf "$host/$opt.new" "$host/$opt.old"
        mkdir -p "$host/opt"
        cp -a "$from/$opt" "$host/$opt.new"
        cp -a "$payload/wasmedge" "$host/$opt.new/lib/wasm-sandboxer/wasmedge"
        echo "$version" >"$host/$opt.new/version"
        [ ! -d "$host/$opt" ] || mv "$host/$opt" "$host/$opt.old"
        mv "$host/$opt.new" "$host/$opt"
        say "/$opt is version $version"
        renewed=1
    fi
    put 644 "$from/$opt/lib/systemd/system/wasm-sandboxer.service" "$unit" && renewed=1
    mkdir -p "$host/usr/local/bin"
    busybox ln -sfn "/$opt/bin/wasm-sandboxer" "$host/$command"
    [ -e "$host/$settings" ] || put 644 "$from/$settings" "$settings" || true
    service daemon-reload
    service enable wasm-sandboxer.service
    if [ -n "$renewed" ]; then
        service restart wasm-sandboxer.service # instances run on
    else
        service start wasm-sandboxer.service
    fi
    rm -rf "$host/$opt.old"
    changed=
    put 755 "$from/$opt/bin/containerd-shim-wasm-v1" "$shim" && changed=1
    put 644 "$from/$opt/share/wasm-sandboxer/containerd/wasm.toml" "$fragment" && changed=1
    import_fragment && changed=1
    [ -z "$changed" ] || service restart containerd.service # what it runs goes on
    say "ready"
}

remove() {
    if [ -e "$host/$unit" ]; then
        on_host "/$opt/bin/wasm-sandboxer" drain || say "not everything could be stopped" >&2
        service disable --now wasm-sandboxer.service || true
    fi
    changed=
    if [ -e "$host/$fragment" ]; then
        rm -f "$host/$fragment"
        changed=1
    fi
    if grep -qF "$ours" "$host/$main" 2>/dev/null; then
        rm -f "$host/$main"
    elif grep -qF "\"/$fragment\"" "$host/$main" 2>/dev/null; then
        # Both ways in which it may have been put there
        sed -e "s|\"/$fragment\", ||" -e "/^imports = \[\"\/etc\/containerd\/conf\.d\/wasm\.toml\"\]\$/d" \
            "$host/$main" >"$host/$main.new"
        mv "$host/$main.new" "$host/$main"
    fi
    [ -z "$changed" ] || service restart containerd.service
    rm -f "$host/$unit" "$host/$shim" "$host/$command"
    [ ! -d "$host/$opt" ] || service daemon-reload
    rm -rf "$host/$opt" "$host/$opt.new" "$host/$opt.old" "$host/var/cache/wasm-sandboxer"
    # Never through a mount: what lies behind it is an engine's or a pod's.
    grep -q /run/kuasar-wasm/ "$host/proc/1/mounts" /proc/self/mounts || rm -rf "$host/run/kuasar-wasm"
    say "removed; /$settings is left"
}

case "${1:-}" in
    install) install ;;
    remove) remove ;;
    wait) trap 'exit 0' TERM INT; sleep 2147483647 & wait ;;
    *) fail "usage: node.sh install|remove|wait" ;;
esac
