"""Settings, from where they come to how they are shown."""

import json

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from odin import loading, logs
from odin.config import Auth, Config, publishable, uses_memory_bus
from odin.config import algorithms as algorithms_of
from odin.errors import ConfigError
from odin.tap import Options

GOOD = "K7u2-9xQw!vT4zR8pLm3#sYb6NfHc1Dj"


class ConfigTests(SynchronousTestCase):
    def file(self, **sections):
        path = self.mktemp()
        with open(path, "w") as file:
            json.dump(sections, file)
        return path

    def load(self, path=None, **options):
        environment = options.pop("environment", {})
        return loading.load(path=path, environment=environment, **options)

    def refused(self, *parts, **arguments):
        error = self.assertRaises(ConfigError, self.load, **arguments)
        for part in parts:
            self.assertIn(part, str(error))
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_precedence(self):
        """Options over environment over file over default, with the source remembered."""
        path = self.file(server={"port": 1}, limits={"messageBurst": 5})
        self.assertEqual(self.load().server.port, 3002)
        self.assertEqual(self.load(path).server.port, 1)
        environment = {"SERVER_PORT": "2"}
        self.assertEqual(self.load(path, environment=environment).server.port, 2)
        got = self.load(path, environment=environment, options={"server.port": "3"})
        self.assertEqual((got.server.port, got.limits.message_burst), (3, 5))
        shown = loading.describe(got)
        self.assertIn("server.port = 3  (command line)", shown)
        self.assertIn(f"limits.messageBurst = 5  ({path})", shown)
        self.assertIn('server.host = "0.0.0.0"  (default)', shown)

    def test_environment_names(self):
        """Every setting has its name, and the names that users know."""
        names = loading.environment_names()
        for name, key in (
            ("SERVER_HOST", "server.host"), ("NATS_URL", "nats.url"), ("JWT_SECRET", "auth.jwtSecret"),
            ("REQUIRE_AUTH", "auth.requireAuth"), ("ENABLE_PROMETHEUS", "metrics.enablePrometheus"),
            ("LIMITS_MESSAGES_PER_SECOND", "limits.messagesPerSecond"),
            ("AUTH_JWT_SECRET", "auth.jwtSecret"), ("WEBSOCKET_PING_INTERVAL", "websocket.pingInterval"),
        ):  # fmt: skip
            self.assertEqual(names[name], key)

    def test_publishable(self):
        """Clients publish to the feed's subjects, unless others are configured."""
        environment = {"NATS_SUBJECTS": "a.*"}
        self.assertEqual(publishable(self.load(environment=environment)), ("a.*",))
        memory = environment | {"NATS_URL": "memory://"}
        self.assertEqual(publishable(self.load(environment=memory)), (">",))
        for each in (environment, memory):
            given = self.load(environment=each | {"NATS_PUBLISH_SUBJECTS": "b,c.>"})
            self.assertEqual(publishable(given), ("b", "c.>"))
        self.refused("nats.publishSubjects", environment={"NATS_PUBLISH_SUBJECTS": "a..b"})

    def test_values_from_text(self):
        """Text becomes what the setting is."""
        got = self.load(
            environment={
                "REQUIRE_AUTH": "yes", "NATS_SUBJECTS": "a.*, b", "METRICS_PORT": "",
                "WEBSOCKET_ALLOWED_ORIGINS": '["http://a"]', "WEBSOCKET_PING_INTERVAL": "2.5",
            }
        )  # fmt: skip
        self.assertTrue(got.auth.require_auth)
        self.assertEqual((got.nats.subjects, got.metrics.port), (("a.*", "b"), None))
        self.assertEqual(got.websocket.allowed_origins, ("http://a",))
        self.assertEqual(got.websocket.ping_interval_s, 2.5)

    def test_refused_from_the_environment(self):
        """One line with the source, the key, the value and what is allowed."""
        for name, value, key, allowed in (
            ("SERVER_PORT", "x", "server.port", "int"),
            ("SERVER_PORT", "70000", "server.port", "65535"),
            ("REQUIRE_AUTH", "maybe", "auth.requireAuth", "bool"),
            ("LIMITS_MESSAGE_BURST", "0", "limits.messageBurst", ">= 1"),
            ("NATS_SUBJECTS", "a..b", "nats.subjects", "NATS subject"),
            ("SERVER_TRUSTED_PROXIES", "x", "server.trustedProxies", "network"),
            ("SERVER_PROXY_HEADER", "X-Real-IP", "server.proxyHeader", "X-Forwarded-For|Forwarded"),
            ("WEBSOCKET_ALLOWED_ORIGINS", "b.example", "websocket.allowedOrigins", "https://app."),
            ("WEBSOCKET_ALLOWED_ORIGINS", "https://*.b", "websocket.allowedOrigins", "wildcards"),
            ("AUTH_ALGORITHMS", "HS1", "auth.algorithms", "HS256"),
            ("AUTH_JWKS_URL", "file:///etc/keys", "auth.jwksUrl", "https"),
            ("WEBSOCKET_PATH", "/health", "websocket.path", "taken"),
            ("NATS_URL", "nats://b:99999", "nats.url", "65535"),
            ("NATS_URL", "htp://x", "nats.url", "NATS server"),
        ):
            self.refused(name, key, value, allowed, environment={name: value})
        self.refused("ODIN_ENV", environment={"ODIN_ENV": "staging"})
        error = self.refused("No such file", environment={"JWT_SECRET_FILE": "/nope"})
        self.assertEqual(error.count("/nope"), 1)

    def test_numbers_have_bounds(self):
        """No number is so large, or so small, that something fails with it later."""
        huge, digits = 10**18 * 10**382, "9" * 400
        for section, keys in (
            ("limits", ("messagesPerSecond", "connectionsPerSecondPerAddress", "messageBurst")),
            ("limits", ("channelsPerClient",)), ("websocket", ("maxConnections", "pingInterval")),
            ("delivery", ("nonceLimit", "historyMessages", "snapshotChannels", "recoverMessages")),
            ("delivery", ("maxPending", "sendBuffer", "historyAge", "nonceWindow")),
            ("nats", ("maxReconnects", "maxPingsOut", "pingInterval", "reconnectWait")),
            ("metrics", ("port", "updateInterval")), ("auth", ("tokenExpiration",)),
        ):  # fmt: skip
            for key in keys:
                for value in (huge, 1e300, float("inf"), 5e-324, -1e300):
                    if value == 5e-324 and not key.startswith(("messagesPer", "connectionsPer")):
                        continue
                    self.refused(f"{section}.{key}", path=self.file(**{section: {key: value}}))
                for text in (digits, "inf", "Infinity", "1e999"):
                    name = f"{section}_{loading._snake(key)}".upper()
                    self.refused(name, f"{section}.{key}", environment={name: text})
        for key in ("maxAge", "maxBytes", "maxMessages", "preload"):
            for value in (huge, 1e300, float("inf")):
                file = self.file(nats={"jetstream": {key: value}})
                self.refused(f"nats.jetstream.{key}", path=file)
        for key in ("messagesPerSecond", "connectionsPerSecondPerAddress"):
            for value in (0, 0.001, 1e6):
                self.load(self.file(limits={key: value}))

    def test_paths_that_clash(self):
        """No page hides another, however its path is spelt."""
        pages = ("/", "/health", "/livez", "/readyz", "/stats", "/publish", "/auth/token", "/drain")
        for page in (*pages, "/upgrade", "/health/", "/livez/", "/publish/x", "/auth", "/auth/"):
            for key in ("websocket.path", "metrics.metricsPath"):
                section, _, name = key.partition(".")
                self.refused(key, "taken", path=self.file(**{section: {name: page}}))
        for path, metrics_path in (
            ("/ws", "/ws/"), ("/ws/", "/ws"), ("/metrics/", "/metrics"), ("/a", "/a/b"), ("/a/b", "/a"),
        ):  # fmt: skip
            both = {"websocket": {"path": path}, "metrics": {"metricsPath": metrics_path}}
            self.refused("metrics.metricsPath", "taken", path=self.file(**both))
        echo = self.file(websocket={"path": "/echo/"})
        self.load(echo)
        self.refused("websocket.path", "taken", path=echo, echo=True)
        for path in ("/ws/", "/odin/ws", "/healthy", "/a.b", "/v1/@me", "/..."):
            self.load(self.file(websocket={"path": path}, metrics={"metricsPath": "/odin/m"}))

    def test_paths_that_no_request_has(self):
        """A path is one that clients, proxies and Odin spell alike."""
        for path in (
            "", "ws", "/ws?x", "/ws#a", "/ws\n", "/w s", "//ws", "/a//b", "/ws//", "//", "/./ws",
            "/a/../ws", "/..", "/%77s", "/w\u00e9", "/ws\\", '/"ws"', "/ws\0", "/ws\ud800", "/ws\r",
        ):  # fmt: skip
            self.refused("websocket.path", path=self.file(websocket={"path": path}))
            self.refused("metrics.metricsPath", path=self.file(metrics={"metricsPath": path}))

    def test_texts(self):
        """Half a character, a NUL, and what can be no host or name are refused."""
        for section, key, value in (
            ("server", "node", "a\ud800"), ("server", "node", "a\nb"), ("server", "node", "n" * 101),
            ("server", "host", "a\0b"), ("server", "host", "a\nb"), ("server", "host", "a..b"),
            ("server", "host", "h" * 64), ("metrics", "host", "\udc80"), ("auth", "issuer", "\0"),
            ("auth", "audience", "\ud800"), ("nats", "subjects", ["a", "\ud800"]),
            ("nats", "credentialsFile", "a\0"), ("websocket", "allowedOrigins", ["\0"]),
        ):  # fmt: skip
            self.refused(f"{section}.{key}", path=self.file(**{section: {key: value}}))
        self.refused("SERVER_NODE", "UTF-8", environment={"SERVER_NODE": "\udcff"})
        for host in ("::1", "0.0.0.0", "", "localhost", "fe80::1%eth0", "b\u00fccher.example"):
            self.assertEqual(self.load(self.file(server={"host": host})).server.host, host)

    def test_endpoints(self):
        """What cannot be an endpoint of a server."""
        for endpoint, why in (
            ("tcp:99999", "65535"), ("tcp:port=65536", "65535"), ("ssl:70000:privateKey=k", "65535"),
            ("stdio:", "nobody"), ("stdio", "nobody"), ("unix:/a\0b", "NUL"),
        ):  # fmt: skip
            self.refused("--endpoint", why, endpoints=[endpoint])
        self.load(endpoints=["tcp:0", "ssl:65535:privateKey=k", "unix:/run/odin.sock", "tcp:http"])

    def test_no_secret_is_shown(self):
        """Not where a key is misspelt or in the wrong section, and not a part of a URL."""
        for sections in (
            {"server": {"jwtSecret": "S3CRET"}}, {"limits": {"Password": "S3CRET"}},
            {"websocket": {"accessToken": ["S3CRET"]}}, {"delivery": {"apiKey": "S3CRET"}},
            {"metrics": {"creds": {"a": "S3CRET"}}}, {"auth": {"jwtSecrte": "S3CRET"}},
            {"server": {"natsUrl": "nats://u:S3CRET@h"}}, {"server": {"x": {"y": "S3CRET"}}},
            {"server": {"x": ["S3CRET"]}}, {"server": {"broker": "u:S3CRET@h"}},
            {"server": {"password": 53}}, {"nats": {"jetstream": {"secret": "S3CRET"}}},
            {"server": {"node": 1, "secret\nS": "S3CRET"}},
        ):  # fmt: skip
            error = self.refused(path=self.file(**sections))
            self.assertNotIn("S3CRET", error)
            self.assertNotIn("53", error.rpartition(" = ")[2])
        self.assertIn("= 80;", self.refused(path=self.file(server={"prot": 80})))
        for url, shown in (
            ("https://u:S3CRET@h/x?k=S3CRET#S3CRET", "https://********@h/x?********"),
            ("https://u:S3CRET/w?x@h/y", "https://********@h/y"), ("https://h/jwks", "https://h/jwks"),
            ("https://h#S3CRET", "https://h#********"), ("", ""),
        ):  # fmt: skip
            got = loading.describe(self.load(environment={"AUTH_JWKS_URL": url}))
            self.assertIn(f'auth.jwksUrl = "{shown}"', got)
            self.assertNotIn("S3CRET", got)
        key = "-----BEGIN PRIVATE KEY-----\nS3CRET"
        self.assertNotIn(
            "S3CRET", loading.describe(self.load(self.file(auth={"jwtPublicKey": key})))
        )

    def test_refused_from_the_file(self):
        """Unknown keys and sections, wrong types and broken JSON name the file."""
        for sections, parts in (
            ({"server": {"prot": 1}}, ("server.prot", "readTimeout")),
            ({"sever": {}}, ("sever", "websocket")),
            ({"server": []}, ("server",)),
            ({"server": {"port": "3002"}}, ("server.port", '"3002"', "int")),
            ({"nats": {"subjects": []}}, ("nats.subjects",)),
        ):
            path = self.file(**sections)
            self.refused(path, *parts, path=path)
        broken = self.mktemp()
        with open(broken, "w") as file:
            file.write("{")
        self.refused(broken, "JSON", path=broken)
        self.refused("/nope.json", path="/nope.json")

    def test_refused_though_overridden(self):
        """A bad value stops the start also where another source wins; the line names its source."""
        bad = self.file(server={"port": "eighty"}, nats={"subjects": ["a..b"]})
        port = {"SERVER_PORT": "1", "NATS_SUBJECTS": "a"}
        self.refused(bad, "server.port", '"eighty"', path=bad, environment=port)
        self.refused(bad, "server.port", path=bad, options={"server.port": "1"})
        subjects = self.file(nats={"subjects": ["a..b"]})
        self.refused(subjects, "nats.subjects", '"a..b"', path=subjects, environment=port)
        for name, value, key, good in (
            ("SERVER_PORT", "abc", "server.port", "1"),
            ("REQUIRE_AUTH", "maybe", "auth.requireAuth", "true"),
            ("AUTH_ALGORITHMS", "HS1", "auth.algorithms", "HS256"),
            ("WEBSOCKET_PATH", "/health", "websocket.path", "/ws"),
            ("SERVER_TRUSTED_PROXIES", "x", "server.trustedProxies", "10.0.0.0/8"),
            ("NATS_URL", "htp://x", "nats.url", "nats://h"),
        ):
            self.refused(name, key, value, environment={name: value}, options={key: good})
        both = {"REQUIRE_AUTH": "true", "AUTH_REQUIRE_AUTH": "perhaps"}  # two names of one setting
        self.refused("AUTH_REQUIRE_AUTH", "perhaps", environment=both)
        self.refused("NATS_URL", "h:x", environment={"NATS_URL": "h:x"}, demo=True)

    def test_secrets_are_not_shown(self):
        """Not in --print-config, not in an error, not when the key is misspelt."""
        environment = {"JWT_SECRET": GOOD, "NATS_URL": "nats://u:hidden@h:1,nats://tok@i"}
        shown = loading.describe(self.load(environment=environment))
        self.assertIn('auth.jwtSecret = "********"  (environment JWT_SECRET)', shown)
        for secret in (GOOD, "hidden", "tok@"):
            self.assertNotIn(secret, shown)
        self.assertIn("@h:1", shown)
        for url in ("nats://u:hidd/en@h", "nats://hidd/en@h", "nats://u:hidd,en@h:x"):
            error = self.refused("NATS_URL", "nats.url", environment={"NATS_URL": url})
            self.assertNotIn("hidd", error)
        error = self.refused("jwtSecert", path=self.file(auth={"jwtSecert": GOOD}))
        self.assertNotIn(GOOD, error)

    def test_production(self):
        """With auth required: no start with a missing, short or sample secret."""
        base = {"ODIN_ENV": "production", "REQUIRE_AUTH": "true"}
        for secret in ("", "short", "x" * 40, "your-secret-key-change-me-in-production"):
            error = self.refused("auth.jwtSecret", environment=base | {"JWT_SECRET": secret})
            self.assertTrue(not secret or secret not in error)
        self.assertTrue(self.load(environment=base | {"JWT_SECRET": GOOD}).production)
        self.load(environment=base | {"AUTH_JWT_PUBLIC_KEY": "k.pem"})
        self.load(environment={"ODIN_ENV": "production"})

    def test_no_secret(self):
        """What no token can be signed with stops the start, not the first token."""
        for secret in (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDn me@here",
            '{"kty":"oct","k":"AAAA"}',
            "half a surrogate \udcff and 32 bytes and more",
        ):
            error = self.refused("auth.jwtSecret", environment={"JWT_SECRET": secret})
            self.assertNotIn(secret, error)

    def test_secret_file(self):
        """A secret may stand in a file of its own."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(GOOD + "\n")
        self.assertEqual(self.load(environment={"JWT_SECRET_FILE": path}).auth.jwt_secret, GOOD)

    def test_bus(self):
        """Empty or memory:// is the bus in the process; so is --demo, unless told otherwise."""
        for url, memory in (("", True), ("memory://", True), ("nats://h", False)):
            got = self.load(environment={"NATS_URL": url})
            self.assertEqual(uses_memory_bus(got), memory)
        path = self.file(nats={"url": "nats://h"})
        self.assertTrue(uses_memory_bus(self.load(path, demo=True)))
        told = self.load(path, demo=True, options={"nats.url": "nats://i"})
        self.assertEqual(told.nats.url, "nats://i")

    def test_algorithms(self):
        """Without a list: what the configured keys can do."""
        for secret, key, algorithms in (
            ("", "", ("HS256",)), ("s", "", ("HS256",)),
            ("", "k", ("RS256", "ES256", "EdDSA")), ("s", "k", ("HS256", "RS256", "ES256", "EdDSA")),
        ):  # fmt: skip
            auth = Auth(jwt_secret=secret, jwt_public_key=key)
            self.assertEqual(algorithms_of(auth), algorithms)

    def test_stream_needs_a_broker(self):
        """A stream without NATS is a mistake; a demo leaves it out."""
        environment = {"NATS_JETSTREAM_STREAM": "FEED", "NATS_URL": ""}
        with self.assertRaisesRegex(ConfigError, "nats.jetstream.stream.*nats.url"):
            self.load(environment=environment)
        path = self.file(nats={"url": "nats://h", "jetstream": {"stream": "FEED", "create": True}})
        got = self.load(path)
        self.assertEqual((got.nats.jetstream.stream, got.nats.jetstream.create), ("FEED", True))
        self.assertIn('nats.jetstream.stream = "FEED"', loading.describe(got))
        self.load(path, demo=True)
        for jetstream in ({"stream": "a.b"}, {"strem": "x"}, 5):
            with self.assertRaisesRegex(ConfigError, "nats.jetstream"):
                self.load(self.file(nats={"jetstream": jetstream}))

    def test_sample(self):
        """etc/odin.json has every setting with its default, but for the internal listener."""
        path = str(__import__("pathlib").Path(__file__).parent.parent / "etc" / "odin.json")
        got = self.load(path)
        for section in ("server", "websocket", "nats", "auth", "limits", "delivery"):
            self.assertEqual(getattr(got, section), getattr(Config(), section))
        self.assertEqual(got.metrics.port, 9090)


