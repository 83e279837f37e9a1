"""POST /publish: a JSON body becomes a message on the bus."""

import json

from tests.integration.clients import HANDSHAKE
from tests.integration.harness import MEMORY, OdinTestCase, sign

SUBJECT, TRADE = "odin.token.BTC.price", "odin.trades.BTC"


class PublishTests(OdinTestCase):
    """With a token, as in earnest."""

    def post(self, subject: str, body: bytes, token: str = "", **headers: str) -> tuple[int, str]:
        """(status, error code) of a POST /publish."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        response = self.odin.request("POST", f"/publish?subject={subject}", body, **headers)
        answer = response.json()
        return response.status, answer.get("error", {}).get("code", answer.get("status"))

    def test_receipt(self) -> None:
        """A message is accepted with a receipt, and reaches the clients."""
        client = self.client()
        response = self.odin.publish(SUBJECT, {"type": "priceUpdate", "price": 1})
        receipt = response.json()
        self.assertEqual(response.status, 202)
        self.assertEqual((receipt["status"], receipt["subject"]), ("accepted", SUBJECT))
        self.assertEqual(client.receive()["price"], 1)

    def test_duplicate(self) -> None:
        """A nonce that was seen is accepted again, marked, and reaches nobody twice."""
        client = self.client()
        answers = [
            self.odin.publish(SUBJECT, {"nonce": "once", "n": n}) for n in (1, 2)
        ]  # fmt: skip
        self.odin.publish(SUBJECT, {"n": 3})
        self.assertEqual([each.status for each in answers], [202, 202])
        self.assertEqual([each.json().get("duplicate") for each in answers], [None, True])
        self.assertEqual([client.receive()["n"] for _ in "12"], [1, 3])

    def test_refusals(self) -> None:
        """What cannot be published is refused with a status and a JSON error."""
        everything, prices = sign(publish=[">"]), sign(publish=["odin.token.*.price"])
        cases = {
            "no token": (SUBJECT, b"{}", "", 401, "unauthorized"),
            "bad token": (SUBJECT, b"{}", "x.y.z", 401, "unauthorized"),
            "expired": (SUBJECT, b"{}", sign(publish=[">"], exp=1), 401, "unauthorized"),
            "may publish nothing": (SUBJECT, b"{}", sign(), 403, "forbidden"),
            "may publish other things": ("odin.trades.BTC", b"{}", prices, 403, "forbidden"),
            "a wildcard": ("odin.token.*.price", b"{}", everything, 400, "bad_channel"),
            "no subject": ("", b"{}", everything, 400, "bad_channel"),
            "an empty token": ("a..b", b"{}", everything, 400, "bad_channel"),
            "a space": ("a.b%20c", b"{}", everything, 400, "bad_channel"),
            "a line break": ("a%0d%0ab", b"{}", everything, 400, "bad_channel"),
            "too long a subject": ("a" * 256, b"{}", everything, 400, "bad_channel"),
            "no JSON": (SUBJECT, b"{nope", everything, 400, "bad_request"),
            "no body": (SUBJECT, b"", everything, 400, "bad_request"),
            "not UTF-8": (SUBJECT, b'{"a":"\xff"}', everything, 400, "bad_request"),
            "two texts": (SUBJECT, b"{}{}", everything, 400, "bad_request"),
            "NaN": (SUBJECT, b'{"a":NaN}', everything, 400, "bad_request"),
            "permitted": (SUBJECT, b"{}", prices, 202, "accepted"),
            "no object": (SUBJECT, b"[1]", everything, 202, "accepted"),
        }
        for name, (subject, body, token, status, code) in cases.items():
            self.assertEqual(self.post(subject, body, token), (status, code), name)

    def test_members_of_the_server(self) -> None:
        """The channel and the offset that clients read are the server's, whatever is published."""
        client = self.client("/ws?channels=odin.trades.*", token=sign(publish=[TRADE]))
        body = b'{"n":1,"channel":"odin.token.BTC.price","off\\u0073et":9007199254740991}'
        self.assertEqual(self.post(TRADE, body, sign(publish=[TRADE])), (202, "accepted"))
        client.send(f'{{"type":"publish","channel":"{TRADE}","data":{body.decode()}}}')
        messages = [each for each in (client.receive() for _ in "123") if "type" not in each]
        self.assertEqual([(each["channel"], each["n"]) for each in messages], [(TRADE, 1)] * 2)
        self.assertLess(messages[1]["offset"], 1000)

    def test_nonce_of_another_channel(self) -> None:
        """What one publishes on a channel takes no nonce away from another one."""
        client, token = self.client("/ws?channels=odin.trades.*"), sign(publish=["odin.trades.*"])
        for each, answer in (("A", "accepted"), ("B", "accepted"), ("A", "accepted")):
            body = json.dumps({"nonce": "shared", "n": each}).encode()
            self.assertEqual(self.post(f"odin.trades.{each}", body, token), (202, answer))
        self.post(TRADE, b'{"n":"end"}', token)
        self.assertEqual([client.receive()["n"] for _ in "123"], ["A", "B", "end"])

    def test_challenge(self) -> None:
        """401 says how to authenticate, 403 does not."""
        path = f"/publish?subject={SUBJECT}"
        self.assertIn("Bearer", self.odin.request("POST", path, b"{}").headers["www-authenticate"])
        refused = self.odin.request("POST", path, b"{}", Authorization=f"Bearer {sign()}")
        self.assertNotIn("www-authenticate", refused.headers)

    def test_token_in_the_query(self) -> None:
        """The token may come as ?token=, too."""
        token = sign(publish=[">"])
        self.assertEqual(self.post(f"{SUBJECT}&token={token}", b"{}"), (202, "accepted"))

    def test_foreign_origin(self) -> None:
        """A page of another origin may not publish."""
        token = sign(publish=[">"])
        for origin in ("https://evil.example", "null"):
            self.assertEqual(self.post(SUBJECT, b"{}", token, Origin=origin), (403, "forbidden"))

    def test_too_large(self) -> None:
        """300 kB are refused as too large before they are read, with or without a length."""
        body = json.dumps({"x": "y" * 300_000}).encode()
        self.assertEqual(self.odin.publish(SUBJECT, body).status, 413)
        wire = self.wire()
        wire.send(
            f"POST /publish?subject={SUBJECT} HTTP/1.1\r\nHost: {{host}}\r\n"
            f"Authorization: Bearer {sign(publish=['>'])}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        self.assertEqual(wire.response().status, 413)

    def test_chunked(self) -> None:
        """A body without a length is taken as well."""
        client, wire = self.client(), self.wire()
        wire.send(
            f"POST /publish?subject={SUBJECT} HTTP/1.1\r\nHost: {{host}}\r\n"
            f"Authorization: Bearer {sign(publish=['>'])}\r\nTransfer-Encoding: chunked\r\n\r\n"
            '5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n'
        )
        self.assertEqual(wire.response().status, 202)
        self.assertEqual(client.receive()["a"], 1)

    def test_expect_continue(self) -> None:
        """A client that asks first (curl, above 1 MB) is told to go on."""
        wire = self.wire()
        wire.send(
            f"POST /publish?subject={SUBJECT} HTTP/1.1\r\nHost: {{host}}\r\n"
            f"Authorization: Bearer {sign(publish=['>'])}\r\n"
            "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        self.assertEqual(wire.response().status, 100)
        wire.send(b"{}")
        self.assertEqual(wire.response().status, 202)


class PublishSubjectsTests(OdinTestCase):
    """With subjects configured for those who publish through Odin."""

    environment = {"NATS_PUBLISH_SUBJECTS": "odin.trades.*,>"}

    def test_never(self) -> None:
        """The broker's and the operators' own are never published to, whatever is configured."""
        client = self.client(token=sign(publish=[">"]))
        for subject in ("$JS.API.INFO", "$SYS.x", "_INBOX.x", "odin.control.disconnect"):
            self.assertEqual(self.odin.publish(subject, {}).status, 403, subject)
            request = {"type": "publish", "channel": subject, "data": {}}
            self.assertEqual(client.ask(request)["code"], "forbidden", subject)
        self.assertEqual(self.odin.publish("my.own", {}).status, 202)

    def test_only(self) -> None:
        """Where they are narrower than a token, they decide."""
        odin = self.start(*MEMORY, NATS_PUBLISH_SUBJECTS="odin.trades.*")
        client = self.client(odin=odin, token=sign(publish=[">"]))
        for subject, code, kind in ((SUBJECT, 403, "error"), (TRADE, 202, "publish_ack")):
            self.assertEqual(odin.publish(subject, {}).status, code)
            request = {"type": "publish", "channel": subject, "data": {}}
            self.assertEqual(client.ask(request)["type"], kind)


class LargeMessageTests(OdinTestCase):
    """With a larger limit."""

    environment = {"SERVER_MAX_MESSAGE_SIZE": "1000000"}

    def test_large_body(self) -> None:
        """300 kB are accepted where the limit allows it, and arrive whole."""
        client = self.client()
        self.assertEqual(self.odin.publish(SUBJECT, {"x": "y" * 300_000}).status, 202)
        self.assertEqual(len(client.receive()["x"]), 300_000)

    def test_welcome_says_the_limit(self) -> None:
        """The welcome tells what a client may send, and the server takes just that."""
        client = self.client()
        self.assertEqual(client.welcome["maxMessageSize"], 1_000_000)
        text = json.dumps({"type": "ping", "x": ""})
        client.send(text.replace('""', '"' + "x" * (1_000_000 - len(text)) + '"'))
        self.assertEqual(client.receive()["type"], "pong")
        client.send("x" * 1_000_001)
        self.assertEqual(client.closed()[0], 1009)


class DemoTests(OdinTestCase):
    """--demo, where this machine needs no token."""

    options = ("--demo",)

    def test_open_to_loopback(self) -> None:
        """A request from this machine is taken without a token, but not from a foreign page."""
        path = f"/publish?subject={SUBJECT}"
        self.assertEqual(self.odin.request("POST", path, b"{}").status, 202)
        for origin in ("https://evil.example", "null"):
            self.assertEqual(self.odin.request("POST", path, b"{}", Origin=origin).status, 403)

    def test_rebinding(self) -> None:
        """A page whose name means this machine, too, is no page of this machine (DNS rebinding)."""
        path, port = f"/publish?subject={SUBJECT}", self.odin.port
        for host, status, opened in (
            ("evil.example", 403, 403), ("myhost", 403, 403),
            ("localhost", 202, 101), ("127.0.0.1", 202, 101),
        ):  # fmt: skip
            origin = f"http://{host}:{port}"
            answer = self.odin.request("POST", path, b"{}", Host=f"{host}:{port}", Origin=origin)
            self.assertEqual(answer.status, status, host)
            head = HANDSHAKE.replace("{host}", f"{host}:{port}")
            wire = self.wire()
            wire.send(f"{head}Origin: {origin}\r\n\r\n")
            self.assertEqual(wire.response().status, opened, host)
        # no browser, by whatever name
        self.assertEqual(self.odin.request("POST", path, b"{}", Host="myhost").status, 202)

    def test_bad_token_is_no_token(self) -> None:
        """A token that is sent must be good."""
        response = self.odin.request(
            "POST", f"/publish?subject={SUBJECT}", b"{}", Authorization="Bearer nonsense"
        )
        self.assertEqual(response.status, 401)

    def test_market(self) -> None:
        """The demo sends every kind of message, each with type, timestamp and a nonce."""
        client = self.client()
        wanted = {"priceUpdate", "volumeUpdate", "batchUpdate", "tradeExecuted", "marketStats"}
        nonces = []
        for _ in range(1000):
            message = client.receive()
            self.assertIsInstance(message["timestamp"], int)
            nonces.append(message["nonce"])
            wanted.discard(message["type"])
            if not wanted:
                break
        self.assertEqual((wanted, len(set(nonces))), (set(), len(nonces)))

    def test_memory_bus_is_chosen(self) -> None:
        """The demo, an empty NATS_URL and memory:// all use the in-process bus."""
        for odin in (self.odin, self.start("--log-format=json", NATS_URL=""), self.start(*MEMORY)):
            self.assertEqual(odin.get("/stats").json()["nats"]["bus"], "memory")
