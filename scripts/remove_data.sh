#!/bin/sh
# Remove .local, and what its links point at in /var/lib/etl-stream (see etl_supervisor/embedded/postgres.py).
set -eu
cd "$(dirname "$0")/.."

for link in .local/*; do
    [ -L "$link" ] || continue
    target=$(readlink "$link")
    case $target in
        *..*) ;;
        /var/lib/etl-stream/?*) rm -rf "$target" "$target".*; printf 'removed %s\n' "$target" ;;
    esac
done
rm -rf .local
echo 'removed .local'
