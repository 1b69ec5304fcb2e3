#!/bin/sh
# Fleet runs this script after the installation of the package: systemd starts the extension as a sidecar, which
# registers with orbit's osquery. Orbit is not restarted.
set -eu

unit=process_open_sockets.service
directory=/etc/systemd/system/$unit.d

mkdir -p "$directory"
cat >"$directory/orbit.conf" <<'CONF'
[Unit]
After=orbit.service

[Service]
Environment=PROCESS_OPEN_SOCKETS_SOCKET=/opt/orbit/orbit-osquery.em
ReadWritePaths=/opt/orbit
CONF
systemctl daemon-reload
systemctl enable "$unit"
systemctl restart "$unit"
