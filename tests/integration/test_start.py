"""The command line: what starts, what does not, and what it says."""

import json
import re
import socket
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.integration.harness import (
    MEMORY,
    SECRET,
    OdinTestCase,
    Process,
    program,
    sign,
)

_STRONG = "".join(f"{n:x}k" for n in range(3, 40))


class StartTestCase(OdinTestCase):
    """Servers that should not come up, and some that should."""

    def launch(self, *options: str, **environment: str) -> Process:
        """An Odin that should end by itself."""
        process = Process(
            [program("twistd"), "-n", "--pidfile=", "odin", *options],
            {"SERVER_HOST": "127.0.0.1"} | environment,
        )
        self.addCleanup(process.stop)
        return process

    def run_odin(self, *options: str, **environment: str) -> tuple[int, str]:
        """(exit status, output) of an Odin that ends by itself."""
        process = self.launch(*options, **environment)
        return process.wait(), process.output()

    def config(self, content: object) -> str:
        """The path of a configuration file."""
        path = Path(self.mktemp())
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return str(path.resolve())

    def refused(self, output: str, *words: str) -> None:
        """The output ends with one line that has all these words, and no traceback."""
        line = output.strip().splitlines()[-1]
        for word in words:
            self.assertIn(word, line)
        self.assertNotIn("Traceback", output)
        self.assertNotIn("Odin listens on", output)


