"""The page at /, in a real browser."""

import json
import os
import re
import shutil
import signal
from typing import Any
from urllib.request import urlopen

from twisted.trial.unittest import SkipTest
from websockets.sync.client import connect

from tests.integration.clients import PATIENCE_S
from tests.integration.harness import Odin, OdinTestCase, Process, eventually

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip


class Browser:
    """A headless Chromium with one page, driven by the DevTools protocol."""

    def __init__(self, url: str, profile: str) -> None:
        program = shutil.which("chromium")
        if program is None:
            raise SkipTest("chromium is not installed")
        arguments = [program, *_FLAGS, f"--user-data-dir={profile}", url]
        self._process = Process(arguments, family=True)
        host = self._process.says(r"DevTools listening on ws://([\d.]+:\d+)/")[1]
        address = eventually(lambda: self._page(host, url), "the page in the list of targets")
        assert address is not None
        self._devtools = connect(address, proxy=None, max_size=None, open_timeout=PATIENCE_S)
        self._number = 0
        loaded = f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        eventually(lambda: self.value(loaded), "the page loaded")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        self._number += 1
        parameters = {"expression": expression, "returnByValue": True}
        request = {"id": self._number, "method": "Runtime.evaluate", "params": parameters}
        self._devtools.send(json.dumps(request))
        while (answer := json.loads(self._devtools.recv(PATIENCE_S))).get("id") != self._number:
            pass
        return answer["result"]["result"].get("value")

    def close(self) -> None:
        self._devtools.close()
        self._process.stop()

    @staticmethod
    def _page(host: str, url: str) -> str | None:
        with urlopen(f"http://{host}/json/list", timeout=PATIENCE_S) as answer:  # loopback
            targets = json.load(answer)
        found = (each for each in targets if each["type"] == "page" and each["url"] == url)
        return next((each["webSocketDebuggerUrl"] for each in found), None)


class PageTests(OdinTestCase):
    """A newcomer opens http://localhost:3002/."""

    def browser(self, odin: Odin) -> Browser:
        browser = Browser(f"http://{odin.host}/", os.path.abspath(self.mktemp()))
        self.addCleanup(browser.close)
        return browser

    def test_live_prices(self) -> None:
        """The page goes live by itself, shows prices and trades, and notices the end."""
        odin = self.start("--demo")
        browser = self.browser(odin)
        eventually(lambda: browser.value("document.body.dataset.state") == "live", "the state live")
        eventually(lambda: browser.value("document.querySelectorAll('#prices tr').length") > 5)
        eventually(lambda: browser.value("document.querySelector('#trades').children.length") > 0)

        def received() -> int:
            text = str(browser.value("document.querySelector('#received').textContent"))
            return int(re.sub(r"\D", "", text) or 0)

        first = eventually(received, "a count of messages")
        eventually(lambda: received() > first, "more messages")
        prices = "document.querySelector('#prices').textContent"
        eventually(lambda: "BTC" in browser.value(prices), "a price of BTC")
        self.assertEqual(odin.clients(), 1)
        odin.signal(signal.SIGTERM)
        self.assertEqual(odin.wait(), 0)
        eventually(lambda: browser.value("document.body.dataset.state") != "live", "the end seen")
        port = odin.port
        again = self.start("--demo", "--port", str(port))
        self.assertEqual(again.port, port)
        eventually(lambda: browser.value("document.body.dataset.state") == "live", "live again")

    def test_foreign_page(self) -> None:
        """A page of another site cannot connect."""
        odin = self.start("--demo", ODIN_ENV="production")
        other = self.start("--demo")
        browser = self.browser(other)
        eventually(lambda: browser.value("document.body.dataset.state") == "live", "the state live")
        script = f"""
            window.outcome = "";
            const foreign = new WebSocket("ws://{odin.host}/ws");
            foreign.onopen = () => window.outcome = "open";
            foreign.onerror = () => window.outcome = "error";
        """
        browser.value(script)
        self.assertEqual(eventually(lambda: browser.value("window.outcome")), "error")
        rejected = 'odin_connections_rejected_total{reason="origin"}'
        self.assertGreaterEqual(odin.metric(rejected), 1)
