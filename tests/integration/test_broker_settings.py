"""How Odin, and odin-publish, come to a broker: URL, credentials, files, pauses."""

import json
import os
import signal
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.accounts import credentials, written
from tests.integration.clients import PATIENCE_S
from tests.integration.harness import MEMORY, Process, eventually, free_port, program
from tests.integration.test_endpoints import certificate
from tests.integration.test_nats import HURRY, PRICE, NatsTestCase
from tests.integration.test_start import StartTestCase

PASSWORD, ENCODED = "s3cret:p@ss/?#,%", "s3cret%3Ap%40ss%2F%3F%23%2C%25"


class BrokerTestCase(NatsTestCase):
    def file(self, text: str) -> str:
        """The path of a file with this text."""
        return written(os.path.abspath(self.mktemp()), text)


class CredentialsTests(BrokerTestCase):
    """A broker that wants to know who comes."""

    def test_percent_encoded(self) -> None:
        """Credentials in NATS_URL are decoded; such as need no encoding may go without."""
        nats = self.broker("--user", "o:din", "--pass", PASSWORD)
        self.joined(f"nats://o%3Adin:{ENCODED}@127.0.0.1:{nats.port}")
        other = self.broker("--user", "odin", "--pass", "a:b@c%")
        odin = self.joined(f"nats://odin:a:b@c%@127.0.0.1:{other.port}")
        token = self.broker("--auth", "tok/en")
        self.joined(f"nats://tok%2Fen@127.0.0.1:{token.port}")
        self.assertNotIn("a:b", odin.output())

    def test_each_server_its_own(self) -> None:
        """Servers with different credentials get each its own."""
        first = self.broker("--user", "a", "--pass", "p/1")
        second = self.broker("--user", "b", "--pass", "p/2")
        odin = self.joined(
            f"nats://a:p%2F1@127.0.0.1:{first.port},nats://b:p%2F2@127.0.0.1:{second.port}"
        )
        for nats in (first, second):
            other = second if nats is first else first
            other.signal(signal.SIGSTOP)
            eventually(lambda: odin.get("/readyz").status == 200, "the other one")
            other.signal(signal.SIGCONT)

    def test_server_of_the_cluster(self) -> None:
        """A server that the cluster tells of is asked with the credentials of the URL."""
        routes = free_port()
        cluster = ("--user", "u", "--pass", "p/", "--cluster_name", "c")
        cluster += ("--routes", f"nats://127.0.0.1:{routes}")
        first = self.broker(*cluster, "--cluster", f"nats://127.0.0.1:{routes}")
        second = self.broker(*cluster, "--cluster", f"nats://127.0.0.1:{free_port()}")
        eventually(lambda: "Route connection created" in second.output(), "the cluster")
        odin = self.joined(f"nats://u:p%2F@127.0.0.1:{first.port}")
        client = self.client(odin=odin)
        first.stop()
        self.assertEqual([client.receive()["status"] for _ in "12"], ["stale", "live"])

    def test_refused_is_said_once(self) -> None:
        """However often a broker refuses us, each of its answers is one line; no password in it."""
        nats = self.broker("--user", "odin", "--pass", "right")
        url = f"nats://odin:wr%2Fong@127.0.0.1:{nats.port}"
        odin = self.start("--nats-url", url, **HURRY)
        eventually(lambda: nats.output().count("authentication error") >= 10, "ten attempts")
        warnings = [
            each["message"] for each in map(json.loads, odin.output().splitlines())
            if each["level"] == "warn"
        ]  # fmt: skip
        self.assertIn("Authorization Violation", "".join(warnings))
        self.assertEqual(max(Counter(warnings).values()), 1, warnings)
        self.assertNotIn("ong", "".join(warnings))

    def test_creds_that_break_and_are_mended(self) -> None:
        """A .creds file that breaks while Odin runs is said and tried again until it is good."""
        server, creds = credentials()
        nats = self.broker("-c", self.file(server))
        path = self.file(creds)
        odin = self.joined(nats.url, NATS_CREDENTIALS_FILE=path)
        headline = creds.index("-----BEGIN USER")
        for broken, why in ((creds[headline:], "no user JWT"), (creds[:headline], "no user seed")):
            written(path, broken)
            nats.stop()
            nats = self.broker("-c", self.file(server), port=nats.port)
            odin.says(f"nats.credentialsFile: .*{why}")
            self.assertEqual((odin.get("/livez").status, odin.get("/readyz").status), (200, 503))
            written(path, creds)
            eventually(lambda: odin.get("/readyz").status == 200, "readiness with good credentials")


