#!/bin/sh
# Removes the package, with the settings of install.sh.
set -eu

systemctl disable --now process_open_sockets.service || true
rm -f /etc/systemd/system/process_open_sockets.service.d/fleet.conf
rmdir /etc/systemd/system/process_open_sockets.service.d 2>/dev/null || true
if command -v dpkg >/dev/null; then
    dpkg --purge process-open-sockets
else
    rpm --erase process-open-sockets
fi
systemctl daemon-reload
