"""Checks that the containers have the capabilities of the systemd unit, and no others. Needs ruamel.yaml."""

import re
import sys
from pathlib import Path

from ruamel.yaml import YAML

FOLDER = Path(__file__).resolve().parent
EXTENSION = "process_open_sockets"


def of_unit() -> set[str]:
    unit = (FOLDER / "systemd/process_open_sockets.service").read_text()
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    names = [name.removeprefix("CAP_") for name in line.split()]
    for name in names:
        assert f"\n# {name}: " in unit, f"the unit has no reason for {name}"
    return set(names)


def documents(path: str) -> list:
    return list(YAML(typ="safe", pure=True).load_all(FOLDER / path))


def of_compose() -> set[str]:
    (compose,) = documents("docker/compose.yaml")
    service = compose["services"][EXTENSION]
    assert service["cap_drop"] == ["ALL"], service["cap_drop"]
    assert service["pid"] == "host" and service["read_only"] is True
    assert "/proc:/host/proc:ro" in service["volumes"], service["volumes"]
    assert "--procfs=/host/proc" in service["command"], service["command"]
    return set(service["cap_add"])


def of_kubernetes(path: str) -> set[str]:
    (pods,) = [it["spec"]["template"]["spec"] for it in documents(path) if it["kind"] == "DaemonSet"]
    assert pods["hostPID"] is True and not pods.get("hostNetwork")
    (container,) = [it for it in pods["containers"] if EXTENSION in it["image"]]
    security = container["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"] and security["readOnlyRootFilesystem"] is True
    (proc,) = [it for it in container["volumeMounts"] if it["mountPath"] == "/host/proc"]
    assert proc["readOnly"] is True and "--procfs=/host/proc" in container["args"]
    return set(security["capabilities"]["add"])


def main() -> int:
    expected = of_unit()
    assert len(expected) == 6, expected
    found = {"docker/compose.yaml": of_compose()}
    for path in sorted((FOLDER / "kubernetes").glob("*.yaml")):
        name = str(path.relative_to(FOLDER))
        found[name] = of_kubernetes(name)
    for name, capabilities in found.items():
        if capabilities != expected:
            print(f"packaging/{name}: {sorted(capabilities)}, not {sorted(expected)}", file=sys.stderr)
            return 1
    print(f"the capabilities of the unit: {', '.join(found)}")
    return 0


sys.exit(main())
