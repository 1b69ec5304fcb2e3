#!/bin/sh
# Installs the package, and starts the extension beside Fleet's osqueryd as a service. Fleet sets INSTALLER_PATH.
#
# A service, since Fleet's agent rewrites /opt/orbit/extensions.load: a line added there does not last.
set -eu

case $INSTALLER_PATH in
*.deb) DEBIAN_FRONTEND=noninteractive apt-get install --assume-yes --no-install-recommends "$INSTALLER_PATH" ;;
*.rpm) rpm --upgrade --replacepkgs "$INSTALLER_PATH" ;;
esac

settings=/etc/systemd/system/process_open_sockets.service.d
mkdir -p "$settings"
cat >"$settings/fleet.conf" <<'SETTINGS'
[Unit]
After=orbit.service

[Service]
Environment=PROCESS_OPEN_SOCKETS_SOCKET=/opt/orbit/orbit-osquery.em
ReadWritePaths=-/opt/orbit
SETTINGS
systemctl daemon-reload
systemctl enable process_open_sockets.service
systemctl restart process_open_sockets.service
