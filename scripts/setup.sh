#!/usr/bin/env bash
# Make .venv ready for one purpose: `scripts/setup.sh demo|test|bench`. Safe to run again and again.
#
# A stamp in .venv holds all that the installation was made from (pyproject.toml, this script, the folder,
# the interpreter), so it is done again when one of them differs and at no other time: contents
# and not file times, which a checkout of an older commit or a copied folder would make lie.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose=${1:-}
case $purpose in
    demo) extras=sim,plot ;;
    test) extras=test ;;
    bench) extras=bench ;;
    *) echo "usage: scripts/setup.sh demo|test|bench" >&2; exit 2 ;;
esac
venv=.venv
stamp=$venv/.installed-$purpose

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Install Debian packages where we may; otherwise say what is missing and how to get it.
need_packages() { # why package...
    local why=$1
    shift
    local advice="$why. Install it, then run make again. On Debian and Ubuntu:
    sudo apt-get update && sudo apt-get install --no-install-recommends $*"
    local -a as_root=()
    command -v apt-get >/dev/null || die "$advice"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || die "$advice"
        as_root=(sudo -n)
    fi
    say "$why: installing $* with apt-get"
    local log
    log=$(mktemp)
    # The list of packages may be old or absent on a fresh machine, so it is fetched first.
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get update -q && apt-get install -q -y --no-install-recommends "$@"' sh "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get failed. $advice"
    fi
    rm -f "$log"
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' >/dev/null 2>&1; }
version() { "$1" -c 'import sys, platform; print(sys.version, platform.machine())'; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || die "PYTHON=$PYTHON is not a Python from 3.10 to 3.14"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python3.14; do
        if command -v "$candidate" >/dev/null && supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

wanted() { { cat pyproject.toml scripts/setup.sh; pwd; version "$1"; } | sha256sum; }

# One set-up at a time: `make -j demo test` or two terminals share the environment.
if [ -z "${DAQCA_SETUP_LOCKED:-}" ] && command -v flock >/dev/null; then
    export DAQCA_SETUP_LOCKED=1
    exec flock . "${BASH_SOURCE[0]}" "$@"
fi

# Tests and benchmarks compile small C programs against libca's headers (from a wheel).
if [ "$purpose" != demo ] && ! echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1; then
    need_packages "a C compiler with the C library's headers is missing" gcc libc6-dev
fi

python=$(find_python) || {
    need_packages "Python 3.10 to 3.14 is missing" python3 python3-venv
    python=$(find_python) || die "this system's Python is not one from 3.10 to 3.14: set PYTHON=/path/to/python"
}

if [ -f "$stamp" ] && supported "$venv/bin/python" && [ "$(cat "$stamp")" = "$(wanted "$venv/bin/python")" ]; then
    if [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$venv/bin/python")" ]; then
        exit 0
    fi
fi

if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    need_packages "$python cannot make virtual environments (no ensurepip)" "$package"
fi

# An environment of another interpreter, a half-made one, or one that was moved here (its scripts would run the
# Python of the old folder) is made anew.
if ! supported "$venv/bin/python" ||
    [ "$(version "$venv/bin/python")" != "$(version "$python")" ] ||
    [ "$("$venv/bin/python" -m pip --version 2>/dev/null | grep -cF "$PWD/$venv/")" = 0 ] ||
    ! head -n 1 "$venv/bin/pip" 2>/dev/null | grep -qF "$PWD/$venv/"; then
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

say "installing daqca[$extras] into $venv (a minute or two the first time)"
rm -f "$stamp"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable ".[$extras]" ||
    die "pip could not install daqca[$extras]; the reason is above. Nothing outside $venv was changed"
wanted "$venv/bin/python" >"$stamp.new"
mv "$stamp.new" "$stamp"
