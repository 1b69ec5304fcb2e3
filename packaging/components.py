"""Writes the components of the programs for a target: as a CycloneDX 1.6 document, and as a text with their licences.

usage: components.py TARGET SBOM LICENCES

The components are the crates that the full program links, SQLite, and Rust's standard library; for Linux also the C
library and the unwinder. No time and no random number is in the output: the same commit gives the same bytes.
"""
import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
import uuid

TARGET, SBOM, LICENCES = sys.argv[1:]
# A universal program has the same components for both processors.
PLATFORM = TARGET.replace("universal2-", "aarch64-")
HERE = os.path.dirname(os.path.abspath(__file__))
NAME = "process_open_sockets"
# For components that have no file with their licence in their package: where it is.
SPDX = {
    "MIT": "https://spdx.org/licenses/MIT.html",
    "Apache-2.0": "https://spdx.org/licenses/Apache-2.0.html",
}


def cargo_metadata():
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={PLATFORM}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def linked(metadata):
    """The packages that the program links, and the links between them. Proc macros and build scripts run only while
    the program is built."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(i for i, package in packages.items() if package["name"] == NAME and package["source"] is None)
    # The resolution includes features of development: `cargo tree` has those of the release.
    command = ["cargo", "tree", "--locked", "--package", NAME, "--edges=normal,no-proc-macro", "--prefix=none",
               "--format={p}", "--target", PLATFORM]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    names = {tuple(line.split()[:2]) for line in lines if line}
    wanted = {i for i, package in packages.items() if (package["name"], "v" + package["version"]) in names}
    edges = {i: sorted(dep["pkg"] for dep in nodes[i]["deps"] if dep["pkg"] in wanted) for i in wanted}
    return root, {i: packages[i] for i in sorted(wanted, key=lambda i: packages[i]["name"])}, edges


def checksums():
    """SHA-256 of each package of the registry, of Cargo.lock."""
    with open(os.path.join(HERE, "../Cargo.lock"), encoding="utf-8") as file:
        blocks = file.read().split("[[package]]")
    found = {}
    for block in blocks:
        values = dict(re.findall(r'^(name|version|checksum) = "(.*)"$', block, re.MULTILINE))
        if "checksum" in values:
            found[values["name"], values["version"]] = values["checksum"]
    return found


def sqlite_version(packages):
    folder = next(os.path.dirname(p["manifest_path"]) for p in packages.values() if p["name"] == "libsqlite3-sys")
    with open(os.path.join(folder, "sqlite3/sqlite3.h"), encoding="utf-8") as file:
        return re.search(r'#define SQLITE_VERSION\s+"(.*?)"', file.read())[1]


def package_version(*names):
    """The version of the first of Debian's packages that is installed."""
    for name in names:
        command = ["dpkg-query", "--show", "--showformat=${Version}", name]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if answer.returncode == 0 and answer.stdout:
            return answer.stdout
    return "unknown"


def other_components(packages):
    rust = subprocess.run([os.environ.get("RUSTC", "rustc"), "--version"], check=True, stdout=subprocess.PIPE, text=True)
    components = [
        ("rust-std", rust.stdout.split()[1], "MIT OR Apache-2.0", "The standard library of Rust."),
        ("sqlite", sqlite_version(packages), "blessing", "In the programs with the shell. Public domain."),
    ]
    if "linux" in TARGET:
        arm = TARGET.startswith("aarch64")
        glibc = package_version("libc6-dev-arm64-cross" if arm else "libc6-dev")
        gcc = package_version("libgcc-12-dev-arm64-cross" if arm else "libgcc-12-dev")
        components += [
            ("glibc", glibc, "LGPL-2.1-or-later",
             "Linked statically. The source of this program is public: you can link it with a changed library, as "
             "section 6 of the licence requires."),
            ("libgcc", gcc, "GPL-3.0-or-later WITH GCC-exception-3.1",
             "The unwinder, linked statically; the exception permits it under any licence."),
        ]
    return components


def expression(package):
    """The licence of a package as SPDX; old packages have a slash for `OR`."""
    return re.sub(r"\s*/\s*", " OR ", package["license"] or "NOASSERTION")


def write_sbom(root, packages, edges, others):
    sums = checksums()

    def reference(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package):
        value = {
            "type": "application" if package["id"] == root else "library",
            "bom-ref": reference(package),
            "name": package["name"],
            "version": package["version"],
            "purl": reference(package),
            "licenses": [{"expression": expression(package)}],
        }
        if package["description"]:
            value["description"] = " ".join(package["description"].split())
        checksum = sums.get((package["name"], package["version"]))
        if checksum:
            value["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if (package["repository"] or "").startswith("https://"):
            value["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return value

    rest = [
        {"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version, "description": text,
         "licenses": [{"expression": licence}] if " " in licence else [{"license": {"id": licence}}]}
        for name, version, licence, text in others
    ]
    dependencies = [
        {"ref": reference(packages[i]), "dependsOn": [reference(packages[to]) for to in edges[i]]
         + ([item["bom-ref"] for item in rest] if i == root else [])}
        for i in packages
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": component(packages[root]),
            "properties": [
                {"name": "target", "value": TARGET},
                {"name": "commit", "value": os.environ.get("PROCESS_OPEN_SOCKETS_COMMIT", "unknown")},
            ],
        },
        "components": [component(package) for i, package in packages.items() if i != root] + rest,
        "dependencies": dependencies,
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()
    document["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}"
    with open(SBOM, "w", encoding="utf-8") as out:
        json.dump(document, out, indent=1, sort_keys=True)
        out.write("\n")


def licence_files(package):
    """The texts of the licences in a package."""
    folder = os.path.dirname(package["manifest_path"])
    pattern = re.compile(r"^(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)
    for path in sorted(glob.glob(os.path.join(folder, "*"))):
        if os.path.isfile(path) and pattern.match(os.path.basename(path)):
            with open(path, encoding="utf-8", errors="replace") as file:
                yield file.read().strip() + "\n"


def write_licences(root, packages, others):
    texts = {}
    lines = [f"Components of {NAME} for {TARGET}, and their licences.", ""]
    for i, package in packages.items():
        if package["source"] is None:
            continue
        numbers = [texts.setdefault(text, len(texts) + 1) for text in licence_files(package)]
        where = f"texts {', '.join(map(str, numbers))}" if numbers else "no text in its package: " + " ".join(
            url for licence, url in SPDX.items() if licence in expression(package))
        lines.append(f"{package['name']} {package['version']}: {expression(package)} ({where})")
    for name, version, licence, text in others:
        lines += [f"{name} {version}: {licence}", *textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ")]
    for text, number in texts.items():
        lines += ["", "-" * 78, f"Text {number}", "-" * 78, "", text.rstrip("\n")]
    if "linux" in TARGET:
        for name in ("LGPL-2.1", "GPL-3"):
            with open(f"/usr/share/common-licenses/{name}", encoding="utf-8") as file:
                lines += ["", "-" * 78, f"Text of {name}", "-" * 78, "", file.read().rstrip("\n")]
    with open(LICENCES, "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")


def main():
    root, packages, edges = linked(cargo_metadata())
    others = other_components(packages)
    write_sbom(root, packages, edges, others)
    write_licences(root, packages, others)


if __name__ == "__main__":
    main()