class TlsTests(BrokerTestCase):
    """A broker with TLS."""

    def test_restart_and_stop(self) -> None:
        """Messages come, the loss is noticed, and a normal stop is no error in the log."""
        key, cert = map(str, certificate(Path(tempfile.mkdtemp())))
        options = ("--tls", "--tlscert", cert, "--tlskey", key)
        nats = self.broker(*options)
        url = f"tls://localhost:{nats.port}"
        odin = self.joined(url, NATS_TLS_CA_FILE=cert)
        client = self.client(odin=odin)
        nats.stop()
        self.assertEqual(client.receive()["status"], "stale")
        self.broker(*options, port=nats.port)
        self.assertEqual(client.receive()["status"], "live")
        self.assertEqual(odin.publish(PRICE, {"n": 1}).status, 202)
        self.assertEqual(client.receive()["n"], 1)
        client.close()
        odin.signal(signal.SIGTERM)
        self.assertEqual(odin.wait(), 0)
        levels = {json.loads(each)["level"] for each in odin.output().splitlines()}
        self.assertEqual(levels - {"info", "warn"}, set())


class FilesTests(StartTestCase, BrokerTestCase):
    """Files that are no good stop the start, --print-config and a reload."""

    def test_start(self) -> None:
        """One line that names the setting and the file."""
        _server, creds = credentials()
        folder = Path(tempfile.mkdtemp())
        key, cert = map(str, certificate(folder))
        half = written(str(folder / "half.creds"), creds[: creds.index("BEGIN USER")])
        for option in ((), ("--print-config",)):
            for environment, words in (
                ({"NATS_TLS_CA_FILE": "/nope.pem"}, ("nats.tlsCaFile", "/nope.pem", "No such")),
                ({"NATS_TLS_CERT_FILE": cert}, ("nats.tlsCertFile", cert, "nats.tlsKeyFile")),
                ({"NATS_TLS_KEY_FILE": key}, ("nats.tlsKeyFile", key, "nats.tlsCertFile")),
                ({"NATS_CREDENTIALS_FILE": half}, ("nats.credentialsFile", half, "seed")),
                ({"NATS_URL": "nats://u:S3CRET@h:99999"}, ("nats.url", "@h:99999", "65535")),
            ):
                status, output = self.run_odin(*option, **environment)
                self.assertEqual(status, 1, words)
                self.refused(output, *words)
                self.assertNotIn("S3CRET", output)
        status, _output = self.run_odin(
            *MEMORY, "--print-config", NATS_TLS_CA_FILE="/not/needed/without/a/broker.pem"
        )
        self.assertEqual(status, 0)

    def test_overridden(self) -> None:
        """A bad value stops the start also where an option wins."""
        path = self.config({"server": {"port": "eighty"}})
        for options, environment, words in (
            (("--config", path), {}, (path, "server.port", "eighty")),
            ((), {"SERVER_PORT": "abc"}, ("SERVER_PORT", "server.port", "abc")),
        ):
            status, output = self.run_odin(*MEMORY, *options, "--port", "0", **environment)
            self.assertEqual(status, 1)
            self.refused(output, *words)

    def test_reload(self) -> None:
        """A file that broke meanwhile stops a hand-over: the old workers stay."""
        _server, creds = credentials()
        path = self.file(creds)
        odin = self.start(
            "--embedded-nats", "--workers", "1", "--nats-url", f"nats://127.0.0.1:{free_port()}",
            NATS_CREDENTIALS_FILE=path,
        )  # fmt: skip
        eventually(lambda: odin.get("/readyz").status == 200, "readiness")
        client = self.client(odin=odin)
        written(path, "")
        odin.signal(signal.SIGHUP)
        odin.says("nats.credentialsFile.*no user JWT")
        self.assertEqual(client.ask({"type": "ping"})["type"], "pong")


