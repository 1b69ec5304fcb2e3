"""Prints the description of the table for Fleet (schema/tables/alt_process_open_sockets.yml in Fleet's sources), from
its specification: tables/process_open_sockets.table.
"""
import json
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
COLUMN = re.compile(r'^ +Column\("(\w+)", (\w+), "(.*?)"(.*)\),?$', re.MULTILINE)


def columns(specification):
    linux = specification.split("extended_schema(DARWIN")[0]
    return COLUMN.findall(linux)


def main():
    with open(os.path.join(HERE, "../../tables/process_open_sockets.table"), encoding="utf-8") as file:
        found = columns(file.read())
    # A text in JSON is a text in YAML, too.
    lines = [
        "name: alt_process_open_sockets",
        "description: Every open socket of the host, with every process that holds it.",
        "notes: This table is not a core osquery table. It is part of the extension process_open_sockets.",
        "platforms:",
        "  - linux",
        "evented: false",
        "examples: |-",
        "  Ports that the network can reach:",
        "  ```",
        "  SELECT pid, local_address, local_port FROM alt_process_open_sockets",
        "  WHERE state = 'LISTEN' AND scope = 1 AND local_address NOT IN ('127.0.0.1', '::1');",
        "  ```",
        "columns:",
    ]
    for name, kind, description, options in found:
        lines += [
            f"  - name: {name}",
            f"    description: {json.dumps(description)}",
            f"    type: {kind.lower()}",
            "    required: false",
            f"    hidden: {'true' if 'hidden=True' in options else 'false'}",
        ]
    print("\n".join(lines))


main()
