"""Listening sockets, and what systemd gives and hears (odin.process.listeners, .systemd)."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile

from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.config import Config, Delivery, Server
from odin.place import own_sockets
from odin.process.listeners import again, listen, name_of, settle, stop_arrivals
from odin.process.systemd import (
    RELOADING,
    Announcer,
    Watchdog,
    notify,
    watchdog_interval_s,
)

LOOPBACK = "127.0.0.1"

# A service that is started as systemd does it: its sockets are the descriptors from 3 on.
ACTIVATED = """
import fcntl, json, os, sys
told, *sockets = json.loads(sys.argv[1])
high = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in sockets]
for place, each in enumerate(high, 3):
    os.dup2(each, place, inheritable=True)
told = {name: value.replace("mine", str(os.getpid())) for name, value in told.items()}
os.execve(sys.executable, [sys.executable, "-c", sys.argv[2]], os.environ | told)
"""
SERVICE = """
import json, os
from odin.process.systemd import inherited_sockets
print(json.dumps([
    (each.fileno(), each.getsockname(), each.getblocking(), each.get_inheritable())
    for each in inherited_sockets()
] + [name for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES") if name in os.environ]))
"""


class ListenersTestCase(SynchronousTestCase):
    def listen(self, **options):
        return self.closing(listen(LOOPBACK, 0, **options))

    def closing(self, sock):
        self.addCleanup(sock.close)
        return sock

    def client(self, listener):
        """A connection that is begun, and whether it stands; on loopback that is so at once."""
        sock = self.closing(socket.socket())
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        return sock, bool(select.select((), (sock,), (), 0)[1])


class ListenersTests(ListenersTestCase):
    def test_shared(self):
        """Shared sockets listen at one port, and connections go to each of them."""
        first = self.listen(shared=True)
        second = self.closing(again(first, 0))
        self.assertEqual(name_of(first), name_of(second))
        for _ in range(64):
            self.client(first)
        counts = []
        for sock in (first, second):
            counts.append(0)
            while select.select((sock,), (), (), 0)[0]:
                self.closing(sock.accept()[0])
                counts[-1] += 1
        self.assertEqual(sum(counts), 64)
        self.assertNotIn(0, counts)

    def test_taken(self):
        """A port that is not shared is taken, for everybody; nothing is left open."""
        alone, shared = self.listen(), self.listen(shared=True)
        before = os.listdir("/proc/self/fd")
        for sock, options in ((alone, {}), (alone, {"shared": True}), (shared, {})):
            _, port = name_of(sock)
            error = self.assertRaises(CannotListenError, listen, LOOPBACK, port, **options)
            self.assertEqual((error.interface, error.port), (LOOPBACK, port))
        self.assertRaises(CannotListenError, again, alone, 0)
        self.assertRaises(CannotListenError, listen, "192.0.2.1", 0)  # RFC 5737: nobody's
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_options(self):
        """Connections inherit what is set on the listener; accepting waits for nobody."""
        for sock in (self.listen(send_buffer=30_000), self.listen()):
            self.assertRaises(BlockingIOError, sock.accept)
        listener = self.listen(send_buffer=30_000)
        self.client(listener)
        accepted = self.closing(listener.accept()[0])
        self.assertEqual(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 60_000)
        self.assertEqual(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)

    def test_unix(self):
        """A UNIX socket has a path for its name, and none of the options of TCP."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        sock = self.closing(socket.socket(socket.AF_UNIX))
        sock.bind(f"{folder}/s")
        settle(sock, 30_000)
        self.assertEqual(name_of(sock), (f"{folder}/s", 0))

    def test_stop_arrivals(self):
        """Who waits to be accepted is, and can talk; nobody else comes in."""
        listener = self.listen()
        (first, stood), (second, _) = self.client(listener), self.client(listener)
        self.assertTrue(stood)
        first.send(b"before ")
        stop_arrivals(listener)
        self.assertFalse(self.client(listener)[1])
        first.send(b"after")
        for client in (first, second):
            accepted = self.closing(listener.accept()[0])
            self.assertEqual(accepted.getpeername(), client.getsockname())
            accepted.send(b"hello")
            self.assertEqual(client.recv(99), b"hello")
            if client is first:
                self.assertEqual(accepted.recv(99), b"before after")
        self.assertRaises(BlockingIOError, listener.accept)

    def test_stop_arrivals_elsewhere(self):
        """It holds for all who have the socket, and does nothing to one that is closed."""
        listener = self.listen()
        stop_arrivals(self.closing(listener.dup()))
        self.assertFalse(self.client(listener)[1])
        listener.close()
        stop_arrivals(listener)

    def test_own_sockets(self):
        """Without systemd one socket as configured."""
        config = Config(
            server=Server(host=LOOPBACK, port=0), delivery=Delivery(send_buffer_bytes=40_000)
        )
        (sock,), kept = own_sockets(config)
        self.closing(sock)
        self.assertEqual((name_of(sock)[0], kept), (LOOPBACK, False))
        self.assertEqual(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 80_000)
        self.assertRaises(CannotListenError, again, sock, 0)
        (sock,), _ = own_sockets(config, shared=True)
        self.closing(sock)
        self.closing(again(sock, 0))


class SystemdTestCase(SynchronousTestCase):
    """Somebody who listens as systemd does."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def systemd(self, address):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind(address)
        sock.setblocking(False)
        return sock

    def heard(self, sock):
        found = []
        while select.select((sock,), (), (), 0)[0]:
            found.append(sock.recv(4096).decode())
        return found

    def setenv(self, **variables):
        """Variables of this process, until the test is over."""
        for name, value in variables.items():
            old = os.environ.get(name)
            os.environ[name] = value
            if old is None:
                self.addCleanup(os.environ.pop, name, None)
            else:
                self.addCleanup(os.environ.__setitem__, name, old)


class NotifyTests(SystemdTestCase):
    def test_told(self):
        """States go in one datagram, to a path or to an abstract address."""
        name = f"odin-test-{os.getpid()}"
        for address, variable in (
            (f"{self.folder}/n", f"{self.folder}/n"), (f"\0{name}", f"@{name}"),
        ):  # fmt: skip
            sock = self.systemd(address)
            where = {"NOTIFY_SOCKET": variable}
            self.assertTrue(notify("READY=1", environment=where))
            self.assertTrue(notify("STOPPING=1", "STATUS=bye", environment=where))
            self.assertEqual(self.heard(sock), ["READY=1", "STOPPING=1\nSTATUS=bye"])

    def test_reloading(self):
        """RELOADING=1 comes with the time, as sd_notify(3) asks for."""
        sock = self.systemd(f"{self.folder}/n")
        notify(RELOADING, environment={"NOTIFY_SOCKET": f"{self.folder}/n"})
        (text,) = self.heard(sock)
        self.assertRegex(text, r"\ARELOADING=1\nMONOTONIC_USEC=[0-9]+\Z")

    def test_nobody(self):
        """Without systemd, or with one that is gone, nothing happens."""
        for variable in (None, "", f"{self.folder}/none", "@odin-none", "/x" * 100, "vsock:2:1"):
            where = {} if variable is None else {"NOTIFY_SOCKET": variable}
            self.assertFalse(notify("READY=1", environment=where), variable)

    def test_announced(self):
        """The service says that it is ready, and that it stops."""
        sock, announcer = self.systemd(f"{self.folder}/n"), Announcer()
        self.setenv(NOTIFY_SOCKET=f"{self.folder}/n")
        announcer.startService()
        self.assertEqual(self.heard(sock), ["READY=1"])
        announcer.stopService()
        self.assertEqual(self.heard(sock), ["STOPPING=1"])


class InheritedTests(SystemdTestCase):
    def found(self, socks, **told):
        """What a service says that gets these sockets, and is told so."""
        numbers = [each.fileno() for each in socks]
        ran = subprocess.run(
            [sys.executable, "-c", ACTIVATED, json.dumps([told, *numbers]), SERVICE],
            pass_fds=numbers, stdout=subprocess.PIPE, check=True, timeout=30,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        return json.loads(ran.stdout)

    def test_activated(self):
        """The sockets are taken from 3 on, and the programs that we start hear nothing of them."""
        socks = [listen(LOOPBACK, 0), self.systemd(f"{self.folder}/n")]
        self.addCleanup(socks[0].close)
        found = self.found(socks, LISTEN_PID="mine", LISTEN_FDS="2", LISTEN_FDNAMES="a:b")
        tcp, unix = list(socks[0].getsockname()), f"{self.folder}/n"
        self.assertEqual(found, [[3, tcp, False, False], [4, unix, False, False]])
        nameless = self.found(socks, LISTEN_PID="mine", LISTEN_FDS="2")
        self.assertEqual(nameless, found)

    def test_not_for_us(self):
        """Absent, for another process, or not to be understood: none."""
        socks = [self.systemd(f"{self.folder}/n")]
        for pid, count in (("1", "1"), ("mine", "0"), ("mine", "many")):
            found = self.found(socks, LISTEN_PID=pid, LISTEN_FDS=count, LISTEN_FDNAMES="a")
            self.assertEqual([each for each in found if isinstance(each, list)], [], (pid, count))
        self.assertEqual(self.found(socks), [])


class WatchdogTests(SystemdTestCase):
    def test_interval(self):
        """(WATCHDOG_USEC, WATCHDOG_PID) -> half of it in seconds, if it is for us"""
        mine, other = str(os.getpid()), str(os.getppid())
        for allowed, owner, interval in (
            ("30000000", None, 15.0), ("30000000", mine, 15.0), ("1", mine, 5e-7),
            ("30000000", other, None), ("0", mine, None), ("", mine, None), (None, None, None),
            ("soon", None, None),
        ):  # fmt: skip
            given = {"WATCHDOG_USEC": allowed, "WATCHDOG_PID": owner}
            given = {name: value for name, value in given.items() if value is not None}
            self.assertEqual(watchdog_interval_s(given), interval, given)

    def test_pings(self):
        """Twice in the time allowed, from the start to the end, but only while all is well."""
        sock, clock, well = self.systemd(f"{self.folder}/n"), Clock(), [True]
        self.setenv(NOTIFY_SOCKET=f"{self.folder}/n", WATCHDOG_USEC="20000000")
        self.setenv(WATCHDOG_PID=str(os.getpid()))
        watchdog = Watchdog(clock, lambda: well[0])
        self.assertEqual(self.heard(sock), [])
        watchdog.startService()
        self.assertEqual(self.heard(sock), ["WATCHDOG=1"])
        for is_well, step_s, pings in (
            (True, 9.0, 0), (True, 1.0, 1), (True, 10.0, 1), (False, 10.0, 0), (False, 10.0, 0),
            (True, 9.0, 0), (True, 1.0, 1),
        ):  # fmt: skip
            well[0] = is_well
            clock.advance(step_s)
            self.assertEqual(self.heard(sock), ["WATCHDOG=1"] * pings)
        watchdog.stopService()
        clock.advance(100)
        self.assertEqual((self.heard(sock), clock.getDelayedCalls()), ([], []))

    def test_stood_still(self):
        """When this process stood still itself it has not heard yet that others are well."""
        sock, clock = self.systemd(f"{self.folder}/n"), Clock()
        self.setenv(NOTIFY_SOCKET=f"{self.folder}/n", WATCHDOG_USEC="20000000")
        self.setenv(WATCHDOG_PID=str(os.getpid()))
        watchdog = Watchdog(clock, lambda: False)
        watchdog.startService()
        for step_s, pings in ((10.0, 0), (19.0, 1), (1.0, 0), (10.0, 0)):
            clock.advance(step_s)
            self.assertEqual(self.heard(sock), ["WATCHDOG=1"] * pings)
        watchdog.stopService()

    def test_none(self):
        """Where nobody watches there is nothing to do."""
        self.setenv(WATCHDOG_USEC="", WATCHDOG_PID="")
        clock = Clock()
        watchdog = Watchdog(clock, lambda: True)
        watchdog.startService()
        self.assertEqual(clock.getDelayedCalls(), [])
        watchdog.stopService()
