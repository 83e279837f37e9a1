"""Certificates and credentials: read strictly, and each fault with its setting and its file."""

import os
import ssl
import subprocess
from pathlib import Path

import nkeys
from twisted.trial.unittest import SynchronousTestCase

from odin import loading
from odin.bus import files
from odin.config import Nats
from odin.errors import BadFile, ConfigError
from tests.accounts import credentials, written
from tests.integration.test_endpoints import certificate


class FilesTestCase(SynchronousTestCase):
    def file(self, text):
        return written(self.mktemp(), text)

    def refused(self, key, path, why, **settings):
        error = self.assertRaises(BadFile, files.check, Nats(**settings))
        self.assertEqual((error.key, error.path), (key, path), settings)
        self.assertIn(why, error.why)
        environment = {f"NATS_{name.upper()}": value for name, value in settings.items()}
        refusal = self.assertRaises(ConfigError, loading.load, environment=environment)
        for word in (key, path, why, "environment NATS_"):
            self.assertIn(word, str(refusal))
        loading.load(environment=environment, demo=True)  # which needs no file


class TlsFilesTests(FilesTestCase):
    def setUp(self):
        folder = Path(self.mktemp())
        folder.mkdir()
        self.key, self.cert = map(str, certificate(folder))

    def test_good(self):
        """Authorities alone, a certificate with its key beside it or in the same file."""
        both = self.file(Path(self.cert).read_text() + Path(self.key).read_text())
        for settings in (
            {"tls_ca_file": self.cert},
            {"tls_cert_file": self.cert, "tls_key_file": self.key, "tls_ca_file": self.cert},
            {"tls_cert_file": both},
        ):
            self.assertIsInstance(files.tls_context(Nats(**settings)), ssl.SSLContext)
            files.check(Nats(**settings))
        self.assertIsNone(files.tls_context(Nats()))

    def test_bad(self):
        """A file that is missing, is something else, or does not belong to the other one."""
        other = Path(self.mktemp())
        other.mkdir()
        other_key, _ = map(str, certificate(other))
        text, folder, missing = self.file("no PEM"), str(other), "/nowhere/x.pem"
        cert = {"tls_cert_file": self.cert}
        for key, path, why, settings in (
            ("nats.tlsCaFile", missing, "No such file", {"tls_ca_file": missing}),
            ("nats.tlsCaFile", folder, "Is a directory", {"tls_ca_file": folder}),
            ("nats.tlsCaFile", text, "no certificate", {"tls_ca_file": text}),
            ("nats.tlsCaFile", self.key, "no certificate", {"tls_ca_file": self.key}),
            ("nats.tlsCertFile", missing, "No such file", {"tls_cert_file": missing}),
            ("nats.tlsCertFile", text, "no certificate",
             {"tls_cert_file": text, "tls_key_file": self.key}),
            ("nats.tlsCertFile", self.cert, "tlsKeyFile is missing", cert),
            ("nats.tlsKeyFile", missing, "No such file", cert | {"tls_key_file": missing}),
            ("nats.tlsKeyFile", text, "no private key", cert | {"tls_key_file": text}),
            ("nats.tlsKeyFile", other_key, "not the key", cert | {"tls_key_file": other_key}),
            ("nats.tlsKeyFile", self.key, "tlsCertFile", {"tls_key_file": self.key}),
        ):  # fmt: skip
            self.refused(key, path, why, **settings)

    def test_encrypted_key(self):
        """Nobody is asked for a password: the start would hang."""
        locked = self.mktemp()
        subprocess.run(
            ["openssl", "rsa", "-aes128", "-passout", "pass:x", "-in", self.key, "-out", locked],
            check=True,
            capture_output=True,
        )
        settings = {"tls_cert_file": self.cert, "tls_key_file": locked}
        self.refused("nats.tlsKeyFile", locked, "encrypted", **settings)

    def test_unreadable(self):
        """A file of somebody else."""
        if os.geteuid() == 0:
            self.skipTest("root reads everything")
        os.chmod(self.cert, 0)
        self.refused("nats.tlsCaFile", self.cert, "Permission denied", tls_ca_file=self.cert)


class CredentialsTests(FilesTestCase):
    def setUp(self):
        _server, self.creds = credentials()

    def test_good(self):
        """What nats-py finds in it is the token and the seed of the file, CRLF or not."""
        token, seed = (self.creds.splitlines()[at] for at in (1, 8))
        for text in (self.creds, self.creds.replace("\n", "\r\n"), self.creds.rstrip()):
            data = files.Credentials(self.file(text)).data
            self.assertEqual([data.splitlines()[at] for at in (1, 4)], [token, seed])
            files.check(Nats(credentials_file=self.file(text)))

    def test_bad(self):
        """Empty, half, garbage, of an account, damaged, missing."""
        headline = self.creds.index("-----BEGIN USER NKEY SEED")
        seed = self.creds.splitlines()[8]
        account = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT).decode()
        for text, why in (
            ("", "no user JWT"),
            ("garbage\n" * 10, "no user JWT"),
            ("\xff\x00" * 100, "no user JWT"),
            (self.creds[headline:], "no user JWT"),  # nats-py reads this one for ever
            (self.creds[:headline], "no user seed"),
            (self.creds[: headline + 25], "no user seed"),
            (self.creds[: headline + 60], "damaged"),
            (self.creds.replace(seed, seed[:20] + "A" + seed[21:] if seed[20] != "A" else seed[:-1]),
             "damaged"),
            (self.creds.replace(seed, account), "damaged"),
            (self.creds.replace(seed, "not base32 !"), "damaged"),
        ):  # fmt: skip
            path = self.file(text)
            self.refused("nats.credentialsFile", path, why, credentials_file=path)
        self.refused("nats.credentialsFile", "/nope", "No such file", credentials_file="/nope")

    def test_read_anew(self):
        """A file that is exchanged counts from the next connection on."""
        path = self.file(self.creds)
        given = files.Credentials(path)
        self.assertEqual(repr(given), f"Credentials({path!r})")
        before = given.data
        written(path, credentials()[1])
        self.assertNotEqual(given.data, before)
        written(path, "")
        self.assertRaises(BadFile, lambda: given.data)
