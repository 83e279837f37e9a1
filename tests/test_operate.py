"""What a script gets to see of `odin upgrade` and `odin drain`, and what a server is called and
can hold (odin.tools.operate, odin.place, odin.process.descriptors)."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from odin.config import Config, Server
from odin.place import made_up_secret, node_name
from odin.process.descriptors import RESERVE, limit, room_for
from odin.tools import operate

LIMITED = """
import resource, sys
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from odin.process.descriptors import limit, room_for
rooms = [room_for(0), room_for(10), room_for(10**6)]
print(limit(), *rooms, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


class Answering(BaseHTTPRequestHandler):
    """Says what the test wants to be said, and notes the question."""

    def do_POST(self):
        server = self.server
        server.asked.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        status, body = server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class OperateTests(SynchronousTestCase):
    def setUp(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.server.asked = []
        thread = Thread(target=self.server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(self.server.shutdown)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def run_tool(self, *arguments):
        """(exit status, what was printed, what was said of the failure)"""
        self.patch(sys, "argv", ["odin", *arguments])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                operate.main()
            except SystemExit as error:
                if isinstance(error.code, str):  # as the interpreter does it
                    return 1, out.getvalue(), f"{error.code}\n"
                return error.code, out.getvalue(), err.getvalue()
        return 0, out.getvalue(), err.getvalue()

    def answered(self, command, status, body):
        self.server.answer = status, body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.run_tool(command, "--url", self.url)

    def test_done(self):
        """What is done is said in a line, and is 0."""
        done = {"status": "done", "clients": 12, "seconds": 0.5}
        for command, status, body, line in (
            ("upgrade", 200, done, "12 clients handed over in 0.5 s\n"),
            ("drain", 202, {"status": "draining"}, "the server stops\n"),
        ):
            self.assertEqual(self.answered(command, status, body), (0, line, ""))
        self.assertEqual(self.server.asked, [("/upgrade", b""), ("/drain", b"")])

    def test_refused(self):
        """What is not is said with its reason, and is 1."""
        for command, status, body, reason in (
            ("upgrade", 409, {"status": "failed", "reason": "worker 1 died"}, "worker 1 died"),
            ("upgrade", 403, {"error": {"code": "forbidden", "message": "only for us"}}, "only for us"),
            ("upgrade", 404, {"error": {"code": "not_found", "message": "no"}}, "needs --workers"),
            ("drain", 404, {"error": {"code": "not_found", "message": "no"}}, "not there"),
            ("drain", 500, {"error": {"code": "internal", "message": "it failed"}}, "it failed"),
            ("drain", 503, {}, "HTTP status 503"),
            ("upgrade", 409, {"error": {}}, "HTTP status 409"),
            ("upgrade", 409, {"error": "x"}, "HTTP status 409"),
            ("upgrade", 200, {"a": 1}, "HTTP status 200"),
        ):  # fmt: skip
            expected = 1, "", f"odin: {reason}\n"
            self.assertEqual(self.answered(command, status, body), expected)

    def test_not_odin(self):
        """Somebody else's answer is no success, whatever the status."""
        for status in (200, 202, 404, 500):
            for body in (b"<html>", b"[]", b"null", b""):
                code, out, err = self.answered("drain", status, body)
                self.assertEqual((code, out), (1, ""))
                self.assertEqual(
                    err, f"odin: {self.url}: no answer of Odin (HTTP status {status})\n"
                )

    def test_nobody(self):
        """Where nobody listens, or at no address at all, the reason names the address."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            free = f"http://127.0.0.1:{sock.getsockname()[1]}"
        for url, reason in ((free, "Connection refused"), ("nonsense", "unknown url type")):
            code, out, err = self.run_tool("drain", "--url", url)
            self.assertEqual((code, out), (1, ""))
            self.assertTrue(err.startswith(f"odin: {url}: "), err)
            self.assertIn(reason, err)

    def test_no_proxy(self):
        """A proxy of the environment is not asked: the server is on this machine."""
        for name in ("http_proxy", "HTTP_PROXY"):
            old = os.environ.get(name)
            os.environ[name] = "http://127.0.0.1:1"
            if old is None:
                self.addCleanup(os.environ.pop, name)
            else:
                self.addCleanup(os.environ.__setitem__, name, old)
        self.assertEqual(self.answered("drain", 202, {})[0], 0)
        self.assertEqual(operate.ask(f"{self.url}/", "drain"), (202, {}))
        self.assertEqual(self.server.asked, [("/drain", b"")] * 2)

    def test_arguments(self):
        """What it does not know, it does not do."""
        for arguments in ((), ("restart",), ("drain", "now")):
            code, out, err = self.run_tool(*arguments)
            self.assertEqual((code, out), (2, ""))
            self.assertIn("usage: odin", err)
        self.assertEqual(self.server.asked, [])

    def test_program(self):
        """The program itself exits so."""
        self.server.answer = 409, b'{"reason": "not now"}'
        ran = subprocess.run(
            [sys.executable, "-m", "odin.tools.operate", "upgrade", "--url", self.url],
            capture_output=True, timeout=30, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        expected = (1, b"", b"odin: not now\n")
        self.assertEqual((ran.returncode, ran.stdout, ran.stderr), expected)


class PlaceTests(SynchronousTestCase):
    def test_node_name(self):
        """As configured; else by the machine, and no two servers have the same."""
        self.assertEqual(node_name(Config(server=Server(node="odin-a"))), "odin-a")
        names = {node_name(Config()) for _ in range(20)}
        machine = re.escape(socket.gethostname().split(".")[0])
        self.assertEqual(len(names), 20)
        for each in names:
            self.assertRegex(each, rf"\A{machine}-[0-9a-f]{{6}}\Z")

    def test_made_up_secret(self):
        """Long and new each time, and in production there is none."""
        first, second = (made_up_secret(Config()) for _ in range(2))
        self.assertNotEqual(first, second)
        self.assertGreaterEqual(len(first), 32)
        self.assertEqual(made_up_secret(Config(production=True)), "")


class DescriptorsTests(SynchronousTestCase):
    def test_limits(self):
        """(soft, hard limit) -> the hard one is used; all but the reserve are for connections."""
        for soft, hard in ((100, 1000), (256, 256), (30, 40)):
            ran = subprocess.run(
                [sys.executable, "-c", LIMITED, str(soft), str(hard)],
                stdout=subprocess.PIPE, check=True, timeout=30,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
            room = max(1, hard - RESERVE)
            expected = [hard, room, min(10, room), room, hard, hard]
            self.assertEqual([int(each) for each in ran.stdout.split()], expected)

    def test_wanted(self):
        """Never more than wanted, never more than there is."""
        room = room_for(0)
        self.assertEqual(room, limit() - RESERVE)
        self.assertEqual((room_for(1), room_for(room), room_for(room + 1)), (1, room, room))
