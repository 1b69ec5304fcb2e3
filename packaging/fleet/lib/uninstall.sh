#!/bin/sh
# Fleet runs this script to remove the package.
set -eu

extension=/usr/lib/osquery/extensions/process_open_sockets.ext
list=/opt/orbit/extensions.load
unit=process_open_sockets.service
drop_in=/etc/systemd/system/$unit.d/orbit.conf

if [ -e "$drop_in" ]; then
    systemctl disable --now "$unit"
    rm "$drop_in"
    rmdir "$(dirname "$drop_in")" 2>/dev/null || true
    systemctl daemon-reload
fi

if grep -qxF "$extension" "$list" 2>/dev/null; then
    rest=$(mktemp)
    # grep fails if no other line is left.
    grep -vxF "$extension" "$list" >"$rest" || true
    # Into the same file, which keeps its mode and owner.
    cat "$rest" >"$list"
    rm "$rest"
    systemd-run --quiet --collect --on-active=10 systemctl restart orbit.service
fi

if command -v dpkg >/dev/null; then
    dpkg --purge process-open-sockets
else
    rpm --erase process-open-sockets
fi
