"""The extension under a core made of Apache Thrift's Python library and osquery's own generated code
(PyPI: osquery 3.1.1).

usage: core.py BINARY
"""
import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from osquery.extensions import Extension, ExtensionManager
from osquery.extensions.ttypes import ExtensionResponse, ExtensionStatus, InternalExtensionInfo
from thrift import Thrift
from thrift.protocol import TBinaryProtocol
from thrift.server import TServer
from thrift.transport import TSocket, TTransport

BINARY = os.path.abspath(sys.argv.pop())
NAME = "process_open_sockets"
ALTERNATIVE = "alt_process_open_sockets"
# The tables of events, on Linux.
EVENTS = ("process_socket_events", "process_socket_flows", "socket_event_stats")


def stated_columns():
    """Name, type and options of each column that the specification states for Linux."""
    numbers = {"additional": 4, "optimized": 8, "hidden": 16}
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "../../tables/process_open_sockets.table"), encoding="utf-8") as file:
        specification = file.read().split("extended_schema(DARWIN")[0]
    for column in re.finditer(r'^ +Column\("(\w+)", (\w+), ".*", (.*)\),$', specification, re.MULTILINE):
        name, kind, flags = column.groups()
        options = sum(numbers[flag] for flag in re.findall(r"(\w+)=True", flags))
        yield name, kind, str(options)


COLUMNS = list(stated_columns())


class Core:
    """An extension manager on a UNIX socket. `refuse` maps table names to refusals, None to one for all."""

    def __init__(self, own=(NAME,), refuse=None, socket=None):
        self.folder = tempfile.TemporaryDirectory()
        self.socket = socket or os.path.join(self.folder.name, "osquery.em")
        self.own, self.refuse = own, refuse or {}
        self.registered = {}
        self.last = 0
        transport = TSocket.TServerSocket(unix_socket=self.socket)
        server = TServer.TThreadedServer(
            ExtensionManager.Processor(self),
            transport,
            TTransport.TBufferedTransportFactory(),
            TBinaryProtocol.TBinaryProtocolFactory(),
            daemon=True,
        )
        threading.Thread(target=server.serve, daemon=True).start()
        wait_until(lambda: os.path.exists(self.socket))

    # The methods of the Thrift service.

    def ping(self):
        return ExtensionStatus(code=0, message="OK", uuid=0)

    def extensions(self):
        core = InternalExtensionInfo("core", "5.23.0", "5.23.0", "0.0.0")
        return {0: core, **{uuid: info for uuid, (info, _) in self.registered.items()}}

    def registerExtension(self, info, registry):
        for name in registry["table"]:
            refusal = self.refuse.get(name, self.refuse.get(None))
            if refusal:
                return ExtensionStatus(code=1, message=refusal)
        self.last += 1
        self.registered[self.last] = (info, registry)
        return ExtensionStatus(code=0, message="OK", uuid=self.last)

    def deregisterExtension(self, uuid):
        registered = self.registered.pop(uuid, None)
        return ExtensionStatus(code=0 if registered else 1, message="", uuid=uuid)

    def query(self, sql):
        assert "osquery_registry" in sql, sql
        rows = [{"name": name} for name in self.own if f"'{name}'" in sql]
        return ExtensionResponse(ExtensionStatus(code=0, message="OK"), rows)

    # For the tests.

    def launch(self, *more):
        return subprocess.Popen(
            [BINARY, "--socket", self.socket, "--timeout", "3", "--interval", "1", *more],
            env={"PATH": os.environ["PATH"], "OSQUERY_EXTENSION": str(os.getpid())},
            stderr=subprocess.PIPE,
            text=True,
        )

    def extension_socket(self):
        wait_until(lambda: self.registered)
        path = f"{self.socket}.{max(self.registered)}"
        wait_until(lambda: os.path.exists(path))
        return path


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not hold in time")
        time.sleep(0.01)


class Client:
    """A connection to the extension."""

    def __init__(self, path):
        transport = TSocket.TSocket(unix_socket=path)
        transport.setTimeout(20000)
        self.transport = TTransport.TBufferedTransport(transport)
        self.protocol = TBinaryProtocol.TBinaryProtocol(self.transport)
        self.service = Extension.Client(self.protocol)

    def __enter__(self):
        self.transport.open()
        return self

    def __exit__(self, *_):
        self.transport.close()


def generate(path, table=ALTERNATIVE, equals=None, used=None):
    """The rows under these `column = value`, one request on one connection."""
    constraints = [
        {
            "name": name,
            "affinity": kind,
            "list": [{"op": 2, "expr": value} for value in (equals or {}).get(name, [])],
        }
        for name, kind, _ in COLUMNS
    ]
    context = {"constraints": constraints}
    if used is not None:
        context["colsUsed"] = used
    with Client(path) as client:
        answer = client.service.call(
            "table", table, {"action": "generate", "context": json.dumps(context)}
        )
    if answer.status.code != 0:
        raise RuntimeError(answer.status.message)
    return answer.response


