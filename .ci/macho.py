#!/usr/bin/env python3
"""Checks the headers of programs for macOS, and prints each error.

usage: macho.py TARGET OLDEST_MACOS PROGRAM...
"""

import struct
import sys

MAGIC = 0xFEEDFACF
PROCESSORS = {"aarch64-apple-darwin": 0x0100000C, "x86_64-apple-darwin": 0x01000007}
MH_EXECUTE = 2
LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB = 0xC, 0x80000018, 0x8000001F
LC_VERSION_MIN_MACOSX, LC_BUILD_VERSION = 0x24, 0x32
LC_CODE_SIGNATURE = 0x1D
PLATFORM_MACOS = 1
# What every macOS has.
LIBRARIES = {
    "/usr/lib/libSystem.B.dylib",
    "/usr/lib/libiconv.2.dylib",
    "/usr/lib/libcharset.1.dylib",
}


def version(number):
    return number >> 16, number >> 8 & 0xFF


def faults(program, target, oldest):
    with open(program, "rb") as file:
        header = struct.unpack("<8I", file.read(32))
        commands = file.read(header[5])
    magic, processor, _, kind, count = header[:5]
    if (magic, processor, kind) != (MAGIC, PROCESSORS[target], MH_EXECUTE):
        yield f"not a program for {target}"
        return
    libraries, minimum, is_signed, offset = [], None, False, 0
    for _ in range(count):
        command, size = struct.unpack_from("<2I", commands, offset)
        body = commands[offset : offset + size]
        if command in (LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB):
            name = body[struct.unpack_from("<I", body, 8)[0] :]
            libraries.append(name.split(b"\0")[0].decode())
        elif command == LC_BUILD_VERSION:
            platform, number = struct.unpack_from("<2I", body, 8)
            if platform != PLATFORM_MACOS:
                yield f"for platform {platform}"
            minimum = version(number)
        elif command == LC_VERSION_MIN_MACOSX:
            minimum = version(struct.unpack_from("<I", body, 8)[0])
        elif command == LC_CODE_SIGNATURE:
            is_signed = True
        offset += size
    if minimum != oldest:
        yield f"runs from macOS {minimum} on, not {oldest}"
    yield from (f"needs {name}" for name in libraries if name not in LIBRARIES)
    if "/usr/lib/libSystem.B.dylib" not in libraries:
        yield "is without libSystem"
    # The kernel starts nothing on arm64 that is not signed, if only by the linker.
    if target.startswith("aarch64") and not is_signed:
        yield "is not signed"


def main():
    target, oldest, *programs = sys.argv[1:]
    oldest = tuple(int(part) for part in oldest.split("."))
    found = [f"{program} {fault}" for program in programs for fault in faults(program, target, oldest)]
    for fault in found:
        print(fault, file=sys.stderr)
    print(f"{len(programs)} programs for {target}, from macOS {'.'.join(map(str, oldest))} on")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