class StartTests(StartTestCase):
    """Files, environment and options."""

    def test_bad_files(self) -> None:
        """A file that cannot be used stops the start; the line names file, key and value."""
        cases: list[tuple[Any, tuple[str, ...]]] = [
            ({"server": {"prot": 1}}, ("server.prot", "1", "port")),
            ({"servers": {}}, ("servers", "server, websocket")),
            ({"server": 1}, ("server", "object")),
            ({"server": {"port": "3002"}}, ("server.port", '"3002"', "int")),
            ({"server": {"port": 70000}}, ("server.port", "70000", "65535")),
            ({"server": {"readTimeout": 0}}, ("server.readTimeout", "0")),
            ({"server": {"maxMessageSize": -1}}, ("server.maxMessageSize", "-1")),
            ({"server": {"trustedProxies": ["10.0.0.0/99"]}}, ("trustedProxies", "10.0.0.0/99")),
            ({"websocket": {"path": "/health"}}, ("websocket.path", "/health")),
            ({"websocket": {"path": "ws"}}, ("websocket.path", "ws")),
            ({"websocket": {"checkOrigin": "no"}}, ("websocket.checkOrigin", "no")),
            ({"nats": {"subjects": []}}, ("nats.subjects",)),
            ({"nats": {"subjects": ["a..b"]}}, ("nats.subjects", "a..b")),
            ({"nats": {"url": 1}}, ("nats.url", "str")),
            ({"auth": {"algorithms": ["none"]}}, ("auth.algorithms", "none", "HS256")),
            ({"limits": {"messagesPerSecond": None}}, ("limits.messagesPerSecond", "null")),
            ([], ("JSON object",)),
            ("{nope", ("JSON",)),
            ("[" * 100_000, ("JSON",)),
        ]
        paths = [self.config(content) for content, _words in cases]
        processes = [self.launch("--config", path) for path in paths]
        for path, process, (_content, words) in zip(paths, processes, cases, strict=True):
            self.assertNotEqual(process.wait(), 0, words)
            self.refused(process.output(), path, *words)

    def test_missing_file(self) -> None:
        """A configuration file that is not there is an error."""
        status, output = self.run_odin("--config", "/nowhere/odin.json")
        self.assertNotEqual(status, 0)
        self.refused(output, "/nowhere/odin.json")

    def test_bad_environment(self) -> None:
        """A variable that cannot be used stops the start; the line names it."""
        cases = {
            "SERVER_PORT": "many",
            "REQUIRE_AUTH": "perhaps",
            "LIMITS_MESSAGES_PER_SECOND": "-1",
            "WEBSOCKET_PING_INTERVAL": "1m",
            "METRICS_PORT": "http",
            "ODIN_ENV": "staging",
            "JWT_SECRET_FILE": "/nowhere/secret",
        }
        for name, value in cases.items():
            status, output = self.run_odin(**{name: value})
            self.assertNotEqual(status, 0, name)
            self.refused(output, name, value)

    def test_bad_options(self) -> None:
        """An option that is unknown or has a bad value stops the start."""
        for option in ("--port=abc", "--bogus", "--log-format=xml", "--port=-1"):
            status, output = self.run_odin(option)
            self.assertNotEqual(status, 0, option)
            self.refused(output, option.partition("=")[2] or "bogus")

    def test_port_in_use(self) -> None:
        """A port in use stops the start with the address in the line."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            status, output = self.run_odin(*MEMORY, "--host", "127.0.0.1", "--port", port)
            self.assertNotEqual(status, 0)
            self.refused(output, f"127.0.0.1:{port}", "in use")
            status, output = self.run_odin(
                *MEMORY, "--host", "127.0.0.1", "--port", "0", METRICS_PORT=port
            )
            self.assertNotEqual(status, 0)
            self.refused(output, f"{port}", "in use")

    def test_endpoints_that_cannot_be(self) -> None:
        """Where nothing can listen, the start ends with one line and status 1."""
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port = str(taken.getsockname()[1])
        long = "x" * 200
        cases: list[tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]] = [
            (("--endpoint", "tcp:99999"), {}, ("--endpoint", "tcp:99999", "65535")),
            (("--endpoint", "stdio:"), {}, ("--endpoint", "stdio:")),
            (("--endpoint", "unix:/nope/x"), {}, ("unix:/nope/x", "No such file")),
            (("--endpoint", "unix:/proc/x"), {}, ("/proc/x",)),
            (("--endpoint", f"unix:/tmp/{long}"), {}, (long,)),
            (("--endpoint", f"tcp:{port}:interface=127.0.0.1"), {}, (port, "in use")),
            (("--endpoint", "tcp:0:interface=a..b"), {}, ("a..b",)),
            (("--endpoint", "nonsense:1"), {}, ("nonsense",)),
            (("--endpoint", ""), {}, ("--endpoint",)),
            (("--config", self.config({"server": {"host": "a\0b"}})), {}, ("server.host", "NUL")),
            ((), {"SERVER_HOST": "a..b"}, ("server.host",)),
            ((), {"SERVER_HOST": "h.invalid"}, ("h.invalid",)),
            ((), {"METRICS_PORT": "0", "METRICS_HOST": "a..b"}, ("metrics.host",)),
            ((), {"METRICS_PORT": "0", "METRICS_HOST": "h.invalid"}, ("h.invalid",)),
        ]
        processes = [
            self.launch(*MEMORY, *options, **({"SERVER_PORT": "0"} | environment))
            for options, environment, _words in cases
        ]
        for process, (options, _environment, words) in zip(processes, cases, strict=True):
            self.assertEqual(process.wait(), 1, options)
            self.refused(process.output(), "odin: ", *words)

    def test_files_that_cannot_be_written(self) -> None:
        """A log or a pid file where none can be written stops the start with one line."""
        for workers in ((), ("--workers", "1")):
            for file in ("--logfile=/nowhere/odin.log", "--pidfile=/nowhere/odin.pid"):
                process = Process(
                    [program("twistd"), "-n", "--pidfile=", file, "odin", *MEMORY, *workers]
                )
                self.addCleanup(process.stop)
                self.assertEqual(process.wait(), 1)
                self.refused(process.output(), "odin: cannot write the", "/nowhere/odin.")

    def test_bad_keys(self) -> None:
        """A public key that is none stops the start."""
        for value in ("/nowhere/key.pem", self.config("no key")):
            status, output = self.run_odin(*MEMORY, AUTH_JWT_PUBLIC_KEY=value)
            self.assertNotEqual(status, 0)
            self.refused(output, "auth.jwtPublicKey")

    def test_precedence(self) -> None:
        """Options win over the environment, that over the file; the source is printed."""
        path = self.config({"server": {"port": 1, "node": "f"}, "nats": {"url": "nats://file"}})
        status, output = self.run_odin(
            "--print-config", "--config", path, "--port", "3", SERVER_PORT="2", SERVER_NODE="e"
        )
        self.assertEqual(status, 0)
        self.assertRegex(output, r"(?m)^server.port = 3  \(command line\)$")
        self.assertRegex(output, r'(?m)^server.node = "e"  \(environment SERVER_NODE\)$')
        self.assertRegex(output, rf'(?m)^nats.url = "nats://file"  \({re.escape(path)}\)$')
        self.assertRegex(output, r"(?m)^server.readTimeout = 10  \(default\)$")

    def test_secrets_are_masked(self) -> None:
        """No secret is ever printed, wherever it comes from, on success and on errors."""
        path = self.config({"auth": {"jwtSecret": "S3CRET-file"}, "nats": {"password": "S3CRET-p"}})
        secret_file = self.config("S3CRET-from-a-file\n")
        for environment in (
            {"NATS_URL": "nats://user:S3CRET-url@host:4222,nats://S3CRET-token@other"},
            {"JWT_SECRET": "S3CRET-environment", "NATS_TOKEN": "S3CRET-token"},
            {"JWT_SECRET_FILE": secret_file},
            {"JWT_SECRET": "S3CRET", "ODIN_ENV": "production", "REQUIRE_AUTH": "true"},
        ):
            _status, output = self.run_odin("--print-config", "--config", path, **environment)
            self.assertIn("jwtSecret", output)
            self.assertNotIn("S3CRET", output)
        misspelt = self.config({"auth": {"jwtSecrets": "S3CRET"}})
        self.assertNotIn("S3CRET", self.run_odin("--config", misspelt)[1])

    def test_help_and_version(self) -> None:
        """--help names every option, --version the version."""
        status, output = self.run_odin("--help")
        self.assertEqual(status, 0)
        for option in ("--port", "--host", "--config", "--nats-url", "--require-auth", "--demo",
                       "--log-format", "--print-config"):  # fmt: skip
            self.assertIn(option, output)
        status, output = self.run_odin("--version")
        self.assertEqual(status, 0)
        self.assertRegex(output, r"odin \d+\.\d+")

    def test_file_works(self) -> None:
        """What a file says holds."""
        path = self.config({"websocket": {"path": "/live"}, "server": {"maxMessageSize": 1000}})
        odin = self.start(*MEMORY, "--config", path)
        client = self.client("/live", odin)
        self.assertEqual(client.welcome["maxMessageSize"], 1000)

    def test_secret_from_a_file(self) -> None:
        """JWT_SECRET_FILE holds the secret, a line break at its end does not count."""
        path = self.config(_STRONG + "\n")
        odin = self.start(*MEMORY, "--require-auth", JWT_SECRET_FILE=path)
        self.assertEqual(self.client(odin=odin, token=sign(_STRONG)).welcome["offset"], 0)

    def test_echo(self) -> None:
        """--echo serves /echo, which sends back what it gets; otherwise there is none."""
        odin = self.start(*MEMORY, "--echo")
        with connect(f"ws://{odin.host}/echo", proxy=None) as echo:
            for message in ("text é", b"\x00\xff" * 1000):
                echo.send(message)
                self.assertEqual(echo.recv(10), message)
        self.assertEqual(self.start(*MEMORY).get("/echo").status, 404)


class ProductionTests(StartTestCase):
    """ODIN_ENV=production."""

    def test_secrets(self) -> None:
        """A missing, short or sample secret stops the start where auth is required."""
        cases = {
            "": "needs a secret",
            "short-but-random-8f3k2": "32 bytes",
            "change-me-change-me-change-me-change-me": "sample",
            "your-256-bit-secret-your-256-bit-secret": "sample",
            "a" * 40: "sample",
        }
        for secret, word in cases.items():
            status, output = self.run_odin(
                *MEMORY, "--require-auth", ODIN_ENV="production", JWT_SECRET=secret
            )
            self.assertNotEqual(status, 0, secret)
            self.refused(output, "auth.jwtSecret", word)
            if secret:
                self.assertNotIn(secret, output)

    def test_starts(self) -> None:
        """With a good secret it starts, and has no /auth/token."""
        odin = self.start(*MEMORY, "--require-auth", ODIN_ENV="production", JWT_SECRET=_STRONG)
        self.assertEqual(odin.get("/auth/token").status, 404)
        self.assertEqual(self.wire(odin).upgrade().status, 401)
        self.assertEqual(self.client(odin=odin, token=sign(_STRONG)).welcome["offset"], 0)

    def test_without_auth(self) -> None:
        """Where no token is required a missing secret is no reason to stay down."""
        odin = self.start(*MEMORY, ODIN_ENV="production", JWT_SECRET="")
        self.assertEqual(odin.get("/auth/token").status, 404)
        self.assertEqual(self.client(odin=odin).welcome["offset"], 0)

    def test_development(self) -> None:
        """Outside production a secret may be anything, and is made up if there is none."""
        for secret in ("", "short", SECRET):
            odin = self.start(*MEMORY, "--require-auth", JWT_SECRET=secret)
            token = odin.get("/auth/token").json()["token"]
            self.assertEqual(self.client(odin=odin, token=token).welcome["offset"], 0)


class ReactorTests(OdinTestCase):
    """`twistd --reactor`."""

    def twistd(self, reactor: str) -> Process:
        arguments = [program("twistd"), "-n", "--pidfile=", f"--reactor={reactor}", "odin"]
        fixed = ["--port", "0", "--host", "127.0.0.1", *MEMORY, "--demo"]
        process = Process([*arguments, *fixed])
        self.addCleanup(process.stop)
        return process

    def test_serves(self) -> None:
        """On Odin's own and on the plain asyncio reactor: the feed, and an orderly end."""
        for reactor, name in (("odin", "NestedReactor"), ("asyncio", "AsyncioSelectorReactor")):
            process = self.twistd(reactor)
            port = process.says(r"Odin listens on 127.0.0.1:(\d+)")[1]
            self.assertIn(name, process.output())
            with connect(f"ws://127.0.0.1:{port}/ws", proxy=None) as client:
                messages = [json.loads(client.recv(20)) for _ in range(20)]
                self.assertEqual(messages[0]["type"], "connectionEstablished")
                offsets = [each["offset"] for each in messages[1:]]
                first = offsets[0]
                self.assertEqual(offsets, list(range(first, first + 19)))
                process.signal(15)
                self.assertEqual(process.wait(), 0)
            self.check(process)

    def test_foreign(self) -> None:
        """A reactor without an asyncio loop is refused."""
        process = self.twistd("epoll")
        self.assertNotEqual(process.wait(), 0)
        self.assertIn("this reactor cannot run Odin", process.output())
        self.assertNotIn("Traceback", process.output())