class Interop(unittest.TestCase):
    def start(self, core, *more):
        extension = core.launch(*more)
        self.addCleanup(extension.stderr.close)
        self.addCleanup(extension.wait)
        self.addCleanup(extension.kill)
        return extension

    def setUp(self):
        self.core = Core()
        self.addCleanup(self.core.folder.cleanup)

    def served(self):
        self.extension = self.start(self.core)
        return self.core.extension_socket()

    def listener(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        inode = str(os.fstat(listener.fileno()).st_ino)
        namespace = os.readlink("/proc/self/ns/net")[len("net:["):-1]
        row = {
            "pid": str(os.getpid()),
            "fd": str(listener.fileno()),
            "socket": inode,
            "family": "2",
            "protocol": "6",
            "local_address": "127.0.0.1",
            "remote_address": "0.0.0.0",
            "local_port": str(listener.getsockname()[1]),
            "remote_port": "0",
            "path": "",
            "state": "LISTEN",
            "net_namespace": namespace,
        }
        return row

    def test_registration(self):
        self.served()
        info, registry = self.core.registered[1]
        version = subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout.split()[1]
        self.assertEqual((info.name, info.version, info.sdk_version), (NAME, version, "5.23.0"))
        self.assertEqual(set(registry["table"]), {ALTERNATIVE, *EVENTS})
        routes = [(r["name"], r["type"], r["op"], r["id"]) for r in registry["table"][ALTERNATIVE]]
        self.assertEqual(routes, [(*column, "column") for column in COLUMNS])

    def test_ping(self):
        with Client(self.served()) as client:
            for _ in range(3):
                self.assertEqual(client.service.ping().code, 0)

    def test_columns(self):
        with Client(self.served()) as client:
            answer = client.service.call("table", ALTERNATIVE, {"action": "columns"})
        names = [route["name"] for route in answer.response]
        self.assertEqual(names, [name for name, _, _ in COLUMNS])

    def test_all_columns(self):
        path, expected = self.served(), self.listener()
        rows = generate(path, equals={"pid": [expected["pid"]], "socket": [expected["socket"]]})
        self.assertEqual(len(rows), 1)
        self.assertTrue(0 <= int(rows[0].pop("rowid")) < 2**63)
        hidden = {name: rows[0].pop(name) for name, _, options in COLUMNS if int(options) & 16}
        self.assertEqual(rows[0], expected)
        self.assertEqual((hidden["tid"], hidden["socket_type"]), (expected["pid"], "1"))
        # Thrift reads an unknown number as an empty text.
        self.assertEqual((hidden["peer_socket"], hidden["bound_interface"]), ("", ""))

    def test_two_columns(self):
        path, expected = self.served(), self.listener()
        rows = generate(path, equals={"socket": [expected["socket"]]}, used=["pid", "state"])
        self.assertEqual(sorted(rows[0]), ["pid", "rowid", "state"])
        self.assertEqual((rows[0]["pid"], rows[0]["state"]), (expected["pid"], "LISTEN"))

    def test_no_columns(self):
        path, expected = self.served(), self.listener()
        rows = generate(path, equals={"socket": [expected["socket"]]}, used=[])
        self.assertEqual([sorted(row) for row in rows], [["rowid"]])

    def test_a_list(self):
        path, one, two = self.served(), self.listener(), self.listener()
        rows = generate(path, equals={"socket": [one["socket"], two["socket"]]}, used=["socket"])
        self.assertEqual({row["socket"] for row in rows}, {one["socket"], two["socket"]})

    def test_concurrent_calls(self):
        path, expected = self.served(), self.listener()

        def one(number):
            if number % 2:
                with Client(path) as client:
                    return client.service.ping().code == 0
            rows = generate(path, equals={"socket": [expected["socket"]]})
            return [row["local_port"] for row in rows] == [expected["local_port"]]

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.assertTrue(all(pool.map(one, range(64))))

    def test_what_there_is_not(self):
        path = self.served()
        with self.assertRaisesRegex(RuntimeError, "unknown table 'other'"):
            generate(path, table="other")
        with Client(path) as client:
            answer = client.service.call("logger", "x", {})
            self.assertEqual(answer.status.code, 1)
            self.assertIn("unknown registry 'logger'", answer.status.message)

    def test_an_unknown_method(self):
        with Client(self.served()) as client:
            client.protocol.writeMessageBegin("fly", Thrift.TMessageType.CALL, 5)
            client.protocol.writeStructBegin("args")
            client.protocol.writeFieldStop()
            client.protocol.writeMessageEnd()
            client.transport.flush()
            name, kind, number = client.protocol.readMessageBegin()
            self.assertEqual((name, kind, number), ("fly", Thrift.TMessageType.EXCEPTION, 5))
            error = Thrift.TApplicationException()
            error.read(client.protocol)
            self.assertEqual(error.type, Thrift.TApplicationException.UNKNOWN_METHOD)
            self.assertEqual(client.service.ping().code, 0)

    def test_shutdown(self):
        path = self.served()
        with Client(path) as client:
            client.service.shutdown()
        self.assertEqual(self.extension.wait(5), 0)
        self.assertEqual((os.path.exists(path), self.core.registered), (False, {}))

    def test_sigterm(self):
        path = self.served()
        self.extension.send_signal(signal.SIGTERM)
        self.assertEqual(self.extension.wait(5), 0)
        self.assertEqual((os.path.exists(path), self.core.registered), (False, {}))

    def test_a_name_that_is_refused(self):
        conflict = f"Failed adding registry: Registry item {NAME} conflicts with another item of the same name."
        core = Core(own=(), refuse={NAME: conflict})
        self.addCleanup(core.folder.cleanup)
        self.start(core)
        core.extension_socket()
        self.assertEqual(set(core.registered[1][1]["table"]), {ALTERNATIVE, *EVENTS})

    def test_a_refusal(self):
        core = Core(refuse={None: "Incompatible extension SDK version"})
        self.addCleanup(core.folder.cleanup)
        extension = self.start(core)
        self.assertEqual(extension.wait(10), 1)
        log = extension.stderr.read()
        self.assertEqual(log.count("\n"), 1, log)
        self.assertIn("Incompatible extension SDK version", log)


if __name__ == "__main__":
    # The library closes its listening sockets only at the end of the process.
    result = unittest.main(exit=False, verbosity=2, warnings="ignore").result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(failed > 0)
