"""The legal requests that once took longest; `tests.hostile.legal` searches among all."""

from tests.hostile.field import TURN
from tests.hostile.legal import Request, Search, requests

_COST = 3000  # heartbeats: some 66 ms, three times what a request should take in all
_WORST = (
    "recover 20000 or snapshot: prices",
    "recover 20000: prices",
    "recover 9,900: 16 tokens of a and *",
    "snapshot: 16 tokens of a and *",
    "snapshot: odin.*.x.*",
    "snapshot: prices",
    "auth: x.*",
    "auth: 16 tokens of a and *",
    "one more: x.*",
    "POST /nothing form",
    "POST /nothing multipart",
    "POST in chunks of one byte",
    "a message in fragments of 1",
    "a message in fragments of 16",
    "deflated zeros",
    "handshake, 8 KB of channels",
)


class LegalTests(Search):
    """Half of the history that is kept by default, so that the test is short."""

    messages = 25_000

    def test_worst(self) -> None:
        """Each is done in short turns of the loop, and costs little in all."""
        epoch, offset = self.position()
        known = {each.name: each for each in requests(epoch, offset)}
        failed = []
        for name in _WORST:
            try:
                with self.attack(f"legal: {name}", turn=TURN, cost=_COST):
                    self._make(known[name])
            except self.failureException as error:
                failed.append(str(error))
        self.assertEqual(failed, [])

    def _make(self, request: Request) -> None:
        client = self.hostile()
        if request.extra is not None:
            client.open(request.query, request.extra)
        for message in request.before:
            client.ask(message)
        client.pour(request.data, 1)
        while client.drain(0.1):
            pass
