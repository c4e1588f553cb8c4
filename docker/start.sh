#!/bin/sh
# numba uses a cache only where it can also write, and the root file system may be read-only: the kernels compiled when
# the image was built are copied to NUMBA_CACHE_DIR, which lies in /tmp.
set -eu
# The state stays writable to the group: the next container may run as another user of group 0.
umask 0002
if ! mkdir -p "$NUMBA_CACHE_DIR" || ! cp -R /opt/qshower/kernels/. "$NUMBA_CACHE_DIR"; then
    echo "qshower: NUMBA_CACHE_DIR: got '$NUMBA_CACHE_DIR', allowed: a folder that can be written; with a read-only" \
        "root file system run the image with --tmpfs /tmp" >&2
    exit 1
fi
exec "$@"
