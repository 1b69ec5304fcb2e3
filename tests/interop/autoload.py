"""Loads the extensions of a list as osqueryd does, and queries the table of open sockets.

usage: autoload.py ROOT

ROOT is the root directory of the system with the list, /etc/osquery/extensions.load, and the extensions. The checks of
a file are those of osquery (isPlatformSafe and autoloadExtensions in osquery/extensions/extensions.cpp).
"""
import os
import socket
import stat
import subprocess
import sys

ROOT = os.path.abspath(sys.argv[1])

import core  # noqa: E402  its last argument is the program of its own tests

TIMEOUT = 30


def listed():
    """The paths of the list, without comments and blanks."""
    with open(ROOT + "/etc/osquery/extensions.load", encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line and line[0] not in "#;"]


def check(path):
    """Fails for a file that osqueryd refuses."""
    assert path.endswith(".ext"), f"{path}: the name does not end in .ext"
    file, directory = os.lstat(ROOT + path), os.lstat(ROOT + os.path.dirname(path))
    assert stat.S_ISREG(file.st_mode), f"{path}: not a file"
    assert file.st_uid == 0, f"{path}: belongs to user {file.st_uid}"
    assert not file.st_mode & (stat.S_IWGRP | stat.S_IWOTH), f"{path}: writable by others"
    assert file.st_mode & stat.S_IXUSR, f"{path}: not executable"
    assert not directory.st_mode & stat.S_IWOTH, f"{path}: its directory is writable by all"


def main():
    paths = listed()
    assert paths, "the list has no extension"
    listener = socket.create_server(("127.0.0.1", 0))
    folder = ROOT + "/var/osquery"
    made = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    manager = core.Core(socket=folder + "/osquery.em")
    started = []
    try:
        for path in paths:
            check(path)
            arguments = ["--socket", "/var/osquery/osquery.em", "--timeout", "3", "--interval", "3"]
            started.append(subprocess.Popen(
                ["chroot", ROOT, path, *arguments],
                env={"PATH": os.environ["PATH"], "OSQUERY_EXTENSION": str(os.getpid())},
            ))
        own = manager.extension_socket()
        (info, registry), = manager.registered.values()
        names = list(registry["table"])
        rows = core.generate(own, table=names[0], equals={"pid": [str(os.getpid())]}, used=["pid", "local_port"])
        port = str(listener.getsockname()[1])
        assert port in [row["local_port"] for row in rows], rows
        with core.Client(own) as client:
            client.service.shutdown()
        for process in started:
            assert process.wait(TIMEOUT) == 0, process.returncode
        assert not os.path.exists(own), "the extension left its socket"
        print(f"{info.name} {info.version} served {names[0]}, loaded from extensions.load")
    finally:
        for process in started:
            process.kill()
            process.wait()
        os.remove(manager.socket)
        if made:
            os.rmdir(folder)


main()
