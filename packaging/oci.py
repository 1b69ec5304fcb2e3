"""Writes an OCI image for several processors, as an archive: no daemon and no network needed.

usage: oci.py VERSION COMMIT ARCHIVE SYSTEM...

The image has one layer without a base: the program and its licences. The same input gives the same bytes.
"""
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import time

VERSION, COMMIT, ARCHIVE, *SYSTEMS = sys.argv[1:]
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
CREATED = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def names():
    """The variables of packaging/names."""
    with open(os.path.join(HERE, "names"), encoding="utf-8") as file:
        pairs = (line.rstrip("\n").split("=", 1) for line in file if "=" in line and not line.startswith("#"))
        return {key: value.strip("'") for key, value in pairs}


def entry(name, content=None, mode=0o644):
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = EPOCH, mode
    if content is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(content)
    return info, content


def tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


def read(*path):
    with open(os.path.join(ROOT, *path), "rb") as file:
        return file.read()


def layer(system):
    licences = "usr/share/doc/process-open-sockets"
    directories = ["tmp", "usr", "usr/bin", "usr/share", "usr/share/doc", licences, "var", "var/osquery"]
    entries = [entry(name + "/", mode=0o1777 if name == "tmp" else 0o755) for name in directories]
    entries.append(entry("usr/bin/process_open_sockets", read("dist/programs", system, "full"), 0o755))
    third_party = read("dist/programs", system, "THIRD-PARTY-LICENCES.txt")
    entries.append(entry(f"{licences}/THIRD-PARTY-LICENCES.txt", third_party))
    for name in ("LICENSE-APACHE", "LICENSE-MIT"):
        entries.append(entry(f"{licences}/{name}", read(name)))
    return tar(entries)


BLOBS = {}


def blob(content, media_type):
    digest = hashlib.sha256(content).hexdigest()
    BLOBS[digest] = content
    return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(content)}


def to_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


LABELS = {
    "org.opencontainers.image.title": "process_open_sockets",
    "org.opencontainers.image.description": "Table of every open socket of a host, for osquery and on the command line",
    "org.opencontainers.image.source": names()["REPOSITORY"],
    "org.opencontainers.image.version": VERSION,
    "org.opencontainers.image.revision": COMMIT,
    "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
    "org.opencontainers.image.created": CREATED,
}


def image(system):
    content = layer(system)
    config = {
        "created": CREATED,
        "architecture": system,
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/process_open_sockets"],
            "Env": ["PATH=/usr/bin"],
            "Labels": LABELS,
            "User": "0:0",
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
        "history": [{"created": CREATED, "created_by": "packaging/oci.py"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(to_json(config), "config.v1+json"),
        "layers": [blob(gzip.compress(content, 9, mtime=0), "layer.v1.tar+gzip")],
        "annotations": LABELS,
    }
    return {**blob(to_json(manifest), "manifest.v1+json"), "platform": {"architecture": system, "os": "linux"}}


INDEX = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [image(system) for system in SYSTEMS],
}
TAGGED = {**blob(to_json(INDEX), "index.v1+json"), "annotations": {"org.opencontainers.image.ref.name": VERSION}}
LAYOUT = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [TAGGED]}
FILES = {
    "index.json": to_json(LAYOUT),
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    **{f"blobs/sha256/{digest}": content for digest, content in BLOBS.items()},
}
with open(ARCHIVE, "wb") as out:
    out.write(tar(entry(name, content) for name, content in sorted(FILES.items())))