class PauseTests(NatsTestCase):
    """Where nobody answers."""

    def test_no_busy_loop(self) -> None:
        """A wait and a jitter of 0: attempts are counted, and there is time between them."""
        attempts = 0
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(PATIENCE_S)
            self.start(
                "--nats-url", f"nats://127.0.0.1:{server.getsockname()[1]}",
                NATS_RECONNECT_WAIT="0", NATS_RECONNECT_JITTER="0",
            )  # fmt: skip
            server.accept()[0].close()
            stop_at = time.monotonic() + 2
            while time.monotonic() < stop_at:
                server.accept()[0].close()
                attempts += 1
        self.assertLess(attempts, 100)  # at most 40 by the pause; thousands without


class PublishTests(BrokerTestCase):
    """odin-publish."""

    def publish(self, *options: str, **environment: str) -> tuple[int, str]:
        """(exit status, output) of one message."""
        process = Process([program("odin-publish"), *options, PRICE, '{"n":1}'], environment)
        self.addCleanup(process.stop)
        return process.wait(), process.output()

    def test_credentials(self) -> None:
        """It takes URL and credentials as the server does; --nats wins over NATS_URL."""
        nats = self.broker("--user", "odin", "--pass", PASSWORD)
        url = f"nats://odin:{ENCODED}@127.0.0.1:{nats.port}"
        client = self.client(odin=self.joined(url))
        nowhere = f"nats://127.0.0.1:{free_port()}"
        for options, environment in (
            (("--nats", url), {}),
            ((), {"NATS_URL": url}),
            (("--nats", url), {"NATS_URL": nowhere, "SERVER_PORT": "not its business"}),
            (("--nats", nats.url), {"NATS_USER": "odin", "NATS_PASSWORD": PASSWORD}),
        ):
            self.assertEqual(self.publish(*options, **environment), (0, ""))
            self.assertEqual(client.receive()["n"], 1)

    def test_creds_and_token(self) -> None:
        """A .creds file and a token."""
        server, creds = credentials()
        nats = self.broker("-c", self.file(server))
        path = self.file(creds)
        self.assertEqual(self.publish("--nats", nats.url, NATS_CREDENTIALS_FILE=path), (0, ""))
        token = self.broker("--auth", "t/o")
        self.assertEqual(self.publish(NATS_URL=token.url, NATS_TOKEN="t/o"), (0, ""))

    def test_tls(self) -> None:
        """TLS with its own authority, and what is said without it."""
        key, cert = map(str, certificate(Path(tempfile.mkdtemp())))
        nats = self.broker("--tls", "--tlscert", cert, "--tlskey", key)
        url = f"tls://localhost:{nats.port}"
        self.assertEqual(self.publish("--nats", url, NATS_TLS_CA_FILE=cert), (0, ""))
        status, output = self.publish("--nats", url)
        self.assertEqual(status, 1)
        self.assertIn("certificate verify failed", output)

    def test_refusals(self) -> None:
        """What went wrong is said in one line: refused, no server, no permission, a bad setting."""
        nats = self.broker("--user", "odin", "--pass", "right")
        denied = self.file(
            "authorization { users: [{ user: u, password: p, permissions: { publish: other } }] }",
        )
        strict = self.broker("-c", denied)
        place = f"127.0.0.1:{nats.port}"
        free = free_port()
        for options, environment, words in (
            (("--nats", f"nats://odin:wr0ng@{place}"), {}, (place, "refused", "Authorization")),
            (("--nats", nats.url), {}, (place, "refused", "Authorization")),
            (("--nats", f"nats://127.0.0.1:{free}"), {}, ("no NATS server", str(free))),
            (
                ("--nats", f"nats://u:p@127.0.0.1:{strict.port}"),
                {},
                ("did not take", "permissions violation"),
            ),
            (("--nats", "htp://x"), {}, ("command line", "nats.url", "htp://x")),
            ((), {"NATS_URL": "memory://"}, ("NATS_URL", "names no server")),
            ((), {"NATS_CREDENTIALS_FILE": "/nope"}, ("nats.credentialsFile", "/nope")),
        ):
            status, output = self.publish(*options, **environment)
            self.assertEqual(status, 1, words)
            self.assertEqual(len(output.splitlines()), 1, output)
            for word in (*words, "odin-publish: "):
                self.assertIn(word, output)
            self.assertNotIn("wr0ng", output)
