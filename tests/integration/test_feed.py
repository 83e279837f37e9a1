"""Feed messages: who gets which, how they look, and each only once."""

import json

from tests.integration.harness import OdinTestCase, eventually


class FeedTests(OdinTestCase):
    """One server, the in-process bus."""

    def subjects_of(self, path: str, *published: str, subscribe: tuple[str, ...] = ()) -> list[str]:
        """The channels of what a client gets while `published` and then an end mark go out."""
        client = self.client(path)
        if subscribe:
            client.subscribe(*subscribe)
        for subject in (*published, "end.of.test"):
            self.assertEqual(self.odin.publish(subject, {}).status, 202)
        client.send({"type": "ping"})
        messages = client.until(lambda message: message.get("type") == "pong")
        return [each["channel"] for each in messages[:-1]]

    def test_default_broadcast(self) -> None:
        """A client that never subscribes gets everything."""
        subjects = ["odin.token.BTC.price", "anything", "odin.trades.X"]
        self.assertEqual(self.subjects_of("/ws", *subjects), [*subjects, "end.of.test"])

    def test_subscribe_replaces_the_broadcast(self) -> None:
        """From its first subscribe on a client gets only that."""
        got = self.subjects_of("/ws", "a.b", "c.d", "a.b", subscribe=("a.b",))
        self.assertEqual(got, ["a.b", "a.b"])

    def test_patterns(self) -> None:
        """`*` is one token, `>` the rest, and both take what NATS takes."""
        subjects = [
            "odin",
            "odin.token.BTC.price",
            "odin.token.BTC",
            "odin.token.BTC.price.x",
            "x.token.BTC.price",
        ]
        cases = {
            "odin.token.BTC.price": [1],
            "odin.token.*.price": [1],
            "odin.*.*.price": [1],
            "odin.token.*": [2],
            "*": [0],
            "*.token.*.*": [1, 4],
            "odin.>": [1, 2, 3],
            "odin.token.BTC.>": [1, 3],
            "*.token.>": [1, 2, 3, 4],
            ">": [0, 1, 2, 3, 4],
            "odin.token.btc.price": [],
        }
        for pattern, indexes in cases.items():
            got = self.subjects_of("/ws", *subjects, subscribe=(pattern,))
            expected = [subjects[each] for each in indexes]
            self.assertEqual([each for each in got if each != "end.of.test"], expected, pattern)

    def test_overlapping_patterns(self) -> None:
        """A message reaches a client once, however many of its patterns match."""
        patterns = ("a.b.c", "a.*.c", "a.>", ">", "*.*.*", "a.b.*")
        self.assertEqual(self.subjects_of("/ws", "a.b.c", subscribe=patterns).count("a.b.c"), 1)

    def test_channels_in_the_url(self) -> None:
        """?channels=a,b subscribes at connect."""
        got = self.subjects_of("/ws?channels=a.*,b&channels=c", "a.x", "b", "c", "d", "a.x.y")
        self.assertEqual(got, ["a.x", "b", "c"])

    def test_no_channels_in_the_url(self) -> None:
        """?channels= is a list without channels, and not everything."""
        client = self.client("/ws?channels=")
        self.odin.publish("a.b", {})
        self.assertEqual(client.ask({"type": "subscriptions"})["channels"], [])
        self.assertEqual(client.subscribe("c")["count"], 1)

    def test_nothing_in_between(self) -> None:
        """What is published right after the ack arrives, what was before does not."""
        client = self.client("/ws?channels=nothing")
        for n in range(20):
            self.odin.publish("a.b", {"n": n, "before": True})
            offset = client.subscribe("a.b")["offset"]
            self.odin.publish("a.b", {"n": n, "before": False})
            message = client.receive()
            self.assertEqual((message["n"], message["before"]), (n, False))
            self.assertEqual(message["offset"], offset + 1)
            client.ask({"type": "unsubscribe", "data": {"channels": ["a.b"]}})

    def test_channel_and_offset_in_front(self) -> None:
        """Channel and offset come first; the publisher's bytes follow untouched."""
        client = self.client()
        payloads = [
            b'{"type":"priceUpdate","tokenId":"BTC","price":64000.10}',
            b'{ "b" : 1.0e+2,\t"a": [ 1 , 2 ], "u": "\\u00e9\xc3\xa9\\/" , "a": 2 }',
            b'{"big":123456789012345678901234567890,"f":0.10,"deep":{"x":[{}]}}',
            b"{}",
            b'\n {"x":1} \n',
        ]
        for payload in payloads:
            self.odin.publish("odin.token.BTC.price", payload)
            text = client.receive_text()
            offset = json.loads(text)["offset"]
            members = payload.decode().strip()[1:]
            head = f'{{"channel":"odin.token.BTC.price","offset":{offset}'
            self.assertEqual(text, head + (members if members == "}" else "," + members))

    def test_offsets_increase(self) -> None:
        """Offsets grow by one, across channels, and all clients see the same."""
        clients = [
            self.client(),
            self.client("/ws?channels=%3E"),
            self.client("/ws?channels=a,b,c"),
        ]
        for n in range(30):
            self.odin.publish("abc"[n % 3], {"n": n})
        seen = [[client.receive()["offset"] for _ in range(30)] for client in clients]
        first = seen[0][0]
        self.assertEqual(seen, [list(range(first, first + 30))] * 3)
        self.assertEqual(self.client().welcome["offset"], first + 29)

    def test_no_object(self) -> None:
        """A payload that is JSON but no object comes as `data`."""
        client = self.client()
        for value in ([1, 2], "text é", 17, -0.5, True, None, [], ""):
            self.odin.publish("a.b", value)
            message = client.receive()
            self.assertEqual(set(message), {"channel", "offset", "data"})
            self.assertEqual(message["data"], value)

    def test_duplicate_nonces(self) -> None:
        """A nonce passes once on each channel; texts and numbers are different nonces."""
        client = self.client()
        nonces = ["n1", "n1", 1, "1", 1, "", "", None, None, "n1", "x" * 5000, "x" * 5000]
        for n, nonce in enumerate(nonces):
            self.odin.publish(f"dup.{n % 2}", {"n": n, "nonce": nonce})
        self.odin.publish("dup.end", {"n": -1})
        messages = client.until(lambda message: message["n"] == -1)
        self.assertEqual([each["n"] for each in messages], [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, -1])

    def test_groups_end_with_their_clients(self) -> None:
        """Subscriptions leave nothing behind when the clients are gone."""
        eventually(lambda: self.odin.clients() == 0, "an empty server")
        clients = [self.client(f"/ws?channels=x.{n},y.*.{n},z.>") for n in range(20)]
        self.assertEqual(self.odin.get("/stats").json()["hub"]["groups"], 20)
        for client in clients:
            client.close()
        eventually(lambda: self.odin.clients() == 0, "an empty server")
        self.odin.publish("x.1", {})
        hub = self.odin.get("/stats").json()["hub"]
        self.assertEqual((hub["groups"], hub["sessions"]), (0, 0))
