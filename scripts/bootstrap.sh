#!/bin/sh
# Make .venv and install this project into it:  bootstrap.sh embedded|dev|fuzz
#
# Done once: .venv/.installed-EXTRA holds a checksum of what decides the outcome (setup.cfg, pyproject.toml,
# constraints.txt, the place of the checkout); while it is the same, nothing happens and no network is needed. The stamp is
# written last, so an interrupted run is begun again. `dev` contains `embedded`, `fuzz` contains `dev`.
#
# PYTHON: the Python to use, else the first of CANDIDATES that runs and is new enough. USE_UV=1: install with uv.
set -eu
cd "$(dirname "$0")/.."

EXTRA=${1:?usage: bootstrap.sh embedded|dev|fuzz}
CANDIDATES='python3.13 python3.12 python3.11 python3 python'
CONSTRAINTS=scripts/constraints.txt
QUIET='--quiet --disable-pip-version-check'
export PYTHONWARNINGS=ignore # setuptools warns at length about every editable installation

fail() { printf 'install: %s\n' "$1" >&2; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-$CANDIDATES}; do
        if is_new_enough "$candidate"; then printf '%s\n' "$candidate"; return; fi
    done
    fail "no Python >= 3.11 among: ${PYTHON:-$CANDIDATES}. Install one (Debian: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 ..."
}

make_venv() {
    if [ "${USE_UV:-}" = 1 ]; then
        uv venv --quiet --clear --python "$1" .venv
    elif "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        "$1" -m venv --clear .venv
    elif "$1" -m pip --version >/dev/null 2>&1; then # Debian and Ubuntu keep ensurepip in a package of its own
        "$1" -m pip $QUIET install --root-user-action=ignore --upgrade --target .bootstrap -c $CONSTRAINTS virtualenv
        PYTHONPATH=.bootstrap "$1" -m virtualenv --quiet --clear .venv
    else
        fail "$1 has neither ensurepip nor pip. Install one of them (Debian: apt-get install python3-venv), or use uv: make USE_UV=1 ..."
    fi
}

install_extra() {
    printf 'install: the first time takes about a minute ...\n' >&2
    if [ "${USE_UV:-}" = 1 ]; then
        uv pip install --quiet --python .venv/bin/python -c $CONSTRAINTS -e ".[$EXTRA]"
    else
        .venv/bin/python -m pip $QUIET install --no-compile -c $CONSTRAINTS -e ".[$EXTRA]"
    fi
}

stamp() { { pwd -P; cat setup.cfg pyproject.toml $CONSTRAINTS; } | cksum; }

is_installed() { [ -f ".venv/.installed-$EXTRA" ] && [ "$(cat ".venv/.installed-$EXTRA")" = "$(stamp)" ]; }

tool='import pip' # what .venv itself must have: uv works from outside
if [ "${USE_UV:-}" = 1 ]; then
    command -v uv >/dev/null || fail 'USE_UV=1, but there is no uv on PATH'
    tool=''
fi
if ! .venv/bin/python -c "$tool" 2>/dev/null; then
    python=$(find_python)
    printf 'install: making .venv with %s\n' "$("$python" --version 2>&1)" >&2
    make_venv "$python"
fi
if ! is_installed; then
    install_extra
    stamp >.venv/.installed-embedded
    if [ "$EXTRA" != embedded ]; then stamp >.venv/.installed-dev; fi
    stamp >".venv/.installed-$EXTRA"
fi
