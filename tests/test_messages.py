"""Requests decoded, replies and feed messages encoded."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.errors import BadRequest, NotJSON, UnknownType
from odin.wire import messages as m
from odin.wire.codes import CloseCode, close_reason
from odin.wire.frames import text_frame


class RequestTests(SynchronousTestCase):
    def test_shapes(self):
        """Each request of the protocol is decoded, unknown members ignored."""
        for text, expected in (
            ('{"type":"ping","timestamp":5,"nonce":"n"}', m.Ping(timestamp=5, nonce="n")),
            ('{"timestamp":5.5,"id":"x","type":"ping"}', m.Ping(id="x", timestamp=5.5)),
            ('{"type":"heartbeat","more":[1]}', m.Heartbeat()),
            ('{"type":"subscriptions","id":7}', m.Subscriptions(id=7)),
            (
                '{"type":"subscribe","data":{"channels":["a"],"snapshot":true}}',
                m.Subscribe(data=m.Wanted(["a"], snapshot=True)),
            ),
            (
                '{"type":"subscribe","data":{"channels":[],"recover":{"epoch":"e","offset":5}}}',
                m.Subscribe(data=m.Wanted([], recover=m.Position("e", 5))),
            ),
            ('{"type":"auth","token":"t"}', m.Auth(token="t")),
        ):
            self.assertEqual(m.decode_request(text.encode()), expected)

    def test_publish_keeps_bytes(self):
        """The data of a publish is what the client wrote, byte for byte."""
        request = m.decode_request(b'{"type":"publish","channel":"a","data":{"x" : 1.10}}')
        self.assertEqual(bytes(request.data), b'{"x" : 1.10}')

    def test_not_json(self):
        """FAULTS row 21: one error, never an exception of another kind."""
        for text in (
            b"", b"{", b"[1]", b"5", b'"x"', b"null", b"\xef\xbb\xbf{}", b'{"a":NaN}',
            b'{"a":Infinity}', b'{"type":"ping"} x', b'{"a":' * 50_000, b'{"a":"\\ud800"}',
            b"[" * 100_000, b'{"type":"ping","id":01}', b"\x00",
        ):  # fmt: skip
            self.assertRaises(NotJSON, m.decode_request, text)

    def test_no_request(self):
        """What is JSON but no request says why, with the id where there is one."""
        for text, kind, request_id in (
            (b"{}", BadRequest, None),
            (b'{"type":5,"id":1}', BadRequest, 1),
            (b'{"type":"nope","id":"x"}', UnknownType, "x"),
            (b'{"type":"subscribe","id":2}', BadRequest, 2),
            (b'{"type":"subscribe","data":{"channels":"a"}}', BadRequest, None),
            (b'{"type":"ping","id":"%b"}' % (b"x" * 37), BadRequest, None),
            (b'{"type":"ping","timestamp":' + b"9" * 5000 + b"}", BadRequest, None),
            (b'{"type":"ping","id":true}', BadRequest, None),
            (b'{"type":"ping","id":%b}' % (b"9" * 4301), BadRequest, None),
            (b'{"type":"ping","id":9223372036854775808}', BadRequest, None),
            (b'{"type":"nope","id":-9223372036854775809}', UnknownType, None),
            (b'{"type":%b,"id":4}' % (b"9" * 5000), BadRequest, 4),
            (b'{"type":"subscribe","id":1e999}', BadRequest, None),
            (b'{"type":"subscribe","id":{"a":[]}}', BadRequest, None),
            (b'{"type":"ping","nonce":"%b"}' % (b"n" * 60_000), BadRequest, None),
        ):
            error = self.assertRaises(kind, m.decode_request, text)
            self.assertEqual((error.request_id, isinstance(error, NotJSON)), (request_id, False))
            self.assertLess(len(str(error)), 250)

    def test_the_last_of_duplicate_keys_counts(self):
        """As in every JSON parser of a browser."""
        self.assertEqual(m.decode_request(b'{"type":"ping","id":1,"id":2}').id, 2)


class ReplyTests(SynchronousTestCase):
    def test_id_only_when_given(self):
        """A reply to a request without an id has none."""
        self.assertEqual(json.loads(m.encode(m.PublishAck())), {"type": "publish_ack"})
        error = m.Error(id=0, code="c", message="m", retryAfterMs=5)
        expected = {"type": "error", "id": 0, "code": "c", "message": "m", "retryAfterMs": 5}
        self.assertEqual(json.loads(m.encode(error)), expected)


class FeedTests(SynchronousTestCase):
    def message(self, payload):
        nonce, members, is_object = m.read_payload(payload)
        return nonce, m.feed_message(m.feed_prefix("a.b"), 7, members, is_object)

    def test_splicing(self):
        """Channel and offset in front, the publisher's bytes as they came."""
        for payload, nonce, expected in (
            (
                b'{"x" : 1.10,"nonce":"n"}',
                "n",
                b'{"channel":"a.b","offset":7,"x" : 1.10,"nonce":"n"}',
            ),
            (b' {"a":1}\n', None, b'{"channel":"a.b","offset":7,"a":1}'),
            (b"{}", None, b'{"channel":"a.b","offset":7}'),
            (b"{ }", None, b'{"channel":"a.b","offset":7}'),
            (b"[1, 2]", None, b'{"channel":"a.b","offset":7,"data":[1, 2]}'),
            (b'"\xc3\xa9"', None, b'{"channel":"a.b","offset":7,"data":"\xc3\xa9"}'),
            (b'{"nonce":12}', 12, b'{"channel":"a.b","offset":7,"nonce":12}'),
            (b'{"nonce":[1]}', None, b'{"channel":"a.b","offset":7,"nonce":[1]}'),
            (b'{ "nonce":1e400}', None, b'{"channel":"a.b","offset":7, "nonce":1e400}'),
            (b'{"nonce":""}', None, b'{"channel":"a.b","offset":7,"nonce":""}'),
        ):
            self.assertEqual(self.message(payload), (nonce, expected))
            json.loads(expected)

    def test_only_a_string_or_an_integer_is_a_nonce(self):
        """Other values are no nonce: two messages with `nonce: true` are no duplicates."""
        for value, nonce in (
            (b'"n"', "n"), (b"1", 1), (b"0", 0), (b"-1", -1), (b'"true"', "true"),
            (b"9007199254740993", 9007199254740993),
            (b"true", None), (b"false", None), (b"null", None), (b"1.0", None), (b"1e0", None),
            (b'""', None), (b"{}", None), (b"[1]", None),
        ):  # fmt: skip
            got, _, is_object = m.read_payload(b'{"nonce":%b}' % value)
            self.assertEqual((got, type(got), is_object), (nonce, type(nonce), True), value)

    def test_refused(self):
        """What is not JSON in UTF-8 is no message, however deep or odd."""
        for payload in (
            b"", b"x", b"{", b'{"a":"\xff"}', b'{"\xff":1}', b'{"a":NaN}', b"[" * 10**5,
            b"[NaN]", b"[1,2", b"5 x", b'[1],"b":2', b"1}", b'{"nonce":' + b"9" * 40,
        ):  # fmt: skip
            self.assertRaises(NotJSON, m.read_payload, payload)

    def test_members_of_the_server(self):
        """A publisher's channel, offset and snapshot go, however spelled; the others stay."""
        for payload, nonce, members in (
            (b'{"channel":"x","a":1}', None, b'"a":1'),
            (b'{"a": 1.10, "offset" : {"b":[2]}}', None, b'"a":1.10'),
            (b'{"snapshot":true,"nonce":"n"}', "n", b'"nonce":"n"'),
            (b'{"nonce":7,"snapshot":null}', 7, b'"nonce":7'),
            (b'{"ch\u0061nnel":"x","a":"\u00e9\\/"}', None, b'"a":"\u00e9\\/"'),
            (b'{"\u006fffset":1,"offset":2,"channel":3,"channel":4,"a":{}}', None, b'"a":{}'),
            (b'{"a":1,"offset":1,"a": 2}', None, b'"a":2'),
            (b'{"offset":1,"nonce":1e400}', None, b'"nonce":1e400'),
            (b'{"nonce":[1],"offset":1}', None, b'"nonce":[1]'),
            (b'{"nonce":true,"offset":1}', None, b'"nonce":true'),
            (b'{"nonce":"","offset":1}', None, b'"nonce":""'),
            (b'{"offset":1,"a":{"offset":2,"channel":[]}}', None, b'"a":{"offset":2,"channel":[]}'),
        ):
            expected = b'{"channel":"a.b","offset":7,%b}' % members
            self.assertEqual(self.message(payload), (nonce, expected))
        self.assertEqual(self.message(b'{"offset":1}')[1], b'{"channel":"a.b","offset":7}')
        for untouched in (
            b'{"Channel":1}',
            b'{"a":{"channel":1}}',
            b'{"a":"channel","b":"offset"}',
        ):
            self.assertIs(m.read_payload(untouched)[1], untouched)

    @given(
        st.dictionaries(
            st.sampled_from(("channel", "offset", "snapshot", "nonce", "a", "Offset", "")),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
                lambda each: st.lists(each) | st.dictionaries(st.just("channel"), each),
                max_leaves=5,
            ),
        ),
        st.data(),
    )
    def test_whatever_is_published(self, members, data):
        """Readers see our channel and offset, no snapshot, and the publisher's other members."""
        text = json.dumps(members, ensure_ascii=data.draw(st.booleans()))
        for name in ("channel", "offset", "snapshot", "a"):
            at = data.draw(st.integers(0, len(name) - 1))
            escaped = f'"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}":'
            text = data.draw(st.sampled_from((text, text.replace(f'"{name}":', escaped))))
        read = json.loads(self.message(text.encode())[1])
        wanted = {name: members[name] for name in members if name not in m._OWN}
        self.assertEqual(read, wanted | {"channel": "a.b", "offset": 7})

    def test_members_of_the_server_in_bad_json(self):
        """They do not make anything JSON that is none."""
        for payload in (
            b'{"channel":1', b'{"offset":1}x', b'{"offset":NaN}', b'{"offset":1,"a":\xff}',
            b'{"channel":1,"a":}', b'{"snapshot":tru}', b'{"a":"\xff","offset":1}',
            b'{"nonce":%b,"offset":1}' % (b"9" * 4301), b'{"nonce":"\\ud800","offset":1}',
            b'{"offset":1,"nonce":' + b"[" * 3000 + b"]" * 3000 + b"}",
            b'{"offset":1,"a":01}', b'{"offset":"\x01"}', b'{"offset":' + b"[" * 5000,
        ):  # fmt: skip
            self.assertRaises(NotJSON, m.read_payload, payload)

    def test_odd_subject(self):
        """A subject with quotes makes no broken JSON."""
        self.assertEqual(json.loads(m.feed_prefix('a"b') + b"1}"), {"channel": 'a"b', "offset": 1})


class FrameTests(SynchronousTestCase):
    def test_lengths(self):
        """RFC 6455 5.2: the shortest form of each length."""
        for size, head in (
            (0, b"\x81\x00"), (125, b"\x81\x7d"), (126, b"\x81\x7e\x00\x7e"),
            (65_535, b"\x81\x7e\xff\xff"), (65_536, b"\x81\x7f\0\0\0\0\0\1\0\0"),
        ):  # fmt: skip
            self.assertEqual(text_frame(b"x" * size), head + b"x" * size)

    def test_close_reason(self):
        """A reason fits into a close frame, cut between characters."""
        self.assertEqual(close_reason("slow_consumer", "9 bytes"), "slow_consumer: 9 bytes")
        self.assertLessEqual(len(close_reason("x", "é" * 100).encode()), 123)
        self.assertEqual((int(CloseCode.TOO_SLOW), int(CloseCode.RATE_LIMITED)), (4408, 4429))