class OptionsTests(SynchronousTestCase):
    def test_options(self):
        """The command line reaches the configuration."""
        options = Options()
        options.parseOptions(
            ["--port", "5", "--host", "h", "--nats-url", "nats://x", "--require-auth", "--echo"]
        )
        got = options.config
        self.assertEqual((got.server.port, got.server.host, got.nats.url), (5, "h", "nats://x"))
        self.assertTrue(got.auth.require_auth and got.echo and not got.demo)

    def test_refused(self):
        """What cannot be used ends with one line."""
        self.assertRaises(UsageError, Options().parseOptions, ["--log-format", "xml"])
        self.assertRaises(UsageError, Options().parseOptions, ["--nonsense"])
        error = self.assertRaises(SystemExit, Options().parseOptions, ["--port", "x"])
        self.assertIn("server.port", str(error))


class LogTests(SynchronousTestCase):
    def line(self, format_, **event):
        path = self.mktemp()
        logs.observer(format_, path)(event)
        with open(path) as file:
            return file.read()

    def test_json(self):
        """One object a line, whatever is in the message; the raw fields are left out."""
        event = {"log_time": 0.0, "log_format": "x {a}", "a": "\r\n\x1b[31m\u2028é", "token": "t"}
        line = self.line("json", log_level=logs.LogLevel.warn, log_namespace="n", **event)
        self.assertEqual(line.count("\n"), 1)
        got = json.loads(line)
        self.assertEqual((got["level"], got["system"]), ("warn", "n"))
        self.assertEqual(got["message"], "x \\r\\n\\x1b[31m\\u2028é")
        self.assertNotIn("token", got)

    def test_text(self):
        """The same as text, without terminal controls."""
        event = {"log_time": 0.0, "log_format": "x {a}", "a": "\x1b[31m"}
        line = self.line("text", log_level=logs.LogLevel.info, log_namespace="n", **event)
        self.assertEqual(line, "1970-01-01T00:00:00.000+00:00 [n#info] x \\x1b[31m\n")

    def test_no_debug(self):
        """Debug events are not written."""
        self.assertEqual(self.line("text", log_level=logs.LogLevel.debug, log_format="x"), "")
