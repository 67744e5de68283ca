#!/bin/sh
# Write scripts/constraints.txt: the exact versions of what .venv has, and of what only other Pythons need.
#
# An update is: raise or remove lines, `make install test`, `make constraints`, and read the difference.
set -eu
cd "$(dirname "$0")/.."

# Asked for by environment markers that may not hold for the Python of this .venv (async-timeout: redis before 3.11.3),
# or by the extra `fuzz`, which is installed only where it is used.
ELSEWHERE='async-timeout atheris'

draft=$(mktemp)
trap 'rm -f "$draft"' EXIT
{
    echo '# Exact versions of every package, installed with `pip install -c`. Written by `make constraints`; all come as wheels.'
    {
        .venv/bin/python -m pip --disable-pip-version-check freeze --exclude-editable --exclude etl-supervisor
        for name in $ELSEWHERE; do grep -i "^$name==" scripts/constraints.txt || true; done
    } | LC_ALL=C sort -f -u
} >"$draft"
cat "$draft" >scripts/constraints.txt
