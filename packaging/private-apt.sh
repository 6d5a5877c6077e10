# To be sourced: unpacks Debian packages with all that they depend on into a folder, and leaves the machine as it is.
# The mirror and its key are the machine's own; lists, cache and the record of what is installed (nothing) are in a
# temporary folder, so no source, pin, list or package of the machine's changes, and no root is needed.
# The caller defines say().

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

# private_apt_begin SUITE|"": that suite of the machine's mirror; "" is all that the machine itself has configured.
private_apt_begin() {
    for tool in apt-get dpkg awk; do
        command -v "$tool" >/dev/null || { say "$tool is missing: packages can only be fetched on Debian and its kin"; return 1; }
    done
    private=$(mktemp -d)
    trap 'rm -rf "$private"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir -p "$private/lists/partial" "$private/cache/archives/partial"
    set -- "$1" -o Dir::Etc::sourceparts=/dev/null
    if [ -z "$1" ]; then
        set -- "$1"
    else
        source_stanza "$1" >"$private/debian.sources"
        source_lines "$1" >"$private/debian.list"
        for file in "$private/debian.sources" "$private/debian.list"; do
            [ ! -s "$file" ] || { set -- "$@" -o Dir::Etc::sourcelist="$file"; break; }
        done
        [ $# -gt 3 ] || { say "no Debian source is configured here to take the mirror from"; return 1; }
    fi
    private_suite=$1
    shift
    # One option a line: none of ours has a newline in it.
    private_options=$(printf '%s\n' "$@")
    private_apt update
}

private_apt() (
    IFS='
'
    # shellcheck disable=SC2086
    apt-get -qq $private_options \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Dir::State::lists="$private/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$private/cache" \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Update::Post-Invoke::= -o APT::Install-Recommends=false -o Debug::NoLocking=true \
        -o Dpkg::Use-Pty=false -o APT::Sandbox::User="$(id -un)" "$@" >&2
)

# private_apt_unpack FOLDER PACKAGE...: these and all that they depend on.
private_apt_unpack() {
    into=$1
    shift
    private_apt ${private_suite:+-t "$private_suite"} install --yes --download-only "$@"
    mkdir -p "$into"
    for deb in "$private"/cache/archives/*.deb; do
        dpkg -x "$deb" "$into"
    done
}

# libraries_of TREE FOLDER: the shared libraries of unpacked packages, and their dynamic loader, in one flat folder.
libraries_of() {
    mkdir -p "$2"
    find "$1" -path '*/lib*/*' \( -name '*.so' -o -name '*.so.*' \) ! -type d ! -name '*.py' ! -path '*/gconv/*' ! -path '*/lib64/*' \
        ! -path '*/cni/*' -exec cp -a -t "$2" {} +
}

# fetch_programs FOLDER NAME SUITE "PACKAGE..." PROGRAM...: programs below FOLDER, with their libraries in
# FOLDER/lib/NAME. Interpreter and search path are written into each: what it starts in turn is not to get them.
fetch_programs() (
    mkdir -p "$1"
    to=$(cd "$1" && pwd)
    libraries=$to/lib/$2
    packages=$4
    private_apt_begin "$3"
    shift 4
    # shellcheck disable=SC2086
    private_apt_unpack "$private/new" patchelf $packages
    rm -rf "$libraries"
    libraries_of "$private/new" "$libraries"
    loader=$(ls "$libraries"/ld-linux-*.so.*)
    patchelf() { "$loader" --library-path "$libraries" usr/bin/patchelf "$@"; }
    cd "$private/new"
    for program in $*; do
        mkdir -p "$to/$(dirname "$program")"
        rm -f "$to/$program"
        if patchelf --print-interpreter "$program" >/dev/null 2>&1; then
            patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" --output "$to/$program" "$program"
            chmod 755 "$to/$program"
        else
            cp "$program" "$to/$program" # static
        fi
    done
)
