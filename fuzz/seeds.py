#!/usr/bin/env python3
"""Writes the initial inputs of the fuzzers, from fixtures/: fuzz/seeds.py FOLDER writes FOLDER/TARGET/NAME."""
import pathlib
import struct
import sys

root = pathlib.Path(__file__).resolve().parent.parent
xnu = root / 'fixtures' / 'xnu'
corpus = pathlib.Path(sys.argv[1])


def lines(path):
    return [line for line in path.read_text().splitlines() if not line.startswith('#')]


def at_offsets(path, length):
    """Bytes without a line are zero: fixtures/xnu/README.md."""
    made = bytearray(length)
    for line in lines(path):
        offset, digits = line.split()
        put = bytes.fromhex(digits)
        made[int(offset):int(offset) + len(put)] = put
    return bytes(made)


def seed(target, name, content):
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


for path in xnu.glob('*.pcblist_n'):
    seed('pcblist_n', path.name, bytes.fromhex(''.join(lines(path))))
for path in xnu.glob('*.xunpcb_n'):
    # One record, padded to a multiple of 8, between two headers.
    header = bytes.fromhex('18000000 01000000 ffffffff00000000 0000000000000000')
    seed('pcblist_n', path.name, header + at_offsets(path, 592) + header)
for name, kind, length in [('kctl', 0x80, 128), ('kevt', 0x100, 32)]:
    header = struct.pack('<IIQQQ', 32, 0, 1, 1, 1)
    seed('pcblist_n', name, header + struct.pack('<II', length, kind) + bytes(length - 8) + header)
for path in xnu.glob('*.socket_fdinfo'):
    seed('socket_fdinfo', path.name, at_offsets(path, 792))
captures = [root / 'fixtures' / 'one-of-each' / '100', root / 'fixtures' / 'sock_diag' / 'every-state']
for capture in captures:
    for path in (capture / 'net').iterdir():
        seed('proc_net', f'{capture.name}-{path.name}', path.read_bytes())
for path in (captures[1] / 'dump').iterdir():
    seed('sock_diag', path.name, path.read_bytes())
seed('mountinfo', 'nsfs', b'227 98 0:4 net:[4026532229] /run/netns/a\\040b rw shared:3 - nsfs nsfs rw\n')
# One of each record, with the layout of tables/src/formats/linux/event_record/members.rs.
v4 = bytes([127, 0, 0, 1]) + bytes(12)
state = struct.pack('=I4B3Q2I4H', 1, 2, 1, 1, 1, 9, 4711, 99, 0xf0000000, 111, 2, 1, 6, 1111)
state += struct.pack('>2H', 443, 1111) + struct.pack('=I', 1000) + v4 + v4
state += struct.pack('=4Q4I3Q16s2IQ', 2, 120, 20, 31, 7, 8, 1001, 1002, 55, 1 << 40, 12, b'a thread', 1, 42, 3)
seed('event_record', 'state', state)
names = b'sh\0bin\0usr\0'
executable = struct.pack('=I2BH2I7Q', 2, 0, 1, 0, 7, 0, 55, 1 << 40, len(names), 1, 2, 3, 4)
seed('event_record', 'executable', executable + names.ljust(1280, b'?'))
open_socket = struct.pack('=3Q5I2H', 4711, 99, 55, 7, 8, 3, 0xf0000000, 0, 10, 22) + struct.pack('>H', 443)
open_socket += struct.pack('=2BI', 1, 0, 0) + bytes(15) + b'\1' + bytes(16)
seed('event_record', 'open_sockets', open_socket * 2)
